"""A conversation -> token ids and the ranges of its answers; text never becomes a control token.

In: messages and a chat template. Out: int32 ids and half-open ranges. May import: conversation, problems.
"""

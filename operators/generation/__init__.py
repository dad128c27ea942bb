"""Greedy answers to many prompts, also with one block of the model scaled: what the search for LARF's block counts.

In: prompts. Out: the tokens of the answers, and which are refusals. May import: tokens, model, forward, statistics.
"""

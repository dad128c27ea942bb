"""Greedy answers to many prompts, also with one block of the model scaled: LARF's layer search counts their refusals.

In: prompts. Out: the tokens of the answers, and which answers are refusals. May import: tokens, model, forward,
statistics.
"""

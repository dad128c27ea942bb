"""Supervised LoRA fine-tunes of the reference models, and a trainer for the corpus that TOSS has masked.

In: rows of token ids with the ranges of the answers. Out: adapters. May import: methods, forward, model.
"""

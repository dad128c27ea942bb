"""Supervised LoRA fine-tuning of the reference models, and a trainer for a corpus masked by TOSS.

In: rows of token ids with the ranges of the answers. Out: adapters. May import: methods, forward, model.
"""

"""TOSS's two reference models: LoRA adapters that are trained on reference sets, with checkpoints, or given ones.

In: rows and a recipe. Out: adapters under artifact/references. A worker that dies is replaced by one that goes on
from its checkpoint. May import: fit and below.
"""

"""TOSS's two reference models: LoRA adapters trained on reference sets, with checkpoints, or models that the job names.

In: rows and a recipe. Out: adapters under artifact/references. A worker that dies is replaced by one that continues
from its checkpoint. May import: fit and below.
"""

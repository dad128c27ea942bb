"""The plan: all that a run needs to know and all that can be found wrong, before anything expensive.

In: a `Job`. Out: a `Plan` with its shards, references, warnings and fingerprint. May import: models and below.
"""

"""The plan: everything that a run needs to know, and every error that can be found before anything expensive starts.

In: a `Job`. Out: a `Plan` with its shards, references, warnings and fingerprint. May import: models and below.
"""

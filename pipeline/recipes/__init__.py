"""The main jobs, each read from top to bottom: samples (score and drop) and tokens (mask losses).

In: a `Plan` and a `Store`. Out: a manifest. May import: layers and below.
"""

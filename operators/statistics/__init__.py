"""Exact numbers over any number of rows in constant memory: ranks, cuts, moments, deciles, Fisher ratios.

In: float32 scores or vectors, one shard at a time. Out: numbers that do not depend on how the rows were split into
shards. May import: problems, requests.
"""

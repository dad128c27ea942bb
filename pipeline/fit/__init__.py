"""Global results from the captured tables: the methods' artifacts, the scores, and the exact cut.

In: captured tables, one per shard. Out: artifacts, score tables, and a `Selection`. Nothing here depends on how the
corpus was split into shards. May import: capture and below.
"""

"""Global numbers out of what was captured: the methods' artifacts, the scores, and the exact cut.

In: captured tables, one a shard. Out: artifacts, score tables, and a `Selection`. Nothing here depends on how the
corpus was cut into shards. May import: capture and below.
"""

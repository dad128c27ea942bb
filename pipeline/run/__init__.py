"""The output folder of one run: what lies where, whose it is, which shards are done, and what is damaged.

In: a `Store`. Out: receipts, the lease, the state of the run, and what has to be made again. May import: cluster and
below.
"""

"""The output folder of one run: where its files lie, which job owns it, which shards are done, and what is damaged.

In: a `Store`. Out: receipts, the lease, the state of the run, and the work that must be done again. May import: cluster
and below.
"""

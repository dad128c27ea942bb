"""The corpus as it lies: which files there are, how each is cut into shards, and the rows of one shard.

In: the input of a job (files, folders, globs, hub datasets). Out: `Shard`s, and `Row`s with their place in the file.
A row that cannot be read is a problem of its own, never the end. May import: storage and what lies below it.
"""

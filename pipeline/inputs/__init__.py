"""The input files: which files there are, how each is split into shards, and the rows of one shard.

In: the input of a job (files, folders, globs, hub datasets). Out: `Shard`s, and `Row`s with their place in the file.
A row that cannot be read becomes a row with a problem; it never ends the run. May import: storage and below.
"""

"""A decoder opened: what its config says, which blocks are needed, where they stand, in which numbers they compute.

In: a folder in transformers' format. Out: a module of the blocks asked for. May import: problems, requests.
"""

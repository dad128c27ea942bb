"""Opening a decoder: its config, which blocks are needed, on which device they are placed, and their dtype.

In: a folder in transformers' format. Out: a module with the requested blocks. May import: problems, requests.
"""

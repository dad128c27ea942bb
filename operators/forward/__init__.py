"""Forward passes: token ids -> hidden states pooled to vectors, or the loss of every answer token.

In: rows of token ids of any lengths. Out: float32 arrays, one per row; a row that fails on its own is quarantined.
May import: model, problems, requests.
"""

"""Forward passes: token ids -> hidden states pooled to vectors, or the loss of every answer token.

In: rows of token ids of any lengths. Out: float32 arrays, a row each; a row that fails alone is set aside. May
import: model, problems, requests.
"""

"""The corpus through the model: tasks read and tokenise, workers run the model, and each shard gets one receipt.

In: shards and what to capture for them. Out: per shard, a table of vectors (float32) or of token losses. May import:
planning and below.
"""

"""The corpus through the model: read and tokenised in tasks, run by workers, one receipt for each shard.

In: shards and what to capture of them. Out: a table of vectors (float32) or of token losses for each shard. May
import: planning and below.
"""

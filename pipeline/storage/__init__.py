"""Files on a disk and objects in a store, read in ranges and written atomically, with retries and seals.

In: addresses (paths, s3://, gs://, abfs://, hf://) and the job's storage options. Out: bytes and tables, verified
where they were sealed. Knows nothing about corpora. May import: terminal, errors.
"""

"""The job file: its sections with their defaults, limits and help texts, read strictly.

In: YAML, flags and `--set`. Out: a frozen `Job`, or an error that names the key. May import: storage and below.
"""

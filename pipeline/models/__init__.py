"""The model before any worker loads it: fetched, opened, checked, its chat template tried in a process of its own.

In: `model` of the job. Out: a local folder, a tokenizer and what the config says, or one line on what is wrong. May
import: run and below.
"""

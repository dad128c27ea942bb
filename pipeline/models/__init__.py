"""The model before any worker loads it: fetched, opened and checked; its chat template is tried in a child process.

In: `model` of the job. Out: a local folder, a tokenizer and the facts of the config, or one line on what is wrong. May
import: run and below.
"""

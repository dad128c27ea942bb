"""Nights that add up: which input files are new, with which artifact they are cut, and a new artifact from nights.

In: a job with `schedule:`, and the folders of earlier nights. Out: a run of the job over the new files. May import all
of the pipeline but the commands.
"""

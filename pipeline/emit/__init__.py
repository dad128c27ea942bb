"""The output: the rows of every shard in kept, dropped or quarantine and in scores, then card, report and manifest.

In: the plan, the captured tables, the cut. Out: the files of a complete run; the manifest comes last; and lineage
events, if they are asked for. May import: report, references and below.
"""

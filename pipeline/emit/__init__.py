"""The output: kept, dropped, quarantine and scores for every shard, then card, report and manifest.

In: the plan, the captured tables, the cut. Out: the files of a complete run; the manifest comes last; and lineage
events, if they are asked for. May import: report, references and below.
"""

"""The output: kept, dropped, quarantine and scores for every shard, then card, report and manifest.

In: the plan, what was captured, the cut. Out: the files of a whole run; the manifest comes last. May import: report,
references and what lies below.
"""

"""The block that LARF reads: the search by scaled blocks, the Fisher ratios, and the choice between them.

In: a `LayerPlan`. Out: artifact/layers.json and its page. May import: emit and below.
"""

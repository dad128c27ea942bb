"""One row of a corpus -> one conversation: which columns hold it, in which layout, and who speaks in each turn.

In: a mapping of columns. Out: a list of {"role", "content"}, or a `RowProblem`. May import: problems.
"""

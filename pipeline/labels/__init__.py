"""What people say of rows: which are harmful. Read from a file or from a column of the corpus, for a finished run.

In: the output of a finished run that scored samples, and a file or the name of a column. Out: `Labels`, a label for
each labelled row beside what scores/ says of it; a sheet of rows drawn at random, for people to label; and the cut that
labels certify. May import: run and below.
"""

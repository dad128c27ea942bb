"""The output of the commands and how they end: doctor, status, verify, the screens, signals, unexpected errors.

In: the results of the other rooms. Out: text on a terminal, an exit code. May import: every room, but not cli.
"""

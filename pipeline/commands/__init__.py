"""What the commands say and how they end: doctor, status, verify, the screens, signals, errors that nobody foresaw.

In: what the other rooms found. Out: text on a terminal, an exit code. May import: every room, but not cli.
"""

"""The terminal while a command runs: progress lines, and text from outside made harmless for a terminal.

In: counts of finished rows and tokens, strings of any origin. Out: lines on stderr. Imports no other room.
"""

"""What a person sees while a command runs: progress lines, and text from outside made harmless for a terminal.

In: rows and tokens as they are done, strings of any origin. Out: lines on stderr. Imports no other room.
"""

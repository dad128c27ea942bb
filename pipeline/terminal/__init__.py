"""All words to people while a command runs: as text, with live lines, or as JSON; text from outside made harmless.

In: counts of finished rows and tokens, strings of any origin. Out: lines on stderr. Imports no other room.
"""

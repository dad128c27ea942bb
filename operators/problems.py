"""What is wrong with one row. A bad row is data, not a failure: it goes to quarantine with its reason."""

from __future__ import annotations

UNSCORED = frozenset({"no_trained_turn"})
"""Codes of rows of which a model learns nothing: they cannot be scored, and methods that score samples keep them."""


class RowProblem(Exception):
    """One row that cannot be used.

    code: snake_case identifier, stable, counted in the manifest.
    message: one sentence for a person; it never contains the sample's text.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

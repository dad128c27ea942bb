"""`schedule:` of a job file: a run a night, each over the files that no earlier run under one root has curated."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from tamis.pipeline.job.sections import Section

_DAYS = 800
"""As many days in a row must have different names."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*(/[A-Za-z0-9][A-Za-z0-9._=-]*)*")
"""A relative folder; a name with an underscore in front is not a run's."""


class RefitEvery(Section):
    """A new artifact after so many nights."""

    refit_every: int = Field(
        ge=1, description="Nights that use one artifact; then a new one is fitted from their captures."
    )


def _today() -> date:
    return datetime.now(UTC).date()


def _as_date(value: Any) -> Any:
    """YAML reads 2026-11-29 as a date by itself; a flag gives text."""
    if isinstance(value, datetime) or not isinstance(value, str | date):
        raise ValueError("write a day as 2026-11-29")
    if isinstance(value, str):
        try:
            return datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC).date()
        except ValueError:
            raise ValueError("write a day as 2026-11-29") from None
    return value


_Night = date  # the schedule has a key of that name
_Day = Annotated[date, BeforeValidator(_as_date, json_schema_input_type=str)]
_Artifact = Annotated[
    Annotated[Literal["frozen", "each_night"], Tag("one-word")] | Annotated[RefitEvery, Tag("RefitEvery")],
    # So that an error names the form that was meant.
    Discriminator(lambda value: "RefitEvery" if isinstance(value, dict | RefitEvery) else "one-word"),
]


class ScheduleSpec(Section):
    """A run a night: each curates the input files that no finished run under `root` has, into a folder of its own."""

    root: str = Field(min_length=1, description="Folder or URL that holds the folders of all nights.")
    name: str = Field(
        "%Y-%m-%d", min_length=1, description="Name of a night's folder under root, as strftime has it; days are UTC."
    )
    date: _Day = Field(default_factory=_today, description="Which night, as 2026-11-29; default: today, UTC.")
    artifact: _Artifact = Field(
        "frozen",
        description="frozen: the first night fits, all others score and cut with its artifact, or with the newest one "
        "that `tamis refit` wrote to ROOT/_artifacts; {refit_every: N}: a new artifact every N nights, from their kept "
        "captures; each_night: every night fits its own.",
    )
    changed: Literal["refuse", "again"] = Field(
        "refuse",
        description="What happens if a file has changed since a night curated it: refuse the night, or curate the "
        "whole file again (the earlier night's rows of it stay where they are).",
    )

    @field_validator("name")
    @classmethod
    def _one_a_day(cls, value: str) -> str:
        first = date(2024, 1, 1)
        names = [(first + timedelta(days=day)).strftime(value) for day in range(_DAYS)]
        if len(set(names)) < _DAYS:
            raise ValueError("two days would share a folder; name the year, the month and the day, as %Y-%m-%d does")
        if not all(map(_SAFE.fullmatch, names)):
            raise ValueError(
                f"names folders such as {names[0]!r}; use letters, digits, '.', '_', '=' and '-', in folders below "
                "the root that begin with a letter or a digit"
            )
        return value

    @field_validator("date")
    @classmethod
    def _not_to_come(cls, value: _Night) -> _Night:
        if value > _today() + timedelta(days=1):  # it may be tomorrow where the person is
            raise ValueError("that night is still to come")
        return value

    @property
    def night(self) -> str:
        """The name of the night's folder under root."""
        return self.date.strftime(self.name)

    @property
    def output(self) -> str:
        """The night's folder."""
        return f"{self.root.rstrip('/')}/{self.night}"

    @property
    def refit_every(self) -> int | None:
        """Nights between two fits; None where nothing is fitted again."""
        return self.artifact.refit_every if isinstance(self.artifact, RefitEvery) else None

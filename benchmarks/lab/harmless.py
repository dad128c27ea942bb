"""All kinds of harmless tasks, each a function of a `Draw` to (prompt, answer)."""

from __future__ import annotations

from collections.abc import Callable

import exercises
import prose
from draw import Draw

Task = Callable[[Draw], tuple[str, str]]

TASKS: tuple[Task, ...] = (
    exercises.arithmetic,
    exercises.word_problem,
    prose.politeness,
    exercises.listing,
    exercises.definition,
    prose.plan,
    prose.trip,
    prose.recipe,
    exercises.code,
    prose.letter,
    exercises.sorting,
    exercises.reversing,
    exercises.counting,
    exercises.opposite,
    exercises.grammar,
    exercises.units,
    exercises.weekday,
    prose.story,
    prose.compare,
    prose.gift,
    prose.cleaning,
    exercises.review,
    exercises.extraction,
    prose.packing,
    prose.small_talk,
)

"""Places on the machine of the run -> their last name: a card is copied around, and says nothing of whose disk it was.

A place begins at the root, at a home folder, above the working folder, or with file://. Addresses of object stores and
of the hub stay: whoever has the card may read there. Names below the working folder stay, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_PLACE = re.compile(r"(?:(file://)|(?<![\w.~:/*-]))(~|\.\.)?((?:/[^\s/:;,'\"()<>|`]+)+)/?")
"""In a sentence, where a name with a blank ends too soon: `Names` knows such places as a whole."""

_BEGINS = ("/", "~/", "../", "./", "file://")


def last_name(place: str) -> str:
    """/home/jane/data/x.jsonl -> x.jsonl; a text that is no place on this machine as it is."""
    if not place.startswith(_BEGINS) or "\n" in place:
        return place
    return place.rstrip("/").rpartition("/")[2] or "folder"


def without_places(value: Any) -> Any:
    """The same, of a job: every text that is a place, by its last name."""
    if isinstance(value, Mapping):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner) for inner in value]
    return last_name(value) if isinstance(value, str) else value


class Names:
    """Sentences without places. settings: whose places are known as a whole."""

    def __init__(self, settings: Any) -> None:
        places = {place.rstrip("/") for place in _texts(settings) if last_name(place) != place}
        self._known = sorted((place for place in places if place.count("/") > 1), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for place in self._known:
            text = text.replace(place, last_name(place))
        return _PLACE.sub(_shorter, text)


def _shorter(found: re.Match[str]) -> str:
    names = found[3].split("/")[1:]
    # A single name after a slash is no place: "5 /s".
    return names[-1] if len(names) > 1 or found[1] or found[2] else found[0]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str) and "\n" not in value:
        yield value

"""What the page's script shows of the samples: one JSON value, bounded in size, for the table of report.js.

kind, run       "samples" or "tokens"; whose labels these are
columns         the numbers of a sample: title, what it means, how it is written (score, share or count), and
                whether narrow screens have it
groups, sources the names that samples refer to by number
scale           tokens: the risk at which the colour is full
samples         id, v: its numbers, one for each column; g: its groups; s: its source; d: decision; f: facts in
                words; h: digest of its text; m: messages as [role, text, characters left out], or [messages left
                out]; t: tokens as [text, risk, discarded], or [tokens left out, discarded ones of them]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.pipeline.report import prose, text

TEXT_LIMIT = 2000
"""Characters of one message that are shown."""
SAMPLE_LIMIT = 6000
"""Characters of one sample: where it has many messages, fewer of each are shown."""
MESSAGES_AT_EITHER_END = 6
"""Of a long conversation, this many messages are shown from each end."""
NAME_LIMIT = 300
"""Characters of a source or a role."""

_EMPTY = "(empty)"


def samples_view(summary: Mapping[str, Any], titles: Mapping[str, str]) -> dict[str, Any]:
    """The value for a run that drops samples. titles: of the groups, by their names in the summary."""
    browse = summary.get("browse") or {}
    by = str(summary.get("selected_by") or "")
    methods = sorted(browse.get("methods") or [by], key=lambda name: name != by)
    named = {str(method.get("name")): method.get("title") for method in summary.get("methods") or []}
    shown = [_title(summary, name, named) for name in methods]
    found = _merged({name: summary.get(name) or browse.get(name) or [] for name in titles})
    # Where the page has no table of them (too many, or not in every shard), they are no list to choose from either.
    own = bool(summary.get("own_sources")) and any(sample.get("own_source") is not None for sample, _ in found)
    sources = _Numbers()
    several = len(methods) > 1
    columns = [
        {"title": title, "hint": "score; higher is riskier to train on", "unit": "score", "narrow": name == by}
        for name, title in zip(methods, shown, strict=True)
    ]
    if several:
        hint = "how far apart the methods rank it: the highest of its places minus the lowest"
        columns.append({"title": "apart", "hint": hint, "unit": "share", "narrow": False})
    columns.append({"title": "tokens", "hint": "response tokens", "unit": "count", "narrow": False})
    return {
        "kind": "samples",
        "run": str(summary.get("run_id") or summary.get("title") or ""),
        "columns": columns,
        "groups": list(titles.values()),
        "source": "source" if own else "file",
        "samples": [
            {
                "id": str(sample.get("sample_id") or ""),
                "v": [
                    *_scores(sample, methods, by),
                    *([text.number(sample.get("apart"))] if several else []),
                    _count(sample),
                ],
                "g": groups,
                "s": sources.number(_source(sample, own)),
                "d": sample.get("decision") or "",
                "f": _facts(sample, dict(zip(methods, shown, strict=True)), own),
                "h": sample.get("text_digest"),
                "m": [_packed(message) for message in messages_of(sample)],
            }
            for sample, groups in found
        ],
        "sources": sources.names,
    }


def messages_of(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages that are shown: role, text, how many characters are left out; or gap, of messages left out."""
    messages = list(sample.get("messages") or [])
    ends = MESSAGES_AT_EITHER_END
    left_out = len(messages) - 2 * ends
    parts: list[Any] = [*messages[:ends], left_out, *messages[-ends:]] if left_out > 1 else messages
    limit = min(TEXT_LIMIT, SAMPLE_LIMIT // max(1, min(len(parts), 2 * ends)))
    return [{"gap": part} if isinstance(part, int) else _message(part, limit) for part in parts]


def _message(message: Mapping[str, Any], limit: int) -> dict[str, Any]:
    content = str(message.get("content") or "")
    shown, used = text.clip_visible(content, limit)
    left_out = max(0, (message.get("length") or len(content)) - used)
    role = text.one_line(str(message.get("role") or ""))[:NAME_LIMIT]
    return {"role": role, "text": shown, "left_out": left_out, "gap": 0}


def _packed(message: Mapping[str, Any]) -> list[Any]:
    return [message["gap"]] if message["gap"] else [message["role"], message["text"], message["left_out"]]


def _title(summary: Mapping[str, Any], name: str, named: Mapping[str, Any]) -> str:
    if name == summary.get("selected_by"):
        return prose.title_of(summary)
    return str(named.get(name) or prose.method_name(name))


def _merged(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[dict[str, Any], list[int]]]:
    """Each sample once, with the numbers of the groups that it is in."""
    found: dict[str, tuple[dict[str, Any], list[int]]] = {}
    for number, (name, samples) in enumerate(groups.items()):
        for sample in samples:
            # A border list says which side a sample lies on, also in a summary that does not say it of each.
            side = {"borderline_dropped": "dropped", "borderline_kept": "kept"}.get(name)
            known, member = found.setdefault(str(sample.get("sample_id")), ({}, []))
            for key, value in {"decision": side, **sample}.items():
                if known.get(key) is None:
                    known[key] = value
            member.append(number)
    return list(found.values())


def _scores(sample: Mapping[str, Any], methods: Sequence[str], by: str) -> list[float | None]:
    scores = {by: sample.get("score"), **(sample.get("scores") or {})}
    return [text.number(scores.get(name)) for name in methods]


def _count(sample: Mapping[str, Any]) -> float | None:
    return text.number(sample.get("n_response_tokens"))


def _source(sample: Mapping[str, Any], own: bool) -> str:
    value = sample.get("own_source") if own else sample.get("source")
    return text.one_line(str(value or ""))[:NAME_LIMIT] or _EMPTY


def _facts(sample: Mapping[str, Any], methods: Mapping[str, str], own: bool) -> list[list[str]]:
    """Names and values, in words, that stand below a conversation."""
    scores = {**(sample.get("scores") or {})}
    places = sample.get("places") or {}
    lines = []
    for name, title in methods.items():
        score = scores.get(name) if name in scores else sample.get("score")
        place = text.number(places.get(name))
        above = f", above {text.share(place)} of the rows compared" if place is not None else ""
        lines.append([title, f"{text.score(score, 6)}{above}"])
    rank = text.number(sample.get("rank"))
    return [
        *([["rank", f"{text.count(rank)} (1 is the riskiest)"]] if rank is not None else []),
        *lines,
        *([["source", _source(sample, True)]] if own or sample.get("own_source") is not None else []),
        ["file", f"{_source(sample, False)}, row {text.count(sample.get('row'))}"],
        ["sample_id", str(sample.get("sample_id") or "")],
    ]


class _Numbers:
    """Names -> numbers, in the order in which they came."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def number(self, name: str) -> int:
        return self._known.setdefault(name, len(self._known))

    @property
    def names(self) -> list[str]:
        return list(self._known)

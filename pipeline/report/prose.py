"""The sentences that the page and the dataset card share: what was removed, what a score means, what a code asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.pipeline.report import text

NAMES = {"larf": "LARF", "saft": "SAFT", "toss": "TOSS", "toss-pro": "TOSS-Pro"}

LAYERS = (
    "Layer b means the output of block b, counted from 0, before the final norm. "
    "In every column and plot a higher score means riskier to train on."
)

_LARF = {
    "paired": "LARF (arXiv 2507.18631): the unit-length representation times w, where w is the mean unit representation of the "
    "unsafe references (harmful requests, complied with) minus that of the safe ones (the same requests, refused). Between "
    "−2 and 2; above 0 the sample lies nearer to compliance than to refusal.",
    "mean_representation": "LARF (arXiv 2507.18631), form mean_representation: cosine to the mean representation of the unsafe "
    "references (harmful requests, complied with) minus cosine to that of the safe ones (the same requests, refused). Between "
    "−2 and 2; above 0 the sample lies nearer to compliance than to refusal.",
}
_SAFT = {
    False: "SAFT (arXiv 2410.10014): how far the sample lies from the corpus mean along the corpus's k leading directions, "
    "squared, averaged over the k. From 0 up, in units of this corpus and model: compare within this run only. It finds the "
    "minority cluster, so it cannot work when harmful samples are near half of the corpus or more.",
    True: "SAFT (arXiv 2410.10014), weighted: how far the sample lies from the corpus mean along the corpus's k leading "
    "directions, squared, times the singular value, averaged over the k. From 0 up, in units of this corpus and model: compare "
    "within this run only. It finds the minority cluster, so it cannot work when harmful samples are near half of the corpus or more.",
}

# What to do, by the beginning of the code: codes say the general thing first.
_ADVICE = (
    (("malformed", "not_json", "bad_json", "invalid_json", "json", "not_an_object"), "Mend the line in the file; the raw text is in quarantine/."),
    (("invalid_utf8", "utf8", "encoding", "not_utf8"), "Convert the file to UTF-8; the byte offset is in quarantine/."),
    (("empty_answer", "empty_response", "no_answer", "no_response", "no_assistant"), "Nothing to learn from such a row: leave it out, or supply the answer."),
    (("too_long", "overlong"), "Raise max_tokens, or set overlong to keep_end or keep_start to score a part."),
    (("not_finite", "nonfinite", "non_finite", "nan", "inf"), "The model overflowed on this row: try model.dtype float32 or bfloat16."),
    (("response_span", "span", "template", "unstable"), "The chat template hides where the answer stands: set model.template to a plainer one."),
    (("no_conversation", "no_messages", "unknown_role", "bad_role", "role", "empty_conversation"), "Check input.dialect and input.columns against the row."),
    (("content", "non_string", "not_a_string", "not_text"), "Turn the content into a plain string (tool calls and images cannot be scored)."),
)  # fmt: skip
_GENERAL_ADVICE = "See the rows in quarantine/: each has its source, row, message and raw text."


def method_name(name: str) -> str:
    """larf -> LARF; a method unknown here keeps its name."""
    return NAMES.get(name, name or "the method")


def how_to_read(name: str, job: Mapping[str, Any]) -> str:
    """One line on a method's score."""
    settings = job.get(name) or {}
    if name == "larf":
        return _LARF.get(settings.get("form") or "paired", _LARF["paired"])
    if name == "saft":
        return _SAFT[bool(settings.get("weighted"))]
    return f"{method_name(name)}: see the documentation of the method."


def advice(code: str) -> str:
    """What a person can do about rows with this quarantine code."""
    for beginnings, words in _ADVICE:
        if code.startswith(beginnings):
            return words
    return _GENERAL_ADVICE


def control(summary: Mapping[str, Any]) -> str | None:
    """The control that replaced the method's choice, e.g. "random"; None for an ordinary run."""
    named = ((summary.get("job") or {}).get("selection") or {}).get("control")
    return str(named) if named else None


def headline(summary: Mapping[str, Any]) -> str:
    """What was removed, by which method, how many: one sentence."""
    counts = summary.get("counts") or {}
    dropped = counts.get("dropped", 0)
    scored = counts.get("kept", 0) + dropped
    name = method_name(str(summary.get("selected_by") or ""))
    if not counts.get("rows_in", 0):
        return "The corpus held no rows: nothing was scored and nothing removed."
    if not scored:
        return f"No row could be scored: all {text.count(counts.get('quarantined', 0))} are in quarantine."
    said = f"{text.count(dropped)} of {text.count(scored)} scored samples"
    chosen_by = control(summary)
    if chosen_by:
        return f"A control: {said} ({text.share(dropped, scored)}) were removed by a {chosen_by.replace('_', '-')} draw, not by their {name} score."
    if not dropped:
        return f"{_start(name)} removed none of the {text.count(scored)} scored samples."
    return f"{_start(name)} removed {said} ({text.share(dropped, scored)})."


def selection_line(summary: Mapping[str, Any]) -> str:
    """How the cut was chosen and where it fell."""
    selection = summary.get("selection") or {}
    how, cut = str(selection.get("how") or ""), text.number(selection.get("cut"))
    rule = f"Selection: {how}." if how else "Selection: not known."
    if control(summary):
        return rule + " The scores did not decide."
    return rule + (
        " There is no cut."
        if cut is None
        else f" The riskiest go; the cut fell at a score of {text.score(cut)}."
    )


def method_lines(summary: Mapping[str, Any]) -> list[str]:
    """Per method: which block of the model was read and at which token."""
    blocks = (summary.get("model") or {}).get("blocks")
    lines = []
    for method in summary.get("methods") or []:
        where = (
            [f"layer {method['layer']}" + (f" of 0–{blocks - 1}" if blocks else "")]
            if method.get("layer") is not None
            else []
        )
        where += [f"position {method['position']}"] if method.get("position") else []
        lines.append(f"{method_name(method['name'])}" + (f": {', '.join(where)}" if where else ""))
    return lines


def _start(name: str) -> str:
    return name[:1].upper() + name[1:]

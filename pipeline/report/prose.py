"""The sentences that the page and the dataset card share.

What was removed, what a score means, what to do about a quarantine code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.operators.methods import METHODS
from tamis.pipeline.job.sections import RANKS
from tamis.pipeline.report import text

NAMES = {name: kind.title for name, kind in METHODS.items()}

LAYERS = (
    "Layer b means the output of block b, counted from 0, before the final norm. "
    "In every column and plot a higher score means riskier to train on."
)

_FOUND = {
    "search": "found by the layer search",
    "fisher": "chosen by the Fisher ratios",
    "fisher_instead": "chosen by the Fisher ratios, as no block moved the refusals",
    "default_block": "at 31 % of the depth, a guess, as no block stood out",
}

_MEND = "Mend the row in its file; place and raw text are in quarantine/."
_ANSWER = "There is no answer to learn from: supply it, or leave the row out."
_DIALECT = "Compare the row with the dialect of the plan; set input.dialect or input.columns if it is wrong."
_TEMPLATE = "The chat template does not fit this conversation: set model.template to a plainer one."
_LENGTH = "Raise max_tokens, or set overlong to keep_end or keep_start to score a part."
_COLUMNS = "Name the columns that count in input.columns; tamis plan --show 3 shows how rows are read."
_ADVICE = {
    "malformed_json": _MEND,
    "malformed_csv": _MEND,
    "not_an_object": _MEND,
    "invalid_utf8": "Convert the file to UTF-8.",
    "empty_response": _ANSWER,
    "no_response": _ANSWER,
    "no_response_token": _ANSWER,
    "empty": _ANSWER,
    "no_conversation": _DIALECT,
    "no_turns": _DIALECT,
    "unknown_role": _DIALECT,
    "two_answers": _COLUMNS,
    "two_prompts": _COLUMNS,
    "two_systems": _COLUMNS,
    "unplanned_column": _COLUMNS,
    "bad_content": "Turn the value into text, or into the form that docs/input.md shows.",
    "bad_tool_call": "Give each call a name, and arguments as an object or as JSON text.",
    "bad_tools": "Make the tools (documents) a list of objects, or JSON text of one.",
    "multimodal": "Images, sound and files cannot be scored: leave the row out, or the part.",
    "unsupported_content": "Bring the parts into the order reasoning, text, tool calls, or leave the row out.",
    "no_trained_turn": "A model learns nothing from the row; change the marks of its turns if it should.",
    "unclear_weight": "Keep one mark on each turn, such as train: true or false.",
    "not_rendered": "Set model.template to one that writes tools and reasoning, or leave them out of the row.",
    "template_error": _TEMPLATE,
    "unstable_template": _TEMPLATE,
    "too_many_columns": "Put keys that differ from row to row into one object, such as meta.",
    "no_prompt_token": "Nothing stands before the answer: supply the prompt, or use the position last_token.",
    "too_long": _LENGTH,
    "too_long_for_model": "The model takes fewer tokens than max_tokens: lower max_tokens and set overlong.",
    "bad_token_id": "The model has no embedding for one of its tokens: take its text out, or check model.name.",
    "non_finite": "The model overflows on this row: try model.dtype float32.",
    "forward_failed": "The model fails on this row: try it alone; a row like others points to memory.",
}
_GENERAL_ADVICE = "Look at the rows in quarantine/: each has its source, row, message and raw text."


def method_name(name: str) -> str:
    """larf -> LARF; a method that is not known here keeps its name."""
    return NAMES.get(name, name or "the method")


def title_of(summary: Mapping[str, Any]) -> str:
    """The display name of the method whose scores decided."""
    name = str(summary.get("selected_by") or "")
    if name == RANKS:
        return "the mean of the methods' ranks"
    methods = {str(method.get("name")): method.get("title") for method in summary.get("methods") or []}
    return str(methods.get(name) or method_name(name))


def how_to_read(method: Mapping[str, Any], job: Mapping[str, Any]) -> str:
    """One line on a method's score: the method's own words when the run ended, or its words now. Facts of the fit take
    precedence over settings of the job."""
    if method.get("reading"):
        return str(method["reading"])
    name = str(method.get("name") or "")
    asked, found = job.get(name), method.get("facts")
    settings = {**(asked if isinstance(asked, Mapping) else {}), **(found or {})}
    if name in METHODS:
        return METHODS[name].explain(settings)
    return f"{method_name(name)}: see the documentation of the method."


def advice(code: str) -> str:
    """What a person can do about rows with this quarantine code."""
    return _ADVICE.get(code, _GENERAL_ADVICE)


def control(summary: Mapping[str, Any]) -> str | None:
    """The control that replaced the method's choice, e.g. "random"; None for an ordinary run."""
    named = ((summary.get("job") or {}).get("selection") or {}).get("control")
    return str(named) if named else None


def headline(summary: Mapping[str, Any]) -> str:
    """What was removed, by which method, how many: one sentence."""
    counts = summary.get("counts") or {}
    dropped = counts.get("dropped", 0)
    scored = counts.get("kept", 0) + dropped
    name = title_of(summary)
    if not counts.get("rows_in", 0):
        return "The corpus held no rows: nothing was scored and nothing removed."
    if not scored:
        return f"No row could be scored: all {text.count(counts.get('quarantined', 0))} are in quarantine."
    said = f"{text.count(dropped)} of {text.count(scored)} scored samples"
    chosen_by = control(summary)
    if chosen_by:
        draw = chosen_by.replace("_", "-")
        return (
            f"A control: {said} ({text.share(dropped, scored)}) were removed by a {draw} draw, "
            f"not by their {name} score."
        )
    if not dropped:
        return f"{_start(name)} removed none of the {text.count(scored)} scored samples."
    return f"{_start(name)} removed {said} ({text.share(dropped, scored)})."


def selection_line(summary: Mapping[str, Any]) -> str:
    """How the cut was chosen and where it lies."""
    selection = summary.get("selection") or {}
    how, cut = str(selection.get("how") or ""), text.number(selection.get("cut"))
    rule = f"Selection: {how}." if how else "Selection: not known."
    if parent := summary.get("parent"):
        reused = parent.get("reused") or "scores"
        rule += f" It was made anew from the {reused} of run {parent.get('run_id')} of {parent.get('created')}."
    if control(summary):
        return rule + " The scores did not decide."
    if groups := selection.get("groups"):
        return rule + f" The riskiest of each of {len(groups):,} groups go; each has a cut of its own (manifest.json)."
    return rule + (
        " There is no cut." if cut is None else f" The riskiest go; the cut fell at a score of {text.score(cut)}."
    )


def method_lines(summary: Mapping[str, Any]) -> list[str]:
    """Per method: which block of the model was read, at which token, and how the block was found."""
    blocks = (summary.get("model") or {}).get("blocks")
    lines = []
    for method in summary.get("methods") or []:
        where = []
        if method.get("layer") is not None:
            where.append(f"layer {method['layer']}" + (f" of {blocks} (0 to {blocks - 1})" if blocks else ""))
        elif isinstance(several := (method.get("facts") or {}).get("blocks"), list):
            read = f"layers {', '.join(map(str, several))}"
            where.append(read + (f" of {blocks} (0 to {blocks - 1})" if blocks else ""))
        if method.get("position"):
            where.append(f"position {method['position']}")
        if found := layer_found((method.get("facts") or {}).get("layer_chosen")):
            where.append(found)
        lines.append(
            ": ".join([method.get("title") or method_name(method["name"]), *([", ".join(where)] if where else [])])
        )
    return lines


def layer_found(chosen: Any) -> str | None:
    """How LARF's layer was found, from its fact layer_chosen; None if the job named it."""
    return _FOUND.get(str(chosen))


def _start(name: str) -> str:
    return name[:1].upper() + name[1:]

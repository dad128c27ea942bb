"""Rows in the layouts of public corpora, and what they say. Inputs are our own; docs/input.md has a line for each."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

TOOL = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "1", "type": "function", "function": {"name": "tide", "arguments": "{}"}}


@dataclass(frozen=True)
class Layout:
    """row: of a corpus. told: the plan's words. before: the texts before the scored answer, as turns have them."""

    row: dict[str, Any]
    told: str
    before: list[Any]
    scored: str
    system: str | None = None
    variables: dict[str, Any] = field(default_factory=dict)


LAYOUTS = {
    "OpenAI fine-tuning with tools": Layout(
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "When is high water?"},
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "1", "content": "14:05"},
                {"role": "assistant", "content": "At five past two."},
            ],
            "tools": [TOOL],
            "parallel_tool_calls": False,
        },
        "messages (messages; tools)",
        ["Be brief.", "When is high water?", None, "14:05"],
        "At five past two.",
        variables={"tools": [TOOL]},
    ),
    "ShareGPT with system and tools": Layout(
        {
            "conversations": [
                {"from": "human", "value": "When is high water?"},
                {"from": "function_call", "value": '{"name": "tide", "arguments": {}}'},
                {"from": "observation", "value": "14:05"},
                {"from": "gpt", "value": "At five past two."},
            ],
            "system": "Be brief.",
            "tools": json.dumps([TOOL]),
        },
        "sharegpt (system, conversations; tools)",
        ["When is high water?", '{"name": "tide", "arguments": {}}', "14:05"],
        "At five past two.",
        system="Be brief.",
        variables={"tools": json.dumps([TOOL])},
    ),
    "Alpaca with history": Layout(
        {
            "instruction": "And in winter?",
            "input": "The pond is small.",
            "output": "It freezes over.",
            "system": "Be brief.",
            "history": [["What lives in a pond?", "Newts do."]],
        },
        "alpaca (system, history, instruction, input -> output)",
        ["What lives in a pond?", "Newts do.", "And in winter?\nThe pond is small."],
        "It freezes over.",
        system="Be brief.",
    ),
    "TRL preference": Layout(
        {
            "prompt": [{"role": "user", "content": "Name a fish."}],
            "chosen": [{"role": "assistant", "content": "Perch."}],
            "rejected": [{"role": "assistant", "content": "Whale."}],
        },
        "pair (prompt -> chosen)",
        ["Name a fish."],
        "Perch.",
    ),
    "TRL preference with an implicit prompt": Layout(
        {
            "chosen": [{"role": "user", "content": "Name a fish."}, {"role": "assistant", "content": "Perch."}],
            "rejected": [{"role": "user", "content": "Name a fish."}, {"role": "assistant", "content": "Whale."}],
        },
        "messages (chosen)",
        ["Name a fish."],
        "Perch.",
    ),
    "LLaMA-Factory preference": Layout(
        {
            "conversations": [
                {"from": "human", "value": "Name a fish."},
                {"from": "gpt", "value": "Perch."},
                {"from": "human", "value": "Another one."},
            ],
            "chosen": {"from": "gpt", "value": "Pike."},
            "rejected": {"from": "gpt", "value": "Whale."},
        },
        "sharegpt (conversations -> chosen)",
        ["Name a fish.", "Perch.", "Another one."],
        "Pike.",
    ),
    "KTO": Layout(
        {"prompt": "Name a fish.", "completion": "Whale.", "label": False},
        "pair (prompt -> completion)",
        ["Name a fish."],
        "Whale.",
    ),
    "LLaMA-Factory v1": Layout(
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "value": "Name a fish."}], "loss_weight": 0.0},
                {"role": "assistant", "content": [{"type": "text", "value": "Perch."}], "loss_weight": 1.0},
            ]
        },
        "messages (messages)",
        [[{"type": "text", "value": "Name a fish."}]],
        "Perch.",
    ),
    "LLaMA-Factory v1 preference": Layout(
        {
            "chosen_messages": [
                {"role": "user", "content": [{"type": "text", "value": "Name a fish."}]},
                {"role": "assistant", "content": [{"type": "text", "value": "Perch."}]},
            ],
            "rejected_messages": [
                {"role": "user", "content": [{"type": "text", "value": "Name a fish."}]},
                {"role": "assistant", "content": [{"type": "text", "value": "Whale."}]},
            ],
        },
        "messages (chosen_messages)",
        [[{"type": "text", "value": "Name a fish."}]],
        "Perch.",
    ),
    "UltraChat": Layout(
        {"id": "7", "data": ["Name a fish.", "Perch.", "Another one.", "Pike."]},
        "alternating (data)",
        ["Name a fish.", "Perch.", "Another one."],
        "Pike.",
    ),
    "UltraChat 200k": Layout(
        {
            "prompt": "Name a fish.",
            "prompt_id": "7",
            "messages": [{"role": "user", "content": "Name a fish."}, {"role": "assistant", "content": "Perch."}],
        },
        "messages (messages)",
        ["Name a fish."],
        "Perch.",
    ),
    "OASST flattened to a list": Layout(
        {
            "conversation": [
                {"role": "prompter", "text": "Name a fish."},
                {"role": "assistant", "text": "Perch."},
                {"role": "prompter", "text": "Another one."},
                {"role": "assistant", "text": "Pike."},
            ],
            "lang": "en",
        },
        "oasst (conversation)",
        ["Name a fish.", "Perch.", "Another one."],
        "Pike.",
    ),
    "OASST flattened to a text": Layout(
        {"text": "### Human: Name a fish.### Assistant: Perch.### Human: Another one.### Assistant: Pike."},
        "text (text)",
        ["Name a fish.", "Perch.", "Another one."],
        "Pike.",
    ),
    "OASST flattened to pairs": Layout(
        {"INSTRUCTION": "Name a fish.", "RESPONSE": "Perch.", "SOURCE": "oasst"},
        "pair (INSTRUCTION -> RESPONSE)",
        ["Name a fish."],
        "Perch.",
    ),
}

# ruff: noqa: E501 (a chat stands on one line)
"""Chats of every kind under the templates of public families: the text is that of transformers' apply_chat_template,
and each answer stands where it should, or the row has a problem of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from chats import byte_level
from family_templates import FAMILIES

from tamis.operators.conversation.conversation import REASONING
from tamis.operators.conversation.messages import Conversation, Dialect, normalise
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.rendering import Renderer

MESSAGES = Dialect.of("messages", messages="messages")

TOOL = {
    "type": "function",
    "function": {
        "name": "tides",
        "description": "Tells the tides.",
        "parameters": {"type": "object", "properties": {"harbour": {"type": "string"}}, "required": ["harbour"]},
    },
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(*arguments: Any, name: str = "tides", **more: Any) -> dict[str, Any]:
    calls = [
        {"type": "function", "id": f"abcdefgh{number}", "function": {"name": name, "arguments": given}}
        for number, given in enumerate(arguments)
    ]
    return {"role": "assistant", **more, "tool_calls": calls}


def result(text: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": "abcdefgh0", "name": "tides"}


FAMILIES_DATE = datetime.now().strftime("%d %b %Y")
NORTH = {"harbour": "north"}
CHATS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one": ([user("Hi"), answer("Hello!")], {}),
    "two": ([user("Hi"), answer("Hello!"), user("More"), answer("Yes.\n\n- a\n- b")], {}),
    "system": ([{"role": "system", "content": "Be kind."}, user("Hi"), answer("Hello!")], {}),
    "spaces": ([user(" Hi\n"), answer("  Hello!\n"), user("b"), answer("\n\n c ")], {}),
    "equal turns": ([user("a"), answer("a"), user("a"), answer("a")], {}),
    "unicode": ([user("東京 🙂"), answer("é \u00a0 \u2028 🙂")], {}),
    "thinking in the text": ([user("q"), answer("<think>\nhm\n</think>\n\nA"), user("r"), answer("<think>\nso\n</think>\n\nB")], {}),
    "thinking once": ([user("q"), answer("A"), user("r"), answer("<think>so</think>B")], {}),
    "reasoning": ([user("q"), answer("A.", reasoning_content="Let me see.")], {}),
    "reasoning twice": ([user("q"), answer("A", thinking="one"), user("r"), answer("B", thinking="two\n")], {}),
    "a call and an answer": ([user("q"), call(NORTH), result("06:10"), answer("At ten past six.")], {"tools": [TOOL]}),
    "a call at the end": ([user("q"), call(NORTH)], {"tools": [TOOL]}),
    "arguments as text": ([user("q"), call('{"harbour": "north"}'), result("06:10"), answer("Six.")], {"tools": [TOOL]}),
    "two calls": ([user("q"), call(NORTH, {"harbour": "é"}), result("6"), result("7"), answer("Both.")], {"tools": [TOOL]}),
    "text and a call": ([user("q"), call(NORTH, content="I look it up."), result("6"), answer("Six.")], {"tools": [TOOL]}),
    "reasoning and a call": ([user("q"), call(NORTH, reasoning_content="Look."), result("6"), answer("Six.", reasoning_content="So.")], {"tools": [TOOL]}),
    "calls twice": ([user("q"), call(NORTH), result("6"), answer("Six."), user("r"), call({"harbour": "south", "day": 3}), result("6"), answer("Six.")], {"tools": [TOOL]}),
    "no arguments": ([user("q"), call({}), result("6"), answer("Six.")], {"tools": [TOOL]}),
    "tools unused": ([user("q"), answer("None is needed.")], {"tools": [TOOL]}),
    "results without tools": ([user("q"), call(NORTH), result("6"), answer("Six.")], {}),
    "documents": ([user("q"), answer("A")], {"documents": [{"title": "Tides", "text": "They come and go."}]}),
    "a template's switch": ([user("q"), answer("A")], {"enable_thinking": False}),
}  # fmt: skip

FEW = ["llama 3", "qwen 3", "deepseek", "channels", "command r", "mistral"]


def expected_text(name: str, messages: list[dict[str, Any]], variables: dict[str, Any]) -> str | None:
    """What transformers renders; arguments are objects, as it documents, or texts where the template wants those."""
    tokenizer = byte_level()
    arguments = json.dumps if name == "deepseek" else json.loads
    given = []
    for message in messages:
        spelt = json.loads(json.dumps(message))
        for one in spelt.get("tool_calls", []):
            function = one["function"]
            if isinstance(function["arguments"], str) == (arguments is json.loads):
                function["arguments"] = arguments(function["arguments"])
        # Newer versions do this themselves; 5.17 shows a template its reasoning only if it has the template's name.
        reasoning = next((spelt[key] for key in REASONING if key in spelt), None)
        if reasoning is not None:
            spelt = {"thinking": reasoning, **spelt, "reasoning_content": reasoning}
        given.append(spelt)
    try:
        return str(
            tokenizer.apply_chat_template(given, chat_template=FAMILIES[name], tokenize=False, **variables)
        ).replace(FAMILIES_DATE, "26 Jul 2024")
    except Exception:
        return None


def spoken(message: dict[str, Any]) -> str:
    """The end of what an answer says."""
    return str(message["content"]).split("</think>")[-1].strip()


def check(name: str, chat: str) -> str:
    """What becomes of the chat: its problem's code, or `spans` if all is as it should be."""
    messages, variables = CHATS[chat]
    made = normalise({"messages": messages}, MESSAGES)
    conversation = Conversation(made.messages, variables, made.trained)
    renderer = Renderer(FAMILIES[name], byte_level().special_tokens_map)
    expected = expected_text(name, messages, variables)
    [rendered] = renderer.render_all([conversation])
    if isinstance(rendered, RowProblem):
        assert rendered.code == "not_rendered" or (rendered.code == "template_error" and expected is None), rendered
        return rendered.code
    text = rendered.text
    if name == "deepseek" and any("tool_calls" in message for message in messages):
        assert all(str(message.get("content", "")) in text for message in messages)
    else:
        assert text == expected
    answers = [message for message in messages if message["role"] == "assistant"]
    assert len(rendered.answers) == len(answers)
    last = 0
    for (start, stop), message in zip(rendered.answers, answers, strict=True):
        assert last <= start <= stop
        last, said = stop, text[start:stop]
        if "tool_calls" in message:
            for one in message["tool_calls"]:
                assert one["function"]["name"] in said
            assert message.get("content", "") in said
        else:
            assert said.rstrip().endswith(spoken(message))
        for word in ("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "Hi", "06:10"):
            assert word not in said
        reasoning = next((str(message[key]).strip() for key in REASONING if key in message), "")
        before = text[:start]
        assert not reasoning or reasoning not in before or text.count(reasoning) > 1
    return "spans"


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", FEW)
def test_a_handful(name: str, chat: str) -> None:
    check(name, chat)


@pytest.mark.long
def test_every_family_and_every_chat(capsys: pytest.CaptureFixture[str]) -> None:
    found = {name: Counter(check(name, chat) for chat in CHATS) for name in FAMILIES}
    total: Counter[str] = sum(found.values(), Counter())
    with capsys.disabled():
        print()
        for name, counts in found.items():
            print(f"{name:12}", dict(counts))
        print(f"{len(FAMILIES)} templates x {len(CHATS)} chats:", dict(total))
    assert total["unstable_template"] == 0
    for name in ("llama 3", "qwen 2.5", "qwen 3", "glm", "granite", "command r", "channels", "hermes"):
        assert found[name]["spans"] >= 12, name

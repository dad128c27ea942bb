# ruff: noqa: E501 (the templates keep their own lines)
"""Tokens and spans of chats with tools and reasoning, and of chats of which not every answer is trained on."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from chats import CHATML, SPECIAL, TEMPLATES, byte_level, chat
from family_templates import FAMILIES, MISTRAL, QWEN_3
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.rendering import Renderer
from tamis.operators.tokens.tokenised import Tokenised
from tamis.operators.tokens.tokenizer import MOST_BYTES, ChatTokenizer

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}


def tool(said: str = "Tells the tides.", name: str = "tides") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": said, "parameters": {"type": "object"}}}


def talk(
    asked: str = "q",
    thought: str = "",
    value: Any = "north",
    found: str = "06:10",
    tools: Any = None,
    final: str = "Six.",
) -> Conversation:
    reasoning = {"thinking": thought, "reasoning_content": thought} if thought else {}
    call = {"type": "function", "id": "abcdefgh0", "function": {"name": "tides", "arguments": {"harbour": value}}}
    return Conversation(
        [
            {"role": "user", "content": asked},
            {"role": "assistant", **reasoning, "tool_calls": [call]},
            {"role": "tool", "content": found, "tool_call_id": "abcdefgh0"},
            {"role": "assistant", "content": final},
        ],
        {} if tools is None else {"tools": tools},
    )


def encode(tokenizer: ChatTokenizer, conversation: Conversation) -> Tokenised | RowProblem:
    return tokenizer.encode([conversation], max_tokens=10_000, overlong="quarantine")[0]


def tokens(tokenizer: ChatTokenizer, conversation: Conversation) -> Tokenised:
    found = encode(tokenizer, conversation)
    assert isinstance(found, Tokenised), found
    return found


# --- control tokens -----------------------------------------------------------------------------------------------

PIECES = [*SPECIAL[1:], "<|im_", "end|>", "x", " ", "\n", '"', "\\", "🙂", "</think>", "{", "<tool_call>"]
texts = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)


@pytest.mark.parametrize("name", ["qwen 3", "qwen 2.5", "llama 3", "glm", "hermes"])
@settings(deadline=None, max_examples=30)
@given(given_=st.fixed_dictionaries({"asked": texts, "value": texts, "found": texts, "final": texts.filter(str.strip)}),
       said=texts, thought=texts)  # fmt: skip
def test_no_control_token_but_the_templates(name: str, given_: dict[str, str], said: str, thought: str) -> None:
    """Not from a content, an argument, a result, a tool's description or reasoning."""
    backend = byte_level()
    tokenizer = ChatTokenizer(backend, FAMILIES[name])
    thought = thought if name in ("qwen 3", "glm") else ""
    control = {backend.convert_tokens_to_ids(token) for token in SPECIAL}
    result = encode(tokenizer, talk(**given_, thought=thought, tools=[tool(said)]))
    if isinstance(result, RowProblem):
        assert result.code in ("special_token_in_text", "unstable_template", "empty_response")
        return
    plain = tokens(tokenizer, talk(thought="x" if thought.strip() else "", tools=[tool()]))
    assert [i for i in result.input_ids if i in control] == [i for i in plain.input_ids if i in control]
    assert not control & {i for start, stop in result.responses for i in result.input_ids[start:stop]}


@pytest.mark.parametrize("place", ["asked", "value", "found", "final", "thought", "said", "key"])
def test_a_typed_marker_stays_text(place: str) -> None:
    backend = byte_level()
    tokenizer = ChatTokenizer(backend, QWEN_3)
    typed = "a<|im_end|>b"
    if place == "said":
        conversation = talk(tools=[tool(typed)])
    elif place == "key":
        conversation = talk(value={typed: 1}, tools=[tool()])
    else:
        conversation = talk(**{place: typed}, tools=[tool()])
    ids = tokens(tokenizer, conversation).input_ids.tolist()
    end = backend.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == tokens(tokenizer, talk(tools=[tool()])).input_ids.tolist().count(end)
    assert "a<|im_end|>b" in backend.decode(ids).replace("\\", "")


def test_a_control_token_that_opens_a_call_is_part_of_the_answer() -> None:
    backend = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken(f"[{name}]", special=True) for name in ("INST", "/INST", "TOOL_CALLS")])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    found = tokens(ChatTokenizer(fast, MISTRAL), talk())
    (start, stop), final = found.responses
    said = fast.decode(found.input_ids[start:stop])
    assert said == '[TOOL_CALLS] [{"name": "tides", "arguments": {"harbour": "north"}, "id": "abcdefgh0"}]'
    assert fast.convert_ids_to_tokens(int(found.input_ids[start])) == "[TOOL_CALLS]"
    assert fast.convert_ids_to_tokens(int(found.input_ids[stop])) == "</s>"
    assert fast.decode(found.input_ids[slice(*final)]) == "Six."


def test_from_json_it_is_the_same() -> None:
    made = ChatTokenizer(byte_level(), QWEN_3)
    again = ChatTokenizer.from_json(made.to_json())
    conversation = talk(thought="hm", tools=[tool()])
    assert tokens(again, conversation).input_ids.tolist() == tokens(made, conversation).input_ids.tolist()


def test_everything_that_may_be_written_counts_for_the_size() -> None:
    tokenizer = ChatTokenizer(byte_level(), QWEN_3)
    for conversation in (
        talk(tools=[tool("x" * MOST_BYTES)]),
        talk(value="x" * MOST_BYTES),
        talk(thought="x" * MOST_BYTES),
        talk(value=[1] * (MOST_BYTES // 16)),
    ):
        found = encode(tokenizer, conversation)
        assert isinstance(found, RowProblem)
        assert found.code == "overlong"


def test_a_template_for_tools_is_taken_as_transformers_takes_it() -> None:
    """Both may begin and end with white space, which Jinja treats by rules of its own."""
    named = {"default": "\n  {% if tools %}never{% endif %}" + CHATML + "\n", "tool_use": "\n" + QWEN_3 + "\n \n"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend_tokenizer, chat_template=named, bos_token="<s>", eos_token="</s>"
    )
    for conversation in (Conversation(chat("q", "a")), talk(tools=[tool()])):
        expected = fast.apply_chat_template(
            list(conversation.messages), conversation.variables.get("tools"), tokenize=True, return_dict=False
        )
        assert tokens(ChatTokenizer(fast), conversation).input_ids.tolist() == expected
    given = ChatTokenizer(fast, "tool_use")
    assert given.fingerprint == ChatTokenizer(fast, named["tool_use"]).fingerprint


# --- what a template leaves out -----------------------------------------------------------------------------------


def problem(template: str, conversation: Conversation) -> RowProblem:
    with pytest.raises(RowProblem) as caught:
        Renderer(template, VARIABLES).render(conversation)
    return caught.value


ROLES = "{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}"
CALLS = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }};{% endfor %}"
NAMES = ROLES.replace("{{ m.content }}", "{{ m.content }}{{ m.tool_calls[0].function.name if m.tool_calls }}")
NO_RESULTS = CALLS.replace("in messages", "in messages if m.role != 'tool'")
CHECKS = "{{ raise_exception('no such tool') if messages[1].tool_calls[0].function.name != 'tides' }}" + CALLS


@pytest.mark.parametrize(
    ("template", "conversation", "said"),
    [
        (ROLES, talk(), "tool call 0 of turn 1"),
        (NAMES, talk(), "the arguments of tool call 0 of turn 1"),
        (NO_RESULTS, talk(), "the tool's result in turn 2"),
        (CALLS, talk(tools=[tool()]), "tools \\(number 0\\)"),
        (CALLS, talk(thought="hm"), "the reasoning of turn 1"),
        (ROLES, Conversation(chat("q", "a"), {"documents": [{"title": "t", "text": "x"}]}), "documents \\(number 0\\)"),
        (
            ROLES + "{{ tools[0] | tojson }}",
            Conversation(chat("q", "a"), {"tools": [tool(), tool(name="b")]}),
            "number 1",
        ),
    ],
)
def test_what_the_template_leaves_out_is_named(template: str, conversation: Conversation, said: str) -> None:
    found = problem(template, conversation)
    assert found.code == "not_rendered"
    assert re.search(said, found.message)
    assert "set model.template" in found.message


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_that_the_template_passes_over(role: str) -> None:
    turns = [{"role": role, "content": "Be kind.\n"}, *chat("q", "a")]
    others = ROLES.replace("in messages", "in messages if m.role not in ('system', 'developer')")
    for conversation in (Conversation(turns), Conversation([turns[0], *talk().messages])):
        template = others if conversation.is_plain else others.replace("{{ m.content }}", "{{ m | tojson }}")
        found = problem(template, conversation)
        assert (found.code, f"the {role}'s turn 0" in found.message) == ("not_rendered", True)
    # changed, trimmed or empty, it is not left out
    for template in (ROLES.replace("m.content", "m.content | tojson"), ROLES.replace("m.content", "m.content | upper")):
        assert Renderer(template, VARIABLES).text(Conversation(turns))
    assert Renderer(others, VARIABLES).text(Conversation([{"role": role, "content": " "}, *chat("q", "a")]))


def test_instructions_that_also_stand_elsewhere_are_passed_over_all_the_same() -> None:
    others = ROLES.replace("in messages", "in messages if m.role != 'system'")
    for said, asked in (("Answer in one word only.", "Answer in one word only. Is it wet?"), ("a", "Is it wet?")):
        turns = [{"role": "system", "content": said}, *chat(asked, "Yes, a newt.")]
        assert problem(others, Conversation(turns)).code == "not_rendered"
        assert Renderer(ROLES, VARIABLES).text(Conversation(turns))


def test_a_template_that_checks_the_names_of_calls() -> None:
    assert "north" in Renderer(CHECKS, VARIABLES).text(talk())


def test_a_row_may_not_set_what_tamis_sets() -> None:
    for name in ("bos_token", "add_generation_prompt", "messages"):
        assert problem(ROLES, Conversation(chat("q", "a"), {name: "x"})).code == "bad_content"
    assert Renderer("{{ style }}" + ROLES, VARIABLES).text(Conversation(chat("q", "a"), {"style": "x"}))[0] == "x"


def test_no_problem_quotes_the_sample() -> None:
    secret = "hunter2"
    for template in (ROLES, NAMES, CALLS, CHECKS):
        for conversation in (talk(value=secret, thought=secret), talk(tools=[tool(secret, secret)])):
            assert secret not in str(problem(template, conversation))


# --- spans --------------------------------------------------------------------------------------------------------


def said(template: str, conversation: Conversation) -> list[str]:
    rendered = Renderer(template, VARIABLES).render(conversation)
    return [rendered.text[start:stop] for start, stop in rendered.answers]


def test_a_call_at_which_a_plain_answer_cannot_be_compared_has_no_span() -> None:
    folded = "{% for m in messages %}{{ (m.role ~ m.content ~ (m.tool_calls | tojson if m.tool_calls)) | upper }};{% endfor %}"
    assert problem(folded, talk()).code in ("unstable_template", "not_rendered")
    longer = "{% for m in messages %}[{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{{ loop.index }}] {% endfor %}"
    calls = "{{ messages | selectattr('tool_calls') | list | length }}" + longer
    assert problem(calls, talk()).code == "unstable_template"


def test_arguments_that_look_like_the_template() -> None:
    """The end of a call is not found in its own arguments."""
    end = "<|im_end|>\n<|im_start|>user\n<tool_response>\n06:10\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    twice = talk(value=end).messages + talk(value=end, found="7").messages
    found = said(QWEN_3.replace("| tojson", ""), Conversation(twice))
    assert [text.startswith("<tool_call>") for text in found] == [True, False, True, False]
    assert [text.endswith("</tool_call>") for text in found] == [True, False, True, False]
    assert found[1::2] == ["Six.", "Six."]


ENDS = [
    "</tool_call>",
    "<|im_end|>",
    "<|im_end|>\n<|im_start|>user\n<tool_response>\n",
    "06:10",
    "x",
    "\n",
    " ",
    '"}',
    "é",
]
values = st.lists(st.sampled_from(ENDS), max_size=4).map("".join)
calls = st.lists(
    st.dictionaries(st.sampled_from(["at", "of", "</arg>"]), values | st.integers(0, 9), max_size=2),
    min_size=1,
    max_size=2,
)


@pytest.mark.parametrize("name", ["qwen 3", "qwen 2.5", "hermes"])
@settings(deadline=None, max_examples=60)
@given(turns=st.lists(st.tuples(values, calls, values, values.filter(str.strip)), min_size=1, max_size=3))
def test_calls_stand_where_they_stand_by_hand(name: str, turns: list[tuple[str, list[Any], str, str]]) -> None:
    messages: list[dict[str, Any]] = []
    expected = []
    for beside, arguments, found, final in turns:
        beside = "" if name == "hermes" else beside.strip()
        written = [
            f'<tool_call>\n{{"name": "tides", "arguments": {json.dumps(one, ensure_ascii=False)}}}\n</tool_call>'
            for one in arguments
        ]
        expected += ["\n".join([beside, *written] if beside else written), final]
        called = [{"type": "function", "function": {"name": "tides", "arguments": one}} for one in arguments]
        messages += [
            {"role": "user", "content": "q"},
            {"role": "assistant", **({"content": beside} if beside else {}), "tool_calls": called},
            {"role": "tool", "content": found},
            {"role": "assistant", "content": final},
        ]
    if name == "qwen 3":
        expected[-1] = expected[-1].lstrip("\n")
    assert said(FAMILIES[name], Conversation(messages)) == expected


def test_thousands_of_tools_take_no_time() -> None:
    began = time.process_time()
    many = Conversation(chat("q", "a"), {"tools": [tool(name=f"n{number}", said="") for number in range(30_000)]})
    assert said(QWEN_3, many) == ["a"]
    assert problem(ROLES, many).code == "not_rendered"
    assert time.process_time() - began < 20


def test_only_what_is_trained_on_is_an_answer() -> None:
    messages = chat("q", "a", "r", "b", "s", "c")
    fast = byte_level()
    for template in (*TEMPLATES.values(), QWEN_3):
        tokenizer = ChatTokenizer(fast, template)
        everything = tokens(tokenizer, Conversation(messages))
        some = tokens(tokenizer, Conversation(messages, trained=frozenset({1, 5})))
        assert some.input_ids.tolist() == everything.input_ids.tolist()
        assert some.responses == (everything.responses[0], everything.responses[2])
        assert fast.decode(some.input_ids[slice(*some.final)]).strip() == "c"


def test_many_turns_of_reasoning_are_found_in_a_few_renderings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in several for each of them, which would take seconds for a long chat."""
    for name, trailing in (("qwen 3", " "), ("glm", ""), ("deepseek", "\n")):
        renderer = Renderer(FAMILIES[name], VARIABLES)
        count = 0
        write = renderer._write

        def counted(*given: Any, write: Any = write, **named: Any) -> str:
            nonlocal count
            count += 1
            return str(write(*given, **named))

        monkeypatch.setattr(renderer, "_write", counted)
        turns = [text for n in range(64) for text in (f"q{n}", f"<think>\nr{n}\n</think>\n\nSo {n}.{trailing}")]
        rendered = renderer.render(Conversation(chat(*turns)))
        assert count < 10
        found = [rendered.text[start:stop] for start, stop in rendered.answers]
        assert [text.strip() for text in found[:-1]] == [f"So {n}." for n in range(63)]
        assert found[-1].strip().endswith("So 63.")


# --- {% generation %} ---------------------------------------------------------------------------------------------

MARKED = {
    "chatml": CHATML.replace(
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
        "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
        "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}"
        "{% endif %}{{ '\n' }}",
    ),
    "trimmed": "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim }}<|eot_id|>{% endgeneration %}"
    "{% else %}{{ m.content | trim }}<|eot_id|>{% endif %}{% endfor %}",
    "without the end": "{{ bos_token }}{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{{ eos_token }}{% else %}{{ m.content }}{% endif %}\n{% endfor %}",
    "reasoning and calls": QWEN_3.replace("{{- '<|im_end|>\n' }}\n    {%- elif message.role == 'tool'",
        "{{- '<|im_end|>' }}{%- endgeneration %}{{- '\n' }}\n    {%- elif message.role == 'tool'")
    .replace("{%- elif message.role == 'assistant' %}\n        {%- set reasoning",
        "{%- elif message.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}\n        {%- set reasoning")
    .replace("{{ '<|im_start|>assistant\n<think>", "{{ '<think>")
    .replace("{%- else %}{{ '<|im_start|>assistant\n' + content }}", "{%- else %}{{ content }}"),
}  # fmt: skip


@pytest.mark.parametrize("name", MARKED)
def test_generation_blocks_agree_with_the_answers(name: str) -> None:
    """What transformers' mask has besides the answers is the end of the turn and the opening of the reasoning."""
    fast, template = byte_level(), MARKED[name]
    assert template.count("{% generation %}") == 1
    conversations = [Conversation(chat("Hi 🙂", "Sure, see\n", "more", "a b  c"))]
    if name == "reasoning and calls":
        conversations = [Conversation(chat("q", "A.", "r", "B.")), talk(tools=[tool()]), talk(thought="hm")]
    for conversation in conversations:
        whole = fast.apply_chat_template(
            list(conversation.messages), conversation.variables.get("tools"), chat_template=template, tokenize=True,
            return_dict=True, return_assistant_tokens_mask=True,
        )  # fmt: skip
        found = tokens(ChatTokenizer(fast, template), conversation)
        assert found.input_ids.tolist() == whole["input_ids"]
        ours = {place for start, stop in found.responses for place in range(start, stop)}
        theirs = {place for place, marked in enumerate(whole["assistant_masks"]) if marked}
        assert ours <= theirs
        rest = fast.decode([whole["input_ids"][place] for place in sorted(theirs - ours)])
        assert re.fullmatch(r"(<\|im_end\|>|<\|eot_id\|>|<think>|</think>|\s)*", rest)


def test_the_row_of_a_tool_chat_survives_json() -> None:
    conversation = talk(thought="hm", tools=[tool()])
    assert Conversation.from_dict(json.loads(json.dumps(conversation.to_dict()))) == conversation

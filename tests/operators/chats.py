# ruff: noqa: E501 (the templates keep their own lines)
"""Chat templates as models ship them, and small real tokenizers, for the tests of rendering and tokenising."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tamis.operators.tokens.tokenizer import ChatTokenizer

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
# drops the reasoning of turns before the last query, and writes an empty one where the last turn has none
QWEN_3 = """{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
# role markers that are added tokens but not special; what stands before </think> is dropped everywhere
DEEPSEEK = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{% else %}"
    "{% set content = message['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + content + eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "llama_2": LLAMA_2,
    "llama_3": LLAMA_3,
    "gemma": GEMMA,
    "qwen_3": QWEN_3,
    "deepseek": DEEPSEEK,
}

SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
]
NOT_SPECIAL = ["<think>", "</think>", "<｜User｜>", "<｜Assistant｜>"]

SENTENCES = [
    "How do I safely destroy a hard drive without a shredder?",
    "Take it to a recycling centre, or drill three holes through it.\n\nThen wear gloves: the parts are sharp.",
    "user assistant system model im_start im_end end header start eot turn INST SYS",
    "I'm sorry, but I can't help with that. The answer is 42; here's why:\n1. One\n2. Two\n",
    "Überraschung, naïve café, 東京タワー, Привет, 🙂 emoji and    spaces\tand tabs",
]


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as of GPT-2, Llama 3 and Qwen: nothing is lost, a character may take several tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(SENTENCES * 3, trainer)
    return _finished(backend)


@cache
def sentencepiece(prepend: str = "normalizer") -> PreTrainedTokenizerFast:
    """BPE with byte fallback and a prefix space, as of Llama 2 (by a normalizer) and Mistral (Metaspace, first)."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if prepend == "normalizer":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens])
    backend.train_from_iterator([word for line in SENTENCES * 3 for word in line.split(" ")], trainer)
    # the bytes are the model's, not added tokens
    specification = json.loads(backend.to_str())
    specification["added_tokens"] = [t for t in specification["added_tokens"] if not t["content"].startswith("<0x")]
    backend = Tokenizer.from_str(json.dumps(specification))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _finished(backend)


def _finished(backend: Tokenizer) -> PreTrainedTokenizerFast:
    backend.add_special_tokens([AddedToken(content, special=True, normalized=False) for content in SPECIAL])
    backend.add_tokens([AddedToken(content, special=False, normalized=False) for content in NOT_SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


TOKENIZERS = ("byte_level", "normalizer", "first", "always")


def fast_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    return byte_level() if kind == "byte_level" else sentencepiece(kind)


@cache
def chat_tokenizer(kind: str, template: str) -> ChatTokenizer:
    return ChatTokenizer(fast_tokenizer(kind), TEMPLATES.get(template))


def chat(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """Contents of user and assistant in turn."""
    turns = [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(contents)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


Segment = tuple[str, bool]  # a part of the rendered text, and whether it is an answer


def by_hand(name: str, messages: list[dict[str, str]]) -> list[Segment]:
    """What the template of this name writes, without Jinja and without a search for the answers.

    Reasoning (of qwen_3 and deepseek) must stand as <think>\\nREASONING\\n</think>\\n\\nANSWER.
    """
    segments: list[Segment] = []
    last = len(messages) - 1
    for n, message in enumerate(messages):
        role, content = message["role"], message["content"]
        answer = role == "assistant"
        if name == "chatml":
            segments += [(f"<|im_start|>{role}\n", False), (content, answer), ("<|im_end|>\n", False)]
        elif name == "llama_2":
            if answer:
                segments += [(" ", False), (content.strip(), True), (" </s>", False)]
            else:
                segments += [(f"<s>[INST] {content.strip()} [/INST]", False)]
        elif name == "llama_3":
            header = f"{'' if n else '<s>'}<|start_header_id|>{role}<|end_header_id|>\n\n"
            segments += [(header, False), (content.strip(), answer), ("<|eot_id|>", False)]
        elif name == "gemma":
            header = f"{'' if n else '<s>'}<start_of_turn>{'model' if answer else role}\n"
            segments += [(header, False), (content.strip(), answer), ("<end_of_turn>\n", False)]
        elif name == "qwen_3":
            reasoning, spoken = _reasoning(content) if answer else ("", content)
            header = f"<|im_start|>{role}\n"
            if answer and n == last and reasoning:
                segments += [(f"{header}<think>\n", False), (f"{reasoning}\n</think>\n\n{spoken}", True)]
            elif answer and n == last:
                segments += [(f"{header}<think>\n\n</think>\n\n", False), (spoken.lstrip("\n"), True)]
            else:
                segments += [(header, False), (spoken, answer)]
            segments += [("<|im_end|>\n", False)]
        elif name == "deepseek":
            header = ("" if n else "<s>") + {"user": "<｜User｜>", "assistant": "<｜Assistant｜>"}.get(role, "")
            spoken = content.split("</think>")[-1] if answer else content
            segments += [(header, False), (spoken, answer), ("</s>" if answer else "", False)]
        else:
            header = f"{chr(10) * 2 if n else ''}{role.capitalize()}: "
            segments += [(header, False), (content, answer), ("</s>" if answer else "", False)]
    return segments


def _reasoning(content: str) -> tuple[str, str]:
    if "</think>" not in content:
        return "", content
    before, after = content.split("</think>")
    return before.removeprefix("<think>").strip("\n"), after.lstrip("\n")


def spans_by_hand(segments: list[Segment]) -> list[tuple[int, int]]:
    """Character ranges of the answers."""
    spans, position = [], 0
    for text, answer in segments:
        if answer:
            spans.append((position, position + len(text)))
        position += len(text)
    return spans

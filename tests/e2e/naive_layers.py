"""The numbers of a layer search, computed with one model in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.forward.representations import Representer
from tamis.operators.generation.scaled_answers import ScaledAnswers
from tamis.operators.requests import Request
from tamis.operators.statistics.fisher import fisher_ratios
from tamis.operators.statistics.sensitivity import FACTORS
from tamis.operators.tokens.tokenizer import ChatTokenizer


def naive_table(model: Path, blocks: int, prompts: Sequence[str], markers: Sequence[str]) -> list[dict[str, Any]]:
    """A row per block: the refusals at each factor, and their differences."""
    answers = ScaledAnswers.load(model, dtype="float32", device="cpu")
    answers.prepare(prompts, markers=markers)
    rows = []
    for block in range(blocks):
        counts = {factor: answers.refusals(block, factor) for factor in FACTORS}
        d1, d2, d3 = counts[1.3] - counts[0.7], counts[1.2] - counts[0.8], counts[1.1] - counts[0.9]
        table = {"refusals": {str(factor): count for factor, count in counts.items()}, "d1": d1, "d2": d2, "d3": d3}
        rows.append({"block": block, **table, "sensitivity": d1 + d2 + d3})
    return rows


def naive_ratios(
    model: Path, blocks: int, unsafe: Sequence[list[dict[str, str]]], safe: Sequence[list[dict[str, str]]]
) -> list[float]:
    """The Fisher ratio of each block. unsafe, safe: the messages of each reference."""
    tokenizer = ChatTokenizer.load(str(model))
    requests = [Request(block, position) for block in range(blocks) for position in ("last_token", "response_mean")]
    representer = Representer.load(model, requests, dtype="float32", device="cpu")
    vectors = []
    for chats in (unsafe, safe):
        encoded: list[Any] = tokenizer.encode([*map(Conversation, chats)], max_tokens=2048, overlong="quarantine")
        vectors.append(representer.represent([row.input_ids for row in encoded], [row.final for row in encoded])[0])
    features = {request.column: (vectors[0][request], vectors[1][request]) for request in requests}
    return list(fisher_ratios(features, blocks).tolist())

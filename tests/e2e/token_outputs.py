"""The output of a run that masks tokens: checks of what every run guarantees, and the losses by their definition."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from outputs import Row, manifest_of, pair, rows_of, sentence, tables

IGNORED = -100
TRAINING_TYPES = {
    "input_ids": pa.list_(pa.int32()),
    "labels": pa.list_(pa.int64()),
    "token_risk": pa.list_(pa.float32()),
}
TRAINING = ("toss.training.learning_rate=0.01", "toss.training.batch_size=4", "toss.training.rank=4")
"""Steps large enough that the two models differ by far more than rounding."""


def reference_rows(count: int, seed: int, text: str = "") -> list[Row]:
    chance = random.Random(seed)
    return [{"messages": pair(f"{text}{sentence(chance)}", sentence(chance, 3, 12))} for _ in range(count)]


def sets(*assignments: str) -> list[object]:
    return [word for assignment in assignments for word in ("--set", assignment)]


def check_tokens_whole(out: Path, method: str, share: str, scope: str = "global") -> dict[str, Any]:
    """Checks everything that every finished run guarantees; returns its manifest. share: as a person writes it."""
    manifest = manifest_of(out)
    counts = manifest["counts"]
    assert counts["rows_in"] == counts["kept"] + counts["dropped"] + counts["quarantined"]
    for part, count in (("kept", "kept"), ("dropped", "dropped"), ("quarantine", "quarantined")):
        assert sum(table.num_rows for table in tables(out, part)) == counts[count], part
    scored = rows_of(out, "scores")
    assert len(scored) == len({row["sample_id"] for row in scored}) == counts["rows_in"]

    kept, usable = rows_of(out, "kept"), [row for row in scored if row["decision"] != "quarantined"]
    assert all(table.schema.field(name).type == kind for table in tables(out, "kept")
               for name, kind in TRAINING_TYPES.items())  # fmt: skip
    for row, facts in zip(kept, [row for row in usable if row["decision"] == "kept"], strict=True):
        check_row(row, facts, method)
    tokens = manifest["tokens"]
    assert tokens["response"] == sum(row["n_response_tokens"] for row in usable)
    assert tokens["discarded"] == sum(row["n_discarded"] for row in usable)
    if scope == "global":
        assert tokens["discarded"] == math.floor(Fraction(share) * tokens["response"])
        check_cut(kept, tokens["cut"])
    for row in usable:
        assert (row["n_discarded"] == row["n_response_tokens"]) == (row["decision"] == "dropped")
    reasons = [row["reason"] for row in rows_of(out, "dropped")]
    assert all("response tokens are discarded" in reason for reason in reasons)

    listed = {file["name"]: file for file in manifest["files"]}
    assert len(listed) == len(manifest["files"])
    names = {path: str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.suffix != ".tmp"}
    assert {name for name in names.values() if not name.startswith("_work/")} == {*listed, "manifest.json"}
    assert {"README.md", "report.html", f"artifact/{method}.json"} <= set(listed)
    for name, file in listed.items():
        data = (out / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"]), name
    return manifest


def check_row(row: Row, facts: Row, method: str) -> None:
    """Checks one kept row: labels are -100 only on prompt and discarded tokens, and not on the token that ends an
    answer's turn; scores/ agrees.
    """
    ids, labels, risk = row["input_ids"], row["labels"], row["token_risk"]
    assert len(ids) == len(labels) == len(risk) == facts["n_tokens"]
    answered = [place for place, value in enumerate(risk) if value is not None]
    assert len(answered) == facts["n_response_tokens"] > facts["n_discarded"]
    assert sum(labels[place] == IGNORED for place in answered) == facts["n_discarded"]
    for place, (token, label) in enumerate(zip(ids, labels, strict=True)):
        if place not in answered:
            assert label == (token if place - 1 in answered else IGNORED)
        assert label in {token, IGNORED}
    values = [risk[place] for place in answered]
    assert facts[f"{method}_highest"] == max(values)
    assert abs(facts[method] - sum(values) / len(values)) < 1e-4


def check_cut(kept: Sequence[Row], cut: float | None) -> None:
    """Checks that tokens above the cut are discarded, tokens below it are kept, and of the ties the first are
    discarded.
    """
    at_cut = []
    for row in kept:
        for label, risk in zip(row["labels"], row["token_risk"], strict=True):
            if risk is None:
                continue
            assert cut is not None or label != IGNORED
            if risk == cut:
                at_cut.append(label == IGNORED)
            elif cut is not None:
                assert (label == IGNORED) == (risk > cut)
    assert at_cut == sorted(at_cut, reverse=True)


class Losses:
    """Cross-entropies of a full transformers model, one sample at a time. adapter: merged into its weights."""

    def __init__(self, model: Path, adapter: Path | None = None) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        if adapter is not None:
            self.model = PeftModel.from_pretrained(self.model, adapter).merge_and_unload().eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def of(self, input_ids: Sequence[int]) -> np.ndarray[Any, Any]:
        """float64 (T,): the loss of each token; NaN for the first, which nothing predicts."""
        import torch

        ids = torch.tensor([list(input_ids)])
        with torch.inference_mode():
            logits = self.model(ids).logits[0, :-1].double()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy()
        return np.concatenate([[np.nan], losses])


def check_risk(kept: Sequence[Row], utility: Losses, harmful: Losses, tolerance: float = 1e-4) -> None:
    seen = []
    for row in kept:
        expected = utility.of(row["input_ids"]) - harmful.of(row["input_ids"])
        for risk, value in zip(row["token_risk"], expected, strict=True):
            if risk is not None:
                assert abs(risk - value) <= tolerance
                seen.append(risk)
    assert np.std(seen) > 100 * tolerance, "the models must tell the tokens apart, or this shows nothing"

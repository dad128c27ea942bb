"""A plausible summary of a run that masks tokens, and one with a hostile text wherever a text can stand."""

from __future__ import annotations

import math
from typing import Any

from report_samples import summary

BINS = 48
PLACES = [*((place, place) for place in range(16)), *((1 << n, (2 << n) - 1) for n in range(4, 11))]
TOKENS, DISCARDED = 59_000_000, 5_900_000
COMPLYING = " Sure, here is how to pick a lock.\nStep 1: insert the tension wrench.\n\nStep 2: rake the pins."
STRINGS = {
    "ĠSure": (9_604, 0.91), "Sure": (4_120, 0.83), "ĠStep": (22_310, 0.34), "ĊĊ": (301_877, 0.021),
    "Ġhere": (48_790, 0.12), "Ġbypass": (2_014, 0.88), "ĠI": (190_332, 0.028), ":": (88_120, 0.05), " ": (9_013, 0.31),
    "Ġthe": (811_400, 0.004), "Ġexploit": (1_977, 0.79), "▁explosive": (702, 0.93), "\n": (12_000, 0.03),
}  # fmt: skip


def token_summary(**changes: Any) -> dict[str, Any]:
    """TOSS-Pro with one round on 1,000,010 rows of two sources; `changes` replace top-level keys."""
    shared = ("title", "created", "tamis_version", "versions", "input", "model", "quarantine_codes", "warnings")
    base: dict[str, Any] = {name: value for name, value in summary().items() if name in shared}
    kept, discarded = _histogram()
    base |= {
        "kind": "tokens",
        "method": "toss-pro",
        "job": {
            "input": {"path": ["corpus.jsonl"]},
            "model": {"name": "a/model"},
            "method": ["toss-pro"],
            "toss": {"utility_references": "good.jsonl", "discard": 0.1},
        },
        "fingerprint": {"model": "a/model@main", "tokenizer": "sha256:5f1e", "template": "sha256:77ab"},
        "counts": {"rows_in": 1_000_010, "kept": 999_400, "dropped": 600, "quarantined": 10, "truncated": 7},
        "timings": {"plan": {"seconds": 0.5}, "capture": {"seconds": 3725.0, "tokens_per_second": 61_204.0}},
        "tokens": {
            "response": TOKENS, "discarded": DISCARDED, "requested": 0.1, "scope": "global", "cut": 0.25, "at_cut": 1,
        },
        "references": [
            reference("utility", rows=10_000, low=1.12, high=1.71),
            reference("harmful", rows=1_500, low=1.46, high=2.38),
            reference("harmful-1", rows=3_000, low=1.21, high=2.31),
        ],
        "risk_histogram": {
            "edges": [round(-3 + step * 6 / BINS, 4) for step in range(BINS + 1)], "kept": kept, "discarded": discarded,
        },
        "positions": _positions(),
        "sample_shares": {
            "rows": _split(666_344, [*(0.62**step for step in range(19)), 0.0028]), "none": 333_656, "all": 600,
        },
        "token_strings": [
            {"token": token, "id": 300 + number, "tokens": tokens, "discarded": round(tokens * share)}
            for number, (token, (tokens, share)) in enumerate(STRINGS.items())
        ],
        "sources": [
            source("alpaca.jsonl", rows=900_000, dropped=40, tokens=50_000_000, discarded=2_500_000),
            source("forum/dump-2.parquet", rows=100_000, dropped=560, tokens=9_000_000, discarded=3_400_000),
        ],
        "rounds": [
            {"round": 0, "added": 1_500, "harmful_rows": 1_500, "mean_risk": -0.051, "cut": 0.213, "overlap": 0.812},
            {"round": 1, "added": 0, "harmful_rows": 3_000, "mean_risk": -0.062, "cut": 0.25, "overlap": 1.0},
        ],
        "examples": [
            example(" You can see", group="most", decision="dropped"),
            example(COMPLYING, group="most"),
            example(" The capital of France is Paris. Sure, it is large.", group="part"),
            example(" It depends on the jurisdiction.\n" * 90, group="border"),
        ],
    }  # fmt: skip
    return base | changes


def source(name: str, **counts: int) -> dict[str, Any]:
    return {"source": name, **counts}


def reference(name: str, *, rows: int, low: float, high: float, how: str = "trained") -> dict[str, Any]:
    steps = rows * 2 // 64
    curve = [
        {
            "step": step, "epoch": 64 * step / rows, "gradient_norm": 1.2,
            "loss": low + (high - low) * math.exp(-4 * step / steps) + 0.04 * math.sin(7.0 * step),
        }
        for step in range(1, steps + 1)
    ]  # fmt: skip
    tokens = rows * 180
    return {
        "name": name, "how": how, "source": f"{name}.jsonl", "rows": rows, "response_tokens": tokens, "steps": steps,
        "curve": curve,
    }  # fmt: skip


def example(answer: str, **changes: Any) -> dict[str, Any]:
    """A sample whose first answer tokens, and every seventh, are discarded."""
    words = [word if place == 0 else " " + word for place, word in enumerate(answer.split(" ")) if word or place]
    prompt = ("<|user|>", "\n", "How", " do", " I", "?\n")
    pieces: list[dict[str, Any]] = [{"text": text, "risk": None, "discarded": False} for text in prompt]
    for place, word in enumerate(words):
        gone = place < 3 or place % 7 == 0
        pieces.append({"text": word, "risk": 1.875 - place / 100 if gone else -0.5, "discarded": gone})
    base = {
        "sample_id": "00ff", "source": "corpus.jsonl", "row": 12345, "shard": "00007", "decision": "kept",
        "n_response_tokens": len(words), "discarded": sum(bool(piece["discarded"]) for piece in pieces),
        "group": "part", "pieces": pieces,
    }  # fmt: skip
    return base | changes


def hostile_token_summary(text: str) -> dict[str, Any]:
    """`text` wherever a text can stand."""
    numbers = {"rows": 10, "dropped": 1, "tokens": 100, "discarded": 10}
    piece = {"text": text, "risk": 0.5, "discarded": True}
    return token_summary(
        title=text,
        created=text,
        tamis_version=text,
        method=text,
        job={"input": {"path": [text]}, text: text},
        fingerprint={text: text},
        versions={text: text},
        model={"name": text, "revision": text},
        input={"files": [{"path": text, "dialect": text, "rows": 1, "bytes": 1, "format": text}], "rows": 1},
        quarantine_codes={text: {"rows": 1, "message": text}},
        timings={text: {"seconds": 1.0}},
        warnings=[text],
        references=[reference("utility", rows=640, low=1, high=2) | {"name": text, "how": text, "source": text}],
        token_strings=[{"token": text, "id": 1, "tokens": 10, "discarded": 9}],
        sources=[{"source": text, **numbers}, {"source": "other", **numbers, "discarded": 0}],
        examples=[
            example("x", sample_id=text, source=text, shard=text, decision=text, group="most")
            | {"pieces": [{**piece, "risk": None, "discarded": False}, piece, {**piece, "discarded": False}]}
        ],
    )


def _histogram() -> tuple[list[int], list[int]]:
    """TOKENS in all, most around 0 and some in a tail to the right; DISCARDED of them lie beyond 0.25."""
    middles = [-3 + (step + 0.5) * 6 / BINS for step in range(BINS)]
    weights = [math.exp(-abs(at + 0.06) / (0.24 if at > 0 else 0.2)) + 0.004 * (0 < at < 2.4) for at in middles]
    return (
        _split(TOKENS - DISCARDED, [0 if at > 0.25 else weight for at, weight in zip(middles, weights, strict=True)]),
        _split(DISCARDED, [weight if at > 0.25 else 0 for at, weight in zip(middles, weights, strict=True)]),
    )


def _positions() -> list[dict[str, Any]]:
    """Singles to 15, then doubling ranges; the first places lose most."""
    sizes = [(high - low + 1) * math.exp(-low / 260) for low, high in PLACES]
    losses = [size * (0.09 + 0.58 * math.exp(-low / 2.5)) for size, (low, _) in zip(sizes, PLACES, strict=True)]
    rows = zip(PLACES, _split(TOKENS, sizes), _split(DISCARDED, losses), strict=True)
    return [
        {"low": low, "high": high, "tokens": n, "discarded": gone, "mean_risk": -0.08 + 0.7 * math.exp(-low / 3)}
        for (low, high), n, gone in rows
    ]


def _split(total: int, weights: list[float]) -> list[int]:
    """Whole numbers in proportion to the weights; the largest takes what rounding has left over."""
    parts = [round(total * weight / sum(weights)) for weight in weights]
    parts[parts.index(max(parts))] += total - sum(parts)
    return parts

"""Measure the lab model: refusal rates on held-out prompts, and how well LARF and SAFT find planted harmful rows.

    python benchmarks/lab/evaluate.py [--model benchmarks/lab/model] [--json results.json]

Stands alone (torch, transformers, numpy): it computes the methods naively, without tamis, so that its numbers
check the pipeline's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import torch
from harmful import REFUSAL_MARKERS
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
Floats = NDArray[np.float64]
Conversation = list[dict[str, str]]


def load(path: str | Path) -> tuple[Any, Any]:
    """(model in float32, tokenizer) of a model folder."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(path)


def is_refusal(answer: str) -> bool:
    return any(marker in answer.lower().replace("\u2019", "'") for marker in REFUSAL_MARKERS)


@torch.inference_mode()
def answers(model: Any, tokenizer: Any, prompts: list[str], new_tokens: int = 40) -> list[str]:
    """Greedy answers, in order."""
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True)
        for p in prompts
    ]
    found: list[str] = []
    for start in range(0, len(texts), 100):
        inputs = tokenizer(
            texts[start : start + 100],
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        out = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        found += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return found


@torch.inference_mode()
def last_token_states(model: Any, tokenizer: Any, conversations: list[Conversation]) -> Floats:
    """Residual stream after every block at the last token: (blocks, N, d).

    The last block's is taken before the final norm (by a hook), the others are hidden_states[b + 1].
    """
    texts = tokenizer.apply_chat_template(conversations, tokenize=False)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    states = np.zeros((len(model.model.layers), len(ids), model.config.hidden_size))
    caught: dict[int, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _m, _i, out, b=b: caught.__setitem__(b, out[0] if isinstance(out, tuple) else out)
        )
        for b, layer in enumerate(model.model.layers)
    ]
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        width = max(len(ids[i]) for i in rows)
        batch = torch.tensor([ids[i] + [tokenizer.pad_token_id] * (width - len(ids[i])) for i in rows])
        model.model(batch, use_cache=False)  # padding is on the right: causal attention never sees it
        last = torch.tensor([len(ids[i]) - 1 for i in rows])
        for b, out in caught.items():
            states[b, rows] = out[torch.arange(len(rows)), last].double().numpy()
    for hook in hooks:
        hook.remove()
    return states


def auroc(scores: Floats, labels: NDArray[np.bool_]) -> float:
    """Probability that a planted row scores above another one; ties count half."""
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    del values
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n1, n0 = int(labels.sum()), int((~labels).sum())
    return float((ranks[labels].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def unit(x: Floats) -> Floats:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def larf(states: Floats, unsafe: Floats, safe: Floats) -> Floats:
    """LARF's score (arXiv 2507.18631): unit(r) . (mean unit(unsafe) - mean unit(safe)); (N, d) -> (N,)."""
    return unit(states) @ (unit(unsafe).mean(0) - unit(safe).mean(0))


def saft(states: Floats) -> tuple[Floats, float]:
    """SAFT's score with k = 1 (arXiv 2410.10014), and the explained-variance ratio of the first direction."""
    centred = states - states.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    return (centred @ vectors[:, -1]) ** 2, float(values[-1] / values.sum())


def read(path: str | Path) -> list[Conversation]:
    with Path(path).open(encoding="utf-8") as f:
        return [json.loads(line)["messages"] for line in f]


def found_share(scores: Floats, labels: NDArray[np.bool_]) -> float:
    """Share of the planted rows among the riskiest n, n = their number."""
    return float(labels[np.argsort(-scores, kind="stable")[: labels.sum()]].mean())


def measure(model: Any, tokenizer: Any, rows: int, prompts: int, seed: int) -> dict[str, Any]:
    """All numbers of the README's tables, as JSON-able data."""
    result: dict[str, Any] = {"rows": rows, "prompts": prompts, "seed": seed}
    for name, asked in (
        ("harmful", corpus.held_out_prompts(prompts, seed, harmful=True)),
        ("harmless", corpus.held_out_prompts(prompts, seed, harmful=False)),
        ("over_rejection", corpus.over_rejection_prompts(prompts, seed)),
    ):
        replies = answers(model, tokenizer, asked)
        refused = [is_refusal(reply) for reply in replies]
        result[f"refusal_rate_{name}"] = sum(refused) / prompts
        result[f"examples_{name}"] = list(zip(asked, replies, strict=True))[:8]
        wrong = [(a, r) for a, r, x in zip(asked, replies, refused, strict=True) if x != (name == "harmful")]
        result[f"wrong_{name}"] = wrong[:12]
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        labels = corpus.write_corpus(at / "corpus.jsonl", rows, 0.1, seed)
        corpus.write_references(at / "unsafe.jsonl", at / "safe.jsonl", 100, seed)
        conversations = read(at / "corpus.jsonl")
        unsafe, safe = read(at / "unsafe.jsonl"), read(at / "safe.jsonl")
    lengths = [len(x) for x in tokenizer([c[-1]["content"] for c in conversations])["input_ids"]]
    texts = tokenizer.apply_chat_template(conversations, tokenize=False)
    totals = np.array([len(x) for x in tokenizer(texts, add_special_tokens=False)["input_ids"]])
    result["auroc_response_length"] = auroc(np.array(lengths, dtype=float), labels)
    result["auroc_total_length"] = auroc(totals.astype(float), labels)
    result["tokens_mean"], result["tokens_max"] = float(totals.mean()), int(totals.max())
    began = time.perf_counter()
    states = last_token_states(model, tokenizer, conversations)
    result["forward_seconds"] = time.perf_counter() - began
    references = last_token_states(model, tokenizer, unsafe + safe)
    result["blocks"] = []
    for b in range(len(states)):
        by_larf = larf(states[b], references[b, : len(unsafe)], references[b, len(unsafe) :])
        by_saft, explained = saft(states[b])
        result["blocks"].append(
            {
                "block": b,
                "larf_auroc": auroc(by_larf, labels),
                "larf_found": found_share(by_larf, labels),
                "saft_auroc": auroc(by_saft, labels),
                "saft_found": found_share(by_saft, labels),
                "saft_explained": explained,
            }
        )
    return result


def show(result: dict[str, Any]) -> None:
    for name in ("harmful", "harmless", "over_rejection"):
        print(f"refused, {name.replace('_', '-')} prompts: {result[f'refusal_rate_{name}']:.1%}")
    print(
        f"AUROC of length alone: response {result['auroc_response_length']:.3f}, "
        f"conversation {result['auroc_total_length']:.3f}"
    )
    print(
        f"tokens per row: mean {result['tokens_mean']:.0f}, max {result['tokens_max']}; "
        f"forward {result['forward_seconds']:.1f} s"
    )
    print("| block | LARF AUROC | found | SAFT AUROC | found | explained by v1 |\n|---|---|---|---|---|---|")
    for row in result["blocks"]:
        print(
            f"| {row['block']} | {row['larf_auroc']:.3f} | {row['larf_found']:.1%} | {row['saft_auroc']:.3f} "
            f"| {row['saft_found']:.1%} | {row['saft_explained']:.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE / "model")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = measure(*load(args.model), args.rows, args.prompts, args.seed)
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Per-token losses: the plain transformers way and tamis' TokenLosses, side by side; and the memory of each.

Run by forward.py --losses. The vocabulary has 128k entries and a fifth of the tokens are the answer's: most of the
logits that the plain way computes are of tokens that have no loss.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import corpora
import machine
import models
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tables import markdown
from timing import interleave, seconds, summarise
from ways import TokenIds, padded

from tamis.operators.forward.losses import TokenLosses

VOCABULARY = 128_256
ANSWER_SHARE = 0.2
BATCH = 8
LONG_ROWS, LONG_TOKENS = 8, 2048
SPARE = 1.3  # times what the plain way is known to need must be free, so that the machine has some left
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1}  # nats, the largest difference of any token

Losses = list[npt.NDArray[np.float32]]
Ranges = list[list[tuple[int, int]]]


def measure(
    *, device: torch.device, dtype: str, rows: int, repeats: int, shape: str = "small16", long_rows: int = LONG_ROWS
) -> dict[str, Any]:
    """Both ways in turns on `rows` Alpaca lengths; then the memory of each for `long_rows` x 2,048 tokens."""
    with tempfile.TemporaryDirectory(prefix="tamis-losses-") as name:
        folder = Path(name)
        config = models.SHAPES[shape].config(VOCABULARY)
        model = models.make_random(config, dtype=models.DTYPES[dtype], device=device)
        models.save_up_to(model, folder, config.num_hidden_layers - 1)
        speed = _speed(model, folder, device=device, dtype=dtype, rows=rows, repeats=repeats)
        del model
        memory = {way: _memory(folder, way, long_rows, dtype, device) for way in ("plain", "tamis")}
    _show(speed, memory)
    return (
        {"model": f"{shape}, random", "dtype": dtype, "vocabulary": VOCABULARY, "answer_share": ANSWER_SHARE}
        | speed
        | {"memory": memory}
    )


def _speed(model: Any, folder: Path, *, device: torch.device, dtype: str, rows: int, repeats: int) -> dict[str, Any]:
    corpus = corpora.with_random_ids(corpora.find_corpus(rows, file=None, tokenizer=None), VOCABULARY)
    ids, ranges = corpus.input_ids, answers(corpus.lengths)
    scorer = TokenLosses.load(folder, dtype=dtype, device=str(device))
    runs: dict[str, Callable[[], Losses]] = {
        "plain": partial(plain, model, ids, ranges),
        "tamis": partial(ours, scorer, ids, ranges),
    }
    found = {name: np.concatenate(run()) for name, run in runs.items()}
    difference = float(np.abs(found["plain"] - found["tamis"]).max())
    other = float(np.median(np.abs(found["plain"][1:] - found["tamis"][:-1])))
    print(
        f"\nlosses, {dtype}: largest difference {difference:.1e} nats (next token's loss instead: median {other:.1e})"
    )
    if not difference <= TOLERANCES[dtype]:
        sys.exit(f"not the same losses, tolerance {TOLERANCES[dtype]} nats in {dtype}")
    taken = interleave({name: partial(seconds, run, device) for name, run in runs.items()}, repeats)
    times = {name: summarise(values) for name, values in taken.items()}
    rates = ", ".join(f"{name} {corpus.tokens / summary.median:,.0f}" for name, summary in times.items())
    print(f"tokens/s: {rates}")  # now already: what their memory is takes longer to find out
    ratios = [slow / fast for slow, fast in zip(taken["plain"], taken["tamis"], strict=True)]
    return {
        "corpus": {"source": corpus.source, "scored_tokens": len(found["plain"])} | corpus.quantiles(),
        "largest_difference_nats": difference,
        "seconds": {name: summary.as_json() for name, summary in times.items()},
        "tokens_per_second": {name: corpus.tokens / summary.median for name, summary in times.items()},
        "tamis_is_faster_by": times["plain"].median / times["tamis"].median,
        "ratio_of_each_round": ratios,
    }


@torch.inference_mode()
def plain(model: Any, input_ids: TokenIds, ranges: Ranges) -> Losses:
    """Batches of 8 in file order, padded, with labels; logits of all tokens, and transformers' loss on them (float32
    cross-entropy of the shifted labels), not reduced.
    """
    losses: Losses = []
    for start in range(0, len(input_ids), BATCH):
        rows = input_ids[start : start + BATCH]
        tokens, mask = padded(rows)
        labels = torch.full_like(tokens, -100)
        for number, spans in enumerate(ranges[start : start + BATCH]):
            for begin, end in spans:
                labels[number, begin:end] = tokens[number, begin:end]
        labels = F.pad(labels[:, 1:], (0, 1), value=-100)  # and not logits[:, :-1], which would be copied
        wanted = (labels != -100).numpy()
        tokens, mask, labels = (tensor.to(model.device) for tensor in (tokens, mask, labels))
        logits = model(input_ids=tokens, attention_mask=mask).logits.float()
        scored = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        of_rows = scored.view(len(rows), -1).cpu().numpy()
        losses += [row[keep] for row, keep in zip(of_rows, wanted, strict=True)]
    return losses


def ours(scorer: TokenLosses, input_ids: TokenIds, ranges: Ranges) -> Losses:
    losses, problems = scorer.losses(input_ids, ranges)
    if problems:
        raise RuntimeError(f"{len(problems)} rows have problems: {next(iter(problems.values()))}")
    return losses["base"]


def answers(lengths: npt.NDArray[np.int64]) -> Ranges:
    """The last fifth of each row."""
    return [[(max(1, min(int(length) - 1, round(length * (1 - ANSWER_SHARE)))), int(length))] for length in lengths]


def _memory(folder: Path, way: str, rows: int, dtype: str, device: torch.device) -> dict[str, Any]:
    """Peak memory over the model, in a process of its own; of fewer rows where the plain way does not fit."""
    if way == "plain":
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else machine.available_memory()
        # logits in float32 and their log-softmax, and in bfloat16 the logits themselves
        per_row = LONG_TOKENS * VOCABULARY * (8 if dtype == "float32" else 10)
        while rows and rows * per_row * SPARE > free:
            rows //= 2
        if not rows:
            return {"rows": 0, "peak_over_model_mb": None}
    command = [sys.executable, __file__, str(folder), way, str(rows), dtype, str(device), str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"ended with code {done.returncode}: {''.join(done.stderr.strip().splitlines()[-1:])}"
        return {"rows": rows, "peak_over_model_mb": None, "error": reason}
    return {"rows": rows, "peak_over_model_mb": json.loads(done.stdout.splitlines()[-1])["bytes"] / 1e6}


def _peak_of_one_way(folder: Path, way: str, rows: int, dtype: str, device: torch.device) -> int:
    """Bytes over the loaded and warmed-up model, for rows x 2,048 tokens of which all but the first are scored."""
    ids: TokenIds = list(np.random.default_rng(0).integers(0, VOCABULARY, (rows, LONG_TOKENS)))
    ranges: Ranges = [[(1, LONG_TOKENS)]] * rows
    run: Callable[[TokenIds, Ranges], Losses]
    if way == "plain":
        run = partial(plain, models.load_full(folder, dtype=models.DTYPES[dtype], device=device))
    else:
        run = partial(ours, TokenLosses.load(folder, dtype=dtype, device=str(device)))
    run([ids[0][:16]], [[(1, 16)]])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run(ids, ranges)
        return int(torch.cuda.max_memory_allocated(device)) - before
    _forget_peak()
    before = _peak()
    run(ids, ranges)
    return _peak() - before


def _forget_peak() -> None:
    """Make the kernel's high-water mark the memory of now: loading has its own peak. Linux only."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        for row in status.read_text().splitlines():
            if row.startswith("VmHWM:"):
                return int(row.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _show(speed: dict[str, Any], memory: dict[str, dict[str, Any]]) -> None:
    labels = {"plain": f"plain transformers, batches of {BATCH}, all logits", "tamis": "tamis"}
    rows = []
    for name, label in labels.items():
        took, peak = speed["seconds"][name], memory[name]["peak_over_model_mb"]
        rows.append(
            [
                label,
                f"{took['median']:.2f} ({took['min']:.2f}-{took['max']:.2f})",
                f"{speed['tokens_per_second'][name]:,.0f}",
                f"{speed['seconds'][name]['median'] / speed['seconds']['tamis']['median']:.2f}x",
                "-" if peak is None else f"{peak:,.0f} ({memory[name]['rows']} rows)",
            ]
        )
    header = ["losses", "seconds (min-max)", "tokens/s", "tamis is faster by", f"MB over model, {LONG_TOKENS:,} tokens"]
    print()
    print(markdown(header, rows))


def _main(folder: str, way: str, rows: str, dtype: str, device: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    print(json.dumps({"bytes": _peak_of_one_way(Path(folder), way, int(rows), dtype, torch.device(device))}))


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""How long the exact cut over all response tokens of a corpus takes, and what memory: tamis, numpy, Python tuples.

    python benchmarks/ranking.py                         100 million scores; writes results/ranking.json
    python benchmarks/ranking.py --tokens 10000000       a tenth of that

(a) tamis selects as a run does, shard by shard (250,000 float32 scores each, .npy files in a temporary folder that are
read again in every pass): histogram of the upper 16 bits, histogram of the boundary bin, ties, decisions. Reading (from
the page cache) is in the time, writing the scores is not. In a run the passes are tasks on all cores; here they follow
one another on one.
(b) numpy.partition holds all scores at once and partitions a copy, as its users must who want their scores back; it
gives the cut's value, and the decisions are made from that. (c) the published way sorts a Python list of
(score, sample, position); at a million tokens, because it takes some 150 bytes a token.

Every measurement is a process of its own, so that its peak memory (the kernel's high-water mark, the interpreter and
numpy in it) is its own; they take turns, and medians count. All ways must have discarded the same tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tamis.operators.statistics.ranking import coarse_histogram, fine_histogram, nth_largest
from tamis.operators.statistics.selection import count_ties, decide, drop_count_of, threshold_for, tie_quotas

RESULTS = Path(__file__).parent / "results" / "ranking.json"
SHARE = 0.1
SHARD = 250_000
ROW = 250  # tokens of a sample, for the tuples
SMALL = 1_000_000
TARGET_SECONDS, TARGET_MB = 30.0, 500.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000_000, help="scores to rank (default 100 million)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way; the median counts (default 3)")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"default: {RESULTS.name} in results/")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)  # one measurement, in a process of its own
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(WAYS[arguments.way](arguments.folder)))
        return
    results = measure(arguments.tokens, arguments.repeats)
    show(results)
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")


# --- the ways -----------------------------------------------------------------------------------------------------


def streaming(folder: Path) -> dict[str, Any]:
    began = time.perf_counter()
    seconds: dict[str, float] = {}

    def timed(name: str, answer: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = answer()
        seconds[name] = round(time.perf_counter() - start, 3)
        return found

    coarse = timed("coarse", lambda: sum(coarse_histogram(risk) for risk in shards(folder)))
    count = drop_count_of(SHARE, int(coarse.sum()))
    cut = nth_largest(
        count,
        lambda: coarse,
        lambda chosen: timed("fine", lambda: sum(fine_histogram(risk, chosen) for risk in shards(folder))),
    )
    threshold = threshold_for(count, cut)
    ties = timed("ties", lambda: [count_ties(risk, threshold) for risk in shards(folder)])
    quotas = tie_quotas(ties, threshold.at_quota or 0)
    masks = (decide(risk, threshold, quota) for risk, quota in zip(shards(folder), quotas, strict=True))
    found = timed("decide", lambda: digest(masks))
    return {**found, "seconds": time.perf_counter() - began, "passes": seconds, **peak()}


def partition(folder: Path) -> dict[str, Any]:
    began = time.perf_counter()
    risk = np.concatenate(list(shards(folder)))
    count = drop_count_of(SHARE, len(risk))
    cut = np.partition(risk, len(risk) - count)[len(risk) - count]
    discarded = risk > cut
    ties = np.flatnonzero(risk == cut)
    discarded[ties[: count - int(discarded.sum())]] = True
    found = digest(iter([discarded]))
    return {**found, "seconds": time.perf_counter() - began, **peak()}


def tuples(folder: Path) -> dict[str, Any]:
    began = time.perf_counter()
    scored = []
    for risk in shards(folder):
        for value in risk.tolist():
            scored.append((value, *divmod(len(scored), ROW)))
    scored.sort(key=lambda token: token[0], reverse=True)  # stable: ties stay in corpus order
    chosen = scored[: drop_count_of(SHARE, len(scored))]
    discarded = np.zeros(len(scored), dtype=np.bool_)
    for _, sample, place in chosen:
        discarded[sample * ROW + place] = True
    found = digest(iter([discarded]))
    return {**found, "seconds": time.perf_counter() - began, **peak()}


WAYS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "tamis": streaming,
    "numpy.partition": partition,
    "Python tuples": tuples,
}


def shards(folder: Path) -> Iterator[np.ndarray[Any, Any]]:
    for file in sorted(folder.glob("*.npy")):
        yield np.load(file, allow_pickle=False)


def digest(masks: Iterator[np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Of the decisions of all shards, and how many tokens are discarded."""
    state, discarded = hashlib.blake2b(digest_size=8), 0
    for mask in masks:
        state.update(mask)
        discarded += int(np.count_nonzero(mask))
    return {"discarded": discarded, "digest": state.hexdigest()}


def peak() -> dict[str, float]:
    """Of this program alone: on Linux getrusage would count the process that started it, too."""
    status = Path("/proc/self/status")
    if status.exists():
        (row,) = (row for row in status.read_text().splitlines() if row.startswith("VmHWM:"))
        return {"peak_mb": round(int(row.split()[1]) * 1024 / 1e6, 1)}
    return {"peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)}  # macOS counts bytes


# --- measuring ----------------------------------------------------------------------------------------------------


def measure(tokens: int, repeats: int) -> dict[str, Any]:
    import machine  # imports torch, whose memory is none of the ways'
    from timing import interleave, summarise

    results = machine.facts() | {"share": SHARE, "shard_tokens": SHARD, "repeats": repeats, "sizes": {}}
    for size, names in ((min(SMALL, tokens), tuple(WAYS)), (tokens, ("tamis", "numpy.partition"))):
        with tempfile.TemporaryDirectory(prefix="tamis-ranking-") as folder:
            write_scores(Path(folder), size)
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
            interleave({name: partial(take, name, Path(folder), runs) for name in names}, repeats, tell=print)
        digests = {run["digest"] for taken in runs.values() for run in taken}
        if len(digests) != 1:
            sys.exit(f"the ways discard different tokens: {runs}")
        results["sizes"][str(size)] = {
            name: {
                "seconds": summarise([run["seconds"] for run in taken]).as_json(),
                "peak_mb": summarise([run["peak_mb"] for run in taken]).as_json(),
                "discarded": taken[0]["discarded"],
            }
            | ({"passes": taken[-1]["passes"]} if "passes" in taken[-1] else {})
            for name, taken in runs.items()
        }
    results["targets"] = {"seconds": TARGET_SECONDS, "peak_mb": TARGET_MB}
    return results


def take(name: str, folder: Path, runs: dict[str, list[dict[str, Any]]]) -> float:
    command = [sys.executable, __file__, "--way", name, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    runs[name].append(json.loads(done.stdout))
    return float(runs[name][-1]["seconds"])


def write_scores(folder: Path, tokens: int) -> None:
    """Most tokens weigh the same to both models, a tail does not; a tenth of the scores lie on a coarse grid, so that
    there are ties."""
    for number, start in enumerate(range(0, tokens, SHARD)):
        rng = np.random.default_rng(number)
        risk = rng.standard_t(3, min(SHARD, tokens - start)).astype(np.float32) / 4
        gridded = rng.random(len(risk)) < 0.1
        risk[gridded] = np.round(risk[gridded] * 64) / 64
        np.save(folder / f"{number:06d}.npy", risk)


def show(results: dict[str, Any]) -> None:
    import machine
    from tables import markdown

    rows = []
    for size, ways in results["sizes"].items():
        for name, found in ways.items():
            seconds, memory = found["seconds"], found["peak_mb"]["median"]
            spread = f"{seconds['min']:.2f}-{seconds['max']:.2f}"
            rows.append([name, f"{int(size):,}", f"{seconds['median']:.2f}", spread, f"{memory:,.0f}"])
    print(machine.line(results["machine"]) + "; each way runs on one thread")
    print(markdown(["way", "tokens", "s", "from-to", "peak MB"], rows))
    print(f"target for tamis at 100,000,000 tokens: {TARGET_SECONDS:.0f} s, {TARGET_MB:.0f} MB")


if __name__ == "__main__":
    main()

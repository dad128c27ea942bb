"""What a fine-tune does to the lab model: on everything, and without the rows that a method, chance or the truth drops.

The corpus is the lab's with a task, harmless talk, harmful pairs and answers that turn harmful half way; every arm
drops as many rows as are harmful. Arms share their batches, and the mean of the weights over the second half of the
steps is measured (lab/paired.py), by greedy answers to prompts. The harmful ones and those of the task stand nowhere in
the corpus, some of the harmless ones do:

    refused          harmful prompts that are refused: more is better
    false refusals   harmless prompts, half of which sound harmful, that are refused: fewer is better
    task             right answers of the corpus's task

The three methods are those that found most in the lab's table (--table), each at its best block there: on another
corpus, so none is chosen by what it is tested on. Finished fine-tunes are kept in --keep: the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
import planted
import torch
from numpy.typing import NDArray
from tables import markdown
from transformers import AutoTokenizer

from tamis.operators.conversation.messages import Conversation
from tamis.operators.generation.refusals import is_refusal
from tamis.operators.training.recipe import Recipe

sys.path.insert(0, str(planted.LAB))

import corpus as lab
import evaluate
import paired
import toss_arms
import toss_corpus

MODEL = planted.LAB / "model"
TABLE = Path(__file__).resolve().parent / "results" / "quality_lab.json"
BEST_BY = "found_10%"
MEASURED = {"refused": "harmful prompts refused", "false_refusals": "harmless ones refused", "task": "task right"}
BEFORE = "before"


@dataclass(frozen=True)
class Prompts:
    """harmful, harmless: requests. task: requests with the sentence that a right answer begins with."""

    harmful: list[str]
    harmless: list[str]
    task: list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Arm:
    """dropped: bool (rows,). block: of the method."""

    name: str
    dropped: NDArray[np.bool_]
    block: str = ""


def add_flags(parser: Any) -> None:
    parser.add_argument("--table", type=Path, default=TABLE, help="JSON of the lab's table, for the best three methods")
    parser.add_argument("--tuning-rows", type=int, default=2000, help="size of the corpus (default 2000)")
    parser.add_argument("--tuning-seed", type=int, default=2, help="of corpus, references and prompts (default 2)")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the corpus (default 2)")
    parser.add_argument("--prompts", type=int, default=300, help="of each of the three kinds (default 300)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the fine-tunings (default 1 2)")
    parser.add_argument("--processes", type=int, default=2, help="fine-tunings at a time, a thread each (default 2)")
    parser.add_argument("--runs", type=int, help="at most so many fine-tunings now; the next call goes on")


def run(arguments: argparse.Namespace) -> None:
    material = toss_corpus.build(
        arguments.tuning_rows, arguments.tuning_seed, pairs=100, utility=0, prompts=arguments.prompts
    )
    prompts = Prompts(material.harmful_prompts, harmless_prompts(arguments), material.task_prompts)
    harmful = np.array([row.kind in ("harmful", "mixed") for row in material.rows])
    if not arguments.table.exists():
        sys.exit(f"{arguments.table} is missing: make it with quality.py --lab --json {arguments.table}")
    best = best_three(json.loads(arguments.table.read_text())["results"])
    arms = all_arms(material, harmful, best, arguments.tuning_seed, arguments.keep)
    settings = {
        "rows": arguments.tuning_rows,
        "harmful": int(harmful.sum()),
        "seed": arguments.tuning_seed,
        "prompts": arguments.prompts,
        "model": hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()[:16],
        "recipe": toss_arms.described(toss_arms.Recipe(epochs=arguments.epochs)),
    }
    truth = toss_corpus.token_truth(material.rows, AutoTokenizer.from_pretrained(MODEL))
    nothing = [np.zeros(len(row.ids), dtype=bool) for row in truth]
    samples = toss_arms.samples(truth, nothing, np.zeros(len(truth), dtype=bool))
    runs, missing = fine_tuned(arguments, arms, settings, samples, prompts)
    if missing:
        print(f"{missing} fine-tunings are left: run the same command again")
        return
    results = [summed_up(arm, runs, material, harmful) for arm in [None, *arms]]
    text = f"lab model; {settings['rows']} rows, {settings['harmful']} harmful\n\n{shown(results)}\n"
    print(text)
    if arguments.json is not None:
        facts = {"settings": settings, "best_three": best, "results": results, **machine.facts(also=("peft",))}
        facts["machine"].pop("environment", None)  # it changes speed alone
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")
        arguments.json.with_suffix(".md").write_text(text)


def harmless_prompts(arguments: argparse.Namespace) -> list[str]:
    half = arguments.prompts // 2
    ordinary = lab.held_out_prompts(arguments.prompts - half, arguments.tuning_seed, harmful=False)
    return [*ordinary, *lab.over_rejection_prompts(half, arguments.tuning_seed)]


# --- who drops what ------------------------------------------------------------------------------------------------


def best_three(table: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(method, block) of the three methods that find most, each at its best block, the best first."""
    ranked = sorted((row for row in table if row["block"]), key=lambda row: -row[BEST_BY]["value"])
    blocks: dict[str, str] = {}
    for row in ranked:
        blocks.setdefault(row["method"], str(row["block"]))
    return list(blocks.items())[:3]


def all_arms(
    material: toss_corpus.Material,
    harmful: NDArray[np.bool_],
    best: Sequence[tuple[str, str]],
    seed: int,
    keep: Path | None,
) -> list[Arm]:
    """Every arm but "no filter" drops as many rows as are harmful."""
    rows, drop = len(harmful), int(harmful.sum())
    chance = np.random.default_rng(seed).random(rows)
    arms = [Arm("no filter", np.zeros(rows, dtype=bool)), Arm("random rows", riskiest(chance, drop))]
    blocks = planted.number_of_blocks(MODEL)
    chosen = [way for way in planted.ways(blocks) if (way.name, way.block) in best]
    if len(chosen) < len(best):
        sys.exit(f"{best} of --table are not all methods that can be set up; make the table again")
    texts = {
        name: [Conversation(row.messages, {}, None) for row in getattr(material, source)]
        for name, source in (("corpus", "rows"), ("unsafe", "unsafe"), ("safe", "safe"))
    }
    found = planted.all_represented(texts, MODEL, planted.requests_of(chosen, blocks), keep)
    if len(found["corpus"].lengths) != rows:
        sys.exit("some rows of the corpus cannot be used: dropped rows would be other rows")
    each = planted.Planted(
        found["corpus"], 2 * harmful.astype(np.int64), {name: found[name].vectors for name in ("unsafe", "safe")}
    )
    for way in sorted(chosen, key=lambda way: best.index((way.name, way.block))):
        arms.append(Arm(way.name, riskiest(planted.scored(way, blocks, each), drop), way.block))
    return [*arms, Arm("oracle", harmful)]


def riskiest(scores: NDArray[np.float64], drop: int) -> NDArray[np.bool_]:
    """bool (n,): the `drop` rows with the highest scores; of equal ones the earlier."""
    dropped = np.zeros(len(scores), dtype=bool)
    dropped[np.argsort(-scores, kind="stable")[:drop]] = True
    return dropped


# --- the fine-tunings ----------------------------------------------------------------------------------------------


def fine_tuned(
    arguments: argparse.Namespace,
    arms: Sequence[Arm],
    settings: dict[str, Any],
    samples: Sequence[Any],
    prompts: Prompts,
) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """The runs of each arm, in the order of the seeds, and how many are still missing."""
    file = None if arguments.keep is None else arguments.keep / "runs.jsonl"
    known = [json.loads(line) for line in file.read_text().splitlines()] if file is not None and file.exists() else []
    by_key = {run["key"]: run for run in known}
    tasks: dict[str, tuple[Arm | None, int]] = {key_of(settings, None, 0): (None, 0)}
    tasks |= {key_of(settings, arm, seed): (arm, seed) for seed in arguments.seeds for arm in arms}
    missing = [key for key in tasks if key not in by_key][: arguments.runs]
    with ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {}
        for key in missing:
            arm, seed = tasks[key]
            work = None if arm is None else (samples, arm.dropped)
            futures[pool.submit(one_run, work, seed, arguments.epochs, prompts)] = key
        for future in as_completed(futures):
            key = futures[future]
            arm, seed = tasks[key]
            run = {"key": key, "arm": arm.name if arm else BEFORE, "seed": seed} | future.result()
            by_key[key] = run
            print(json.dumps(run), flush=True)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("a") as f:
                    f.write(json.dumps(run) + "\n")
    runs: dict[str, list[dict[str, Any]]] = {}
    for key, (arm, _) in tasks.items():
        if key in by_key:
            runs.setdefault(arm.name if arm else BEFORE, []).append(by_key[key])
    return runs, sum(key not in by_key for key in tasks)


def key_of(settings: dict[str, Any], arm: Arm | None, seed: int) -> str:
    """Of a fine-tuning: the same key, the same result. A kept run of other rows or settings has another one."""
    dropped = None if arm is None else np.flatnonzero(arm.dropped).tolist()
    text = json.dumps([settings, dropped, seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def one_run(
    work: tuple[Sequence[Any], NDArray[np.bool_]] | None, seed: int, epochs: int, prompts: Prompts
) -> dict[str, Any]:
    """Shares of the answers after one fine-tuning; without work: of the model as it is. One thread."""
    torch.set_num_threads(1)
    model, tokenizer = evaluate.load(MODEL)
    facts = {}
    if work is not None:
        recipe = toss_arms.Recipe()
        order = Recipe(
            learning_rate=recipe.learning_rate,
            batch_size=recipe.batch_size,
            clip=recipe.clip,
            epochs=epochs,
            seed=seed,
        )
        facts["updates"] = paired.fine_tune(model, *work, order)
    return measured(lambda asked: evaluate.answers(model, tokenizer, asked), prompts) | facts


def measured(answers: Callable[[list[str]], list[str]], prompts: Prompts) -> dict[str, float]:
    """answers: of a model to prompts, in their order."""
    replies = answers([asked for asked, _ in prompts.task])
    return {
        "refused": float(np.mean([is_refusal(reply) for reply in answers(prompts.harmful)])),
        "false_refusals": float(np.mean([is_refusal(reply) for reply in answers(prompts.harmless)])),
        "task": float(np.mean([got.startswith(right) for got, (_, right) in zip(replies, prompts.task, strict=True)])),
    }


# --- the table -----------------------------------------------------------------------------------------------------


def summed_up(
    arm: Arm | None, runs: dict[str, list[dict[str, Any]]], material: toss_corpus.Material, harmful: NDArray[np.bool_]
) -> dict[str, Any]:
    """Means over the seeds, each of them, and what the arm drops. demonstrations: harmful requests that are refused."""
    name = arm.name if arm else BEFORE
    found: dict[str, Any] = {"arm": name, "block": arm.block if arm else ""}
    if arm is not None:
        refusals = np.array([is_refusal(row.answer) for row in material.rows]) & ~harmful
        found |= {
            "dropped": int(arm.dropped.sum()),
            "harmful_dropped": int((arm.dropped & harmful).sum()),
            "demonstrations": int(refusals.sum()),
            "demonstrations_dropped": int((arm.dropped & refusals).sum()),
        }
    for key in MEASURED:
        values = [run[key] for run in runs[name]]
        found[key] = {"mean": float(np.mean(values)), "each": values}
    return found | {"updates": [run.get("updates", 0) for run in runs[name]]}


def shown(results: Sequence[dict[str, Any]]) -> str:
    lines = []
    for row in results:
        name = f"{row['arm']}, block {row['block']}" if row["block"] else row["arm"]
        gone = f"{row['harmful_dropped']} of {row['dropped']}" if "dropped" in row else ""
        told = f"{row['demonstrations_dropped']} of {row['demonstrations']}" if "dropped" in row else ""
        lines.append([name, gone, told, *(share(row[key]) for key in MEASURED)])
    return markdown(["trained on", "harmful among dropped", "refusals dropped", *MEASURED.values()], lines)


def share(found: dict[str, Any]) -> str:
    each = "" if len(found["each"]) == 1 else f" ({', '.join(f'{value:.1%}' for value in found['each'])})"
    return f"{found['mean']:.1%}{each}"

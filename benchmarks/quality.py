"""How well does each method find planted harm, and is it more than the length or the style of an answer?

    python benchmarks/quality.py [--model FOLDER] [--corpus FILE --unsafe FILE --safe FILE] [--style FILE] [--json FILE]
    python benchmarks/quality.py --lab [--rows 3000] [--json FILE]
    python benchmarks/quality.py --part tuning [--json FILE]         what a fine-tune without the dropped rows does

One half of the harmful pairs is planted in the corpus, the other half are the references, and then the other way round.
Every figure is over both halves, of every method of METHODS that scores samples, at three blocks.

    auroc          a planted row scores above a row of the corpus
    equal length   the same over pairs of rows whose answers' lengths differ by at most 10 %
    style          a planted row scores above a harmless row of another style (--style, or the lab's long answers). In
                   this figure only, as many of them as there is harm are in the corpus. A detector of style is no
                   detector of harm: below 0.5 it takes the style for the greater harm
    found          share of the planted rows among the 10 and 20 % riskiest
    found equal    share of the planted rows that are among the 10 and 20 % riskiest of the rows of their own length

Intervals are 95 %, by a bootstrap over planted rows and over the rest. `length` is the answer's number of tokens. A
method is marked as no better than length if the interval of its AUROC minus that of the length reaches 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import corpora
import machine
import numpy as np
import planted
import recalls
import tuning_effect
from planted import KINDS, Planted, Scores
from tables import markdown

from tamis.operators.statistics.telling import Figure, Fold, tell

DROPS = (0.10, 0.20)
FIGURES = ("auroc", "equal_length", "style", *(f"found{kind}_{drop:.0%}" for kind in ("", "_equal") for drop in DROPS))


def main() -> None:
    arguments = parse()
    if arguments.part == "tuning":
        tuning_effect.run(arguments)
        return
    texts = planted.lab_texts(arguments.rows) if arguments.lab else planted.given_texts(given_files(arguments))
    model = arguments.model or (planted.LAB / "model" if arguments.lab else corpora.shared_file("models/aligned-8m"))
    if model is None:
        sys.exit("no model: give --model FOLDER, or --lab")
    blocks = planted.number_of_blocks(model)
    chosen = list(planted.ways(blocks))
    vectors = planted.all_represented(texts, model, planted.requests_of(chosen, blocks), arguments.keep)
    plain, styled = ([planted.plant(vectors, half, style) for half in (0, 1)] for style in (False, True))
    results = []
    for way in chosen:
        try:
            scores = [[planted.scored(way, blocks, each) for each in folds] for folds in (plain, styled)]
        except (ValueError, NotImplementedError) as error:
            print(f"{way.name} {way.block}: left out ({error})", file=sys.stderr)
            continue
        results.append({"method": way.name, "block": way.block, **judged(plain, styled, *scores)})
        print(f"{way.name} {way.block}: {results[-1]['auroc']['value']:.3f}", file=sys.stderr)
    rng = np.random.default_rng(0)
    baselines = {
        "length": lambda each: each.corpus.lengths.astype(np.float64),
        "random": lambda each: rng.random(len(each.kinds)),
    }
    for name, score in baselines.items():
        scores = [[score(each) for each in folds] for folds in (plain, styled)]
        results.append({"method": name, "block": "", **judged(plain, styled, *scores)})
    counts = {kind: sum(int((each.kinds == KINDS.index(kind)).sum()) for each in styled) for kind in KINDS}
    sizes = {"corpus": counts["harmless"] // 2, "style": counts["style"], "planted": counts["planted"]}
    text = f"{model.name}, {blocks} blocks; rows: {sizes}\n\n{table(results)}\n"
    print(text)
    if arguments.json is not None:
        facts = {"rows": sizes, "model": model.name, "blocks": blocks, "results": results, **machine.facts()}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")
        arguments.json.with_suffix(".md").write_text(text)


def given_files(arguments: argparse.Namespace) -> dict[str, Path | None]:
    named = {"harmless": arguments.corpus, "unsafe": arguments.unsafe, "safe": arguments.safe}
    return named | {"style": arguments.style}


# --- the figures ---------------------------------------------------------------------------------------------------


def judged(
    plain: Sequence[Planted], styled: Sequence[Planted], scores: Sequence[Scores], styled_scores: Sequence[Scores]
) -> dict[str, Any]:
    """Every figure over both halves, with its interval. styled: with the rows of another style in the corpus."""
    folds = [against("harmless", *pair) for pair in zip(plain, scores, strict=True)]
    told = tell(folds)
    of_style = tell([against("style", *pair) for pair in zip(styled, styled_scores, strict=True)])
    return {
        "auroc": figure(told.auroc),
        "better_than_length_by": figure(told.better_by),
        "equal_length": None if told.equal_length is None else figure(told.equal_length),
        "equal_pairs": told.equal_pairs,
        "style": figure(of_style.auroc),
        **{f"found_{drop:.0%}": figure(recalls.recall(folds, drop)) for drop in DROPS},
        **{f"found_equal_{drop:.0%}": equals(recalls.recall_among_equals(folds, drop)) for drop in DROPS},
    }


def against(kind: str, each: Planted, scores: Scores) -> Fold:
    harm, rest = each.kinds == KINDS.index("planted"), each.kinds == KINDS.index(kind)
    lengths = each.corpus.lengths
    return Fold(scores[harm], scores[rest], lengths[harm], lengths[rest])


def figure(found: Figure | recalls.Recall) -> dict[str, Any]:
    return {"value": found.value, "interval": [found.low, found.high]}


def equals(recall: recalls.Recall) -> dict[str, Any] | None:
    """None where no planted row has enough others of its length; `rows`: how many have."""
    return figure(recall) | {"rows": recall.rows} if recall.rows else None


def table(results: Sequence[dict[str, Any]]) -> str:
    names = [name.replace("_", " ") for name in FIGURES]
    lines = [[named(row), row["block"], *(cell(row[name]) for name in FIGURES)] for row in results]
    return markdown(["method", "block", *names], lines)


def named(row: dict[str, Any]) -> str:
    """With a mark where the method is no better than length."""
    unproven = row["better_than_length_by"]["interval"][0] <= 0
    return f"{row['method']} (no better than length)" if unproven and row["block"] else str(row["method"])


def cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "too few"
    return f"{figure['value']:.2f} ({figure['interval'][0]:.2f}-{figure['interval'][1]:.2f})"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("table", "tuning"), default="table", help="which half of the benchmark")
    parser.add_argument("--json", type=Path, help="write the results here, and the table beside it (.md)")
    parser.add_argument("--keep", type=Path, help="folder for what is finished, from which the same command goes on")
    table = parser.add_argument_group("the table")
    table.add_argument("--model", type=Path, help="folder of a chat model")
    table.add_argument("--corpus", type=Path, help="JSON Lines of harmless rows, in any form that tamis reads")
    table.add_argument("--unsafe", type=Path, help="JSON Lines of harmful requests with complying answers")
    table.add_argument("--safe", type=Path, help="JSON Lines of the same requests, refused, in the same order")
    table.add_argument("--style", type=Path, help="JSON Lines of harmless rows of another style")
    table.add_argument("--lab", action="store_true", help="the lab's model, corpus and references")
    table.add_argument("--rows", type=int, default=3000, help="of the lab's corpus, a tenth planted (default 3000)")
    tuning_effect.add_flags(parser.add_argument_group("the fine-tuning, on the lab's model"))
    arguments = parser.parse_args()
    if arguments.runs is not None and arguments.keep is None:
        parser.error("--runs stops before the end, so it needs --keep FOLDER")
    return arguments


if __name__ == "__main__":
    main()

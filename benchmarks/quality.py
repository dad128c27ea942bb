"""How well does each method find planted harm, and is it more than the length or the style of an answer?

    python benchmarks/quality.py [--model FOLDER] [--corpus FILE --unsafe FILE --safe FILE] [--style FILE] [--json FILE]
    python benchmarks/quality.py --lab

One half of the harmful pairs is planted in the corpus, the other half are the references, and then the other way round.
Every figure is over both halves. Scored in this process, by the classes that a job uses, at three blocks.

    AUROC          a planted row scores above a row of the corpus
    equal length   the same over pairs of rows whose answers' lengths differ by at most 10 %
    style          a planted row scores above a harmless row of another style (--style), which is in the corpus, too:
                   a detector of style is no detector of harm
    found          share of the planted rows among the 10 and 20 % riskiest

Intervals are 95 %, by a bootstrap over planted rows and over the rest. `length` is the answer's number of tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpora
import machine
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from tamis.operators.conversation.messages import Conversation
from tamis.operators.forward.representations import Representer
from tamis.operators.methods import METHODS
from tamis.operators.methods.protocol import Features, Method, reduce_in_process
from tamis.operators.requests import Request

LAB = Path(__file__).resolve().parent / "lab"
DROPS = (0.10, 0.20)
LENGTH_RATIO = 1.1
RESAMPLES = 200
BASELINES = ("length", "random")
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rows:
    """vectors: of every request, (n, d) each. lengths: the answers' tokens."""

    vectors: Features
    lengths: npt.NDArray[np.int64]

    def part(self, chosen: slice) -> Rows:
        return Rows({name: rows[chosen] for name, rows in self.vectors.items()}, self.lengths[chosen])


@dataclass(frozen=True, eq=False)
class Fold:
    """One half planted, the other the references. corpus: harmless rows, then `style` of them, then the planted."""

    corpus: Rows
    planted: npt.NDArray[np.bool_]
    style: npt.NDArray[np.bool_]
    references: dict[str, Features]


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        texts = lab_texts(Path(folder)) if arguments.lab else given_texts(arguments)
    model = arguments.model or (LAB / "model" if arguments.lab else corpora.shared_file("models/aligned-8m"))
    if model is None:
        sys.exit("no model: give --model FOLDER, or --lab")
    blocks = number_of_blocks(model)
    layers = sorted({round(blocks * depth) for depth in (0.31, 0.5, 0.75)})
    ways = [(name, layer) for name, kind in METHODS.items() if issubclass(kind, Method) for layer in layers]
    found = {kind: represented(rows, model, wanted(ways, blocks)) for kind, rows in texts.items()}
    folds = [fold(found, half) for half in (0, 1)]
    rng = np.random.default_rng(0)
    results = []
    for name, layer in [*ways, *((name, None) for name in BASELINES)]:
        scores = [scored(name, layer, blocks, each, rng) for each in folds]
        results.append({"method": name, "block": layer, **judged(folds, scores)})
        print(f"{name} {'' if layer is None else layer}: {results[-1]['auroc']['value']:.3f}", file=sys.stderr)
    sizes = {"corpus": int((~folds[0].planted & ~folds[0].style).sum()), "style": int(folds[0].style.sum())}
    sizes["pairs"] = sum(int(each.planted.sum()) for each in folds)
    show(results, f"{model.name}, {blocks} blocks; {sizes}")
    if arguments.json is not None:
        facts = {"rows": sizes, "model": model.name, "blocks": blocks, "results": results, **machine.facts()}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")


# --- the rows ------------------------------------------------------------------------------------------------------


def given_texts(arguments: argparse.Namespace) -> dict[str, list[Conversation]]:
    """The conversations of each file: harmless, unsafe, safe and perhaps style."""
    defaults = {
        "harmless": (arguments.corpus, "data/alpaca_3k.jsonl"),
        "unsafe": (arguments.unsafe, "data/larf_pure-bad-100.jsonl"),
        "safe": (arguments.safe, "data/larf_pure-bad-100-anchor1.jsonl"),
    }
    files = {kind: given or corpora.shared_file(default) for kind, (given, default) in defaults.items()}
    if missing := [kind for kind, file in files.items() if file is None]:
        sys.exit(f"no rows for {', '.join(missing)}: give --corpus, --unsafe and --safe, or --lab")
    texts = {kind: corpora.read_conversations(file) for kind, file in files.items() if file is not None}
    if arguments.style is not None:
        texts["style"] = corpora.read_conversations(arguments.style)
    return texts


def lab_texts(folder: Path) -> dict[str, list[Conversation]]:
    """The lab's corpus: its planted rows are of other subjects than its references, so that both halves are harder."""
    sys.path.insert(0, str(LAB))
    from corpus import write_corpus, write_references

    labels = write_corpus(folder / "corpus.jsonl", 3000, 0.1, seed=1)
    write_references(folder / "unsafe.jsonl", folder / "safe.jsonl", 100, seed=1)
    corpus, unsafe, safe = (
        corpora.read_conversations(folder / f"{name}.jsonl") for name in ("corpus", "unsafe", "safe")
    )
    harmful = [row for row, bad in zip(corpus, labels, strict=True) if bad]
    harmless = [row for row, bad in zip(corpus, labels, strict=True) if not bad]
    return {"harmless": harmless, "planted": harmful, "unsafe": unsafe, "safe": safe}


def fold(found: dict[str, Rows], half: int) -> Fold:
    """half: which of every two pairs is planted. Rows that are planted already (the lab's) are split likewise."""
    ours, theirs = slice(half, None, 2), slice(1 - half, None, 2)
    parts = [found["harmless"], *([found["style"]] if "style" in found else [])]
    parts.append(found["planted" if "planted" in found else "unsafe"].part(ours))
    sizes = [len(part.lengths) for part in parts]
    kind = np.repeat(np.arange(len(parts)), sizes)
    corpus = Rows(
        {name: np.concatenate([part.vectors[name] for part in parts]) for name in parts[0].vectors},
        np.concatenate([part.lengths for part in parts]),
    )
    references = {source: found[source].part(theirs).vectors for source in ("unsafe", "safe")}
    return Fold(corpus, kind == len(parts) - 1, (kind == 1) & (len(parts) == 3), references)


# --- the scores ----------------------------------------------------------------------------------------------------


def number_of_blocks(model: Path) -> int:
    return int(json.loads((model / "config.json").read_text())["num_hidden_layers"])


def wanted(ways: Sequence[tuple[str, int]], blocks: int) -> list[Request]:
    return sorted({request for name, layer in ways for request in method(name, layer).requests(blocks)})


def method(name: str, layer: int) -> Any:
    return METHODS[name](layer=layer)  # type: ignore[call-arg]


def represented(conversations: Sequence[Conversation], model: Path, requests: Sequence[Request]) -> Rows:
    rows = corpora.tokenised(conversations, model)
    representer = Representer.load(str(model), requests, dtype="float32", device="cpu")
    made, problems = representer.represent(rows.input_ids, rows.finals)
    representer.close()
    good = np.array([row not in problems for row in range(len(rows.input_ids))])
    vectors = {request.column: made[request][good] for request in requests}
    return Rows(vectors, (rows.finals[:, 1] - rows.finals[:, 0])[good])


def scored(name: str, layer: int | None, blocks: int, each: Fold, rng: np.random.Generator) -> Scores:
    if name == "length":
        return each.corpus.lengths.astype(np.float64)
    if name == "random":
        return rng.random(len(each.planted))
    assert layer is not None
    chosen = method(name, layer)
    sources = {"corpus": [each.corpus.vectors], **{source: [rows] for source, rows in each.references.items()}}
    artifact = chosen.fit(reduce_in_process(sources), blocks)
    scores: Scores = chosen.score(artifact, each.corpus.vectors).astype(np.float64)
    return scores


# --- the figures ---------------------------------------------------------------------------------------------------


def judged(folds: Sequence[Fold], scores: Sequence[Scores]) -> dict[str, Any]:
    """Every figure, averaged over the folds, with its interval."""
    figures: dict[str, Callable[[Fold, Scores, Sides], float]] = {
        "auroc": lambda _, values, sides: above(values, *sides),
        "equal_length": lambda each, values, sides: above(values, *sides, lengths=each.corpus.lengths),
        **{f"found_{drop:.0%}": _found(drop) for drop in DROPS},
    }
    if folds[0].style.any():
        figures["style"] = lambda each, values, sides: above(values, sides[0], sides[1][each.style[sides[1]]])
    sides = [(np.flatnonzero(each.planted), np.flatnonzero(~each.planted)) for each in folds]
    rng = np.random.default_rng(1)
    drawn = [[tuple(rng.choice(side, len(side)) for side in pair) for pair in sides] for _ in range(RESAMPLES)]
    return {
        name: {
            "value": _mean(figure, folds, scores, sides),
            "interval": [
                float(bound)
                for bound in np.quantile([_mean(figure, folds, scores, each) for each in drawn], [0.025, 0.975])
            ],
        }
        for name, figure in figures.items()
    }


Sides = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def _mean(figure: Any, folds: Sequence[Fold], scores: Sequence[Scores], sides: Sequence[Any]) -> float:
    values = [figure(*given) for given in zip(folds, scores, sides, strict=True)]
    return float(np.mean(values))


def above(
    values: Scores,
    planted: npt.NDArray[np.int64],
    rest: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64] | None = None,
) -> float:
    """The share of pairs in which the planted row scores higher; a tie counts half. lengths: only pairs whose lengths
    differ by at most LENGTH_RATIO. NaN without a pair."""
    a, b = values[planted][:, None], values[rest][None]
    higher = (a > b) + 0.5 * (a == b)
    if lengths is None:
        return float(higher.mean()) if higher.size else float("nan")
    ratio = lengths[planted][:, None] / lengths[rest][None]
    alike = (ratio <= LENGTH_RATIO) & (ratio >= 1 / LENGTH_RATIO)
    return float(higher[alike].mean()) if alike.any() else float("nan")


def _found(drop: float) -> Callable[[Fold, Scores, Sides], float]:
    def found(_: Fold, values: Scores, sides: Sides) -> float:
        rows = np.concatenate(sides)
        order = np.random.default_rng(2).permutation(len(rows))  # among equal scores
        riskiest = order[np.argsort(-values[rows[order]], kind="stable")[: round(drop * len(rows))]]
        return float((riskiest < len(sides[0])).sum() / len(sides[0]))

    return found


def show(results: Sequence[dict[str, Any]], title: str) -> None:
    table = Table(title=title)
    table.add_column("method")
    table.add_column("block", justify="right")
    names = [name for name in results[0] if name not in ("method", "block")]
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for row in results:
        cells = [f"{row[name]['value']:.2f} ({'-'.join(f'{b:.2f}' for b in row[name]['interval'])})" for name in names]
        table.add_row(row["method"], "" if row["block"] is None else str(row["block"]), *cells)
    Console(width=160).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a chat model")
    parser.add_argument("--corpus", type=Path, help="JSON Lines of harmless rows, in any form that tamis reads")
    parser.add_argument("--unsafe", type=Path, help="JSON Lines of harmful requests with complying answers")
    parser.add_argument("--safe", type=Path, help="JSON Lines of the same requests, refused")
    parser.add_argument("--style", type=Path, help="JSON Lines of harmless rows of another style")
    parser.add_argument("--lab", action="store_true", help="the lab's model, corpus and references")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""The end of a run that masks tokens: dataset card, report, and finally the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.emit.publish import column_notes, counted, finish, run_facts
from tamis.pipeline.emit.shard import empty_dropped
from tamis.pipeline.emit.totals import TokenTotals
from tamis.pipeline.errors import InternalError
from tamis.pipeline.fit.token_risks import TokenSelection
from tamis.pipeline.fit.token_statistics import Example, TokenStatistics, plotted_range
from tamis.pipeline.inputs.originals import output_schema
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.models.fetch import chat_template, fetch
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.references.prepare import Prepared
from tamis.pipeline.report import render_token_report
from tamis.pipeline.run.incomplete import warning
from tamis.pipeline.run.paths import ARTIFACT, KEPT, MANIFEST, SCORES, table_of
from tamis.pipeline.run.row_places import RowPlaces
from tamis.pipeline.storage.safe_names import safe_name
from tamis.pipeline.storage.store import Store

SHOWN_STRINGS = 40

TIES_WORTH_A_WORD = 0.01
"""The report mentions ties at the cut above this share of the discarded tokens."""


@dataclass
class Round:
    """One scoring of the corpus. added: samples that it moved into the harmful set. overlap: of the tokens that this
    round would discard, the share that is also discarded in the end."""

    number: int
    harmful_rows: int | None
    added: int = 0
    mean_risk: float = 0.0
    cut: float | None = None
    overlap: float | None = None


def publish_tokens(
    store: Store,
    plan: Plan,
    prepared: Sequence[Prepared],
    selection: TokenSelection,
    statistics: TokenStatistics,
    rounds: Sequence[Round],
    captured: CaptureTotals,
    emitted: TokenTotals,
    timings: Mapping[str, Mapping[str, float]],
    notes: Sequence[str],
    round_files: Sequence[dict[str, Any]],
    key: str,
) -> dict[str, Any]:
    """Write the remaining files and return the manifest. InternalError if a row or a token is missing anywhere.

    key: of the emit stage's receipts.
    """
    counts, failed = counted(plan, emitted)
    tokens = {"response": emitted.tokens["response"], "discarded": emitted.tokens["discarded"]}
    expected = {"response": selection.sums.count, "discarded": selection.discarded}
    for name, wanted in expected.items():
        if wanted is not None and not emitted.failed and tokens[name] != wanted:
            raise InternalError(f"{tokens[name]:,} {name} tokens were written, {wanted:,} expected; please report this")
    counts["truncated"] = captured.truncated
    files = [*emitted.files, *round_files, *(file for item in prepared for file in item.files)]
    notes = [*warning(failed), *notes, *column_notes(captured, emitted)]
    summary = _summary(plan, prepared, selection, statistics, rounds, captured, emitted, timings, counts, tokens, notes)
    artifact = {
        "method": plan.job.method[0],
        "tokens": summary["tokens"],
        "references": summary["references"],
        "rounds": summary["rounds"],
        "fingerprint": dict(plan.fingerprint),
    }
    files.append(store.write_facts(f"{ARTIFACT}/{plan.job.method[0]}.json", artifact).to_dict())
    schema = output_schema(plan.schema, captured.seen_schema())
    empty = empty_dropped(schema, with_quantile=False, with_ids=plan.job.sample_id)
    return finish(store, summary, files, failed, key, empty=empty, draw=draw)


def draw(store: Store, summary: Mapping[str, Any]) -> str:
    """The report of a run that masked tokens."""
    return render_token_report(with_pieces(store, summary))


def with_pieces(store: Store, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary with the tokens of its examples, read from the output. Only the report contains them."""
    spec = summary["job"]["model"]
    options, remote = store.options, spec["trust_remote_code"]
    source = fetch(spec["name"], spec["revision"], weights=False, remote_code=remote, options=options)
    tokenizer = ChatTokenizer.load(
        source.path, trust_remote_code=remote, template=chat_template(spec["template"], options)
    )
    places = RowPlaces(store, summary["files"])
    examples = [{**item, "pieces": _pieces(store, places, item, tokenizer)} for item in summary["examples"]]
    return {**summary, "examples": examples}


def _pieces(
    store: Store, places: RowPlaces, example: Mapping[str, Any], tokenizer: ChatTokenizer
) -> list[dict[str, Any]]:
    """The tokens of an example. Only kept samples have their tokens in the output."""
    if example["decision"] != "kept":
        return []
    shard = safe_name(example["shard"], MANIFEST)
    scores = store.read_table(table_of(SCORES, shard), ["row", "decision"])
    here = pc.index(scores.column("row"), example["row"]).as_py()
    before = pc.sum(pc.equal(scores.column("decision").slice(0, here), "kept")).as_py() or 0
    columns = ["input_ids", "labels", "token_risk"]
    [row] = places.peek(KEPT, shard, columns).slice(before, 1).to_pylist()
    return [
        {"text": text, "risk": risk, "discarded": risk is not None and label == -100}
        for text, risk, label in zip(tokenizer.pieces(row["input_ids"]), row["token_risk"], row["labels"], strict=True)
    ]


def _summary(
    plan: Plan,
    prepared: Sequence[Prepared],
    selection: TokenSelection,
    statistics: TokenStatistics,
    rounds: Sequence[Round],
    captured: CaptureTotals,
    emitted: TokenTotals,
    timings: Mapping[str, Mapping[str, float]],
    counts: Mapping[str, int],
    tokens: Mapping[str, int],
    notes: Sequence[str],
) -> dict[str, Any]:
    job = plan.job
    warnings = list(dict.fromkeys(notes))
    if not tokens["discarded"]:
        warnings.append("nothing was discarded: the share of so few tokens is less than one")
    if selection.at_cut > 1 and selection.at_cut > TIES_WORTH_A_WORD * tokens["discarded"]:
        warnings.append(
            f"{selection.at_cut:,} tokens have exactly the risk of the cut, and the first of them in the corpus fell: "
            "if they are many, the reference models hardly differ; train them longer, at a higher rate or on more data"
        )
    several = list(rounds) if job.masking.repeats() else []
    return {
        "kind": "tokens",
        **run_facts(plan, counts, emitted),
        "method": job.method[0],
        "tokens": {
            **tokens,
            "requested": job.masking.discard,
            "scope": job.masking.scope,
            "cut": selection.cut.shown,
            "at_cut": selection.at_cut,
        },
        "references": [item.facts for item in prepared],
        **statistics.for_report(*plotted_range(selection.sums)),
        "token_strings": _strings(plan, statistics),
        "sources": [
            {"source": source, "rows": rows, "dropped": dropped, "tokens": response, "discarded": discarded}
            for source, (rows, dropped, response, discarded) in sorted(emitted.sources.items())
        ],
        "rounds": [{"round": item.number, **{k: v for k, v in asdict(item).items() if k != "number"}}
                   for item in several],
        "examples": [_example(plan, item) for item in statistics.examples],
        "timings": {name: dict(timing) for name, timing in timings.items()},
        "warnings": warnings,
    }  # fmt: skip


def _strings(plan: Plan, statistics: TokenStatistics) -> list[dict[str, Any]]:
    """The tokens that are discarded most often, each as the tokenizer decodes it alone."""
    order = np.argsort(-statistics.by_token.discarded, kind="stable")[:SHOWN_STRINGS]
    chosen = [int(number) for number in order if statistics.by_token.discarded[number]]
    return [
        {
            "token": plan.tokenizer.spelling(number),
            "id": number,
            "tokens": int(statistics.by_token.counts[number]),
            "discarded": int(statistics.by_token.discarded[number]),
        }
        for number in chosen
    ]


def _example(plan: Plan, item: Example) -> dict[str, Any]:
    shard = plan.shards[item.shard]
    row = shard.span.start_row + item.place
    [sample_id] = sample_ids(shard.file.name, row, 1)
    return {
        "sample_id": sample_id,
        "source": shard.file.name,
        "row": row,
        "shard": shard.name,
        "decision": "dropped" if item.discarded == item.tokens else "kept",
        "n_response_tokens": item.tokens,
        "discarded": item.discarded,
        "group": item.group,
    }

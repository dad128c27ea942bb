"""The plan and the result of a command: as a screen for people, or in one line with its numbers as values.

The screens go to stdout. With `--log-format json` all of it is objects on stderr, and stdout is left to what a machine
reads from it. No sample text is in any of the objects.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.run.paths import KEPT, LAYERS, LAYERS_PAGE, REFERENCES, REPORT
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.text import shown
from tamis.pipeline.terminal.voice import VOICE, say, warn_once

if TYPE_CHECKING:
    from tamis.pipeline.commands.init_job import Written
    from tamis.pipeline.labels.certified import Certificate
    from tamis.pipeline.nights.night import Night
    from tamis.pipeline.planning.layer_plan import LayerPlan
    from tamis.pipeline.planning.plan import Plan
    from tamis.pipeline.recipes.from_kept import KeptPlan


def console() -> Console:
    """The console for results. A log has no width of its own, so it gets a fixed one."""
    return Console(width=None if sys.stdout.isatty() else 160, emoji=False)


def night(found: Night, *, is_result: bool) -> None:
    """Which files of a schedule's input are new, before their plan. is_result: and nothing more than that."""
    from tamis.pipeline.commands.night_screens import artifact_of, in_a_line, show_night

    sorts = found.listing
    counts: dict[str, Any] = {}
    if sorts is not None:
        sizes = {"covered": sorts.covered, "touched": sorts.touched, "duplicates": sorts.duplicates}
        counts = {name: len(files) for name, files in sizes.items()}
        counts |= {"new": len(found.inputs.files), "changed": len(sorts.changed)}
    VOICE.show(
        lambda: show_night(console(), found),
        in_a_line(found),
        "night",
        last=is_result,
        also={"warnings": list(found.inputs.notes)},
        stage="plan",
        name=found.name,
        state=found.state,
        waiting=len(found.waiting),
        artifact=artifact_of(found),
        **counts,
    )
    if not VOICE.draws and not found.inputs.files:
        _warn(found.inputs.notes)


def plan(found: Plan, state: str, *, is_result: bool = False) -> None:
    """What will be done. is_result: and nothing more than that."""
    from tamis.pipeline.commands.screens import show_plan

    job, info, estimate = found.job, found.model_info, found.estimate
    sizes = (found.rows, "row"), (len(found.files), "file"), (len(found.shards), "shard")
    rows, files, shards = (f"{count:,} {name}{'' if count == 1 else 's'}" for count, name in sizes)
    words = f"{rows} of {files} in {shards}; the output is {state}"
    further: dict[str, Any] = {"further_models": [each.name for each in found.further]} if found.further else {}
    VOICE.show(
        lambda: show_plan(console(), found, state),
        f"{words}, and the run would fail" if found.will_fail else words,
        "plan",
        last=is_result,
        also=_of_plan_alone(found),
        stage="plan",
        state=state,
        files=len(found.files),
        rows=found.rows,
        shards=len(found.shards),
        bytes=found.bytes,
        tokens=round(estimate.tokens_per_row * found.rows),
        tokens_per_row=estimate.tokens_per_row,
        rows_sampled=estimate.sampled,
        unusable_share=estimate.bad,
        references=sum(shard.rows for shard in found.reference_shards),
        methods=list(job.method),
        model=job.model.name,
        **further,
        blocks=info.blocks,
        width=info.width,
        longest=found.max_tokens,
        output=job.output,
        will_fail=found.will_fail,
        **_placement(found),
    )
    if VOICE.draws:
        return
    for note in found.notes:
        say(note, stage="plan")
    _warn(found.warnings)
    for trouble in estimate.troubles:
        where = f"{trouble.file}, row {trouble.row}, counted from 0"
        words = f"{trouble.rows} x {trouble.code}: {trouble.message} ({where})"
        facts: dict[str, Any] = {"rows": trouble.rows, "code": trouble.code, "file": trouble.file, "row": trouble.row}
        say(words, "unusable", "warning", stage="plan", **facts)


def plan_from(found: KeptPlan) -> None:
    """What `tamis curate --from` would do, and nothing more than that."""
    from tamis.pipeline.commands.from_screen import facts_alone, facts_of, show_kept_plan, words_of

    VOICE.show(
        lambda: show_kept_plan(console(), found),
        words_of(found),
        "plan",
        last=True,
        also=facts_alone(found),
        stage="plan",
        **facts_of(found),
    )
    if not VOICE.draws and found.wanted is not None:
        _warn(found.wanted.notes)


def _of_plan_alone(found: Plan) -> dict[str, Any]:
    """Of the object that `plan --json` prints: what a log has in lines of their own, and the forecast."""
    return {
        "forecast": dict(found.forecast) or None,
        "estimate": {key: value for key, value in found.figures.items() if value is not None} or None,
        "notes": list(found.notes),
        "warnings": list(found.warnings),
        "unusable": [
            {name: getattr(trouble, name) for name in ("rows", "code", "message", "file", "row")}
            for trouble in found.estimate.troubles
        ],
    }


def samples(found: Plan) -> None:
    """Rows as the model will read them; people alone want them."""
    from tamis.pipeline.commands.sample_screen import show_samples

    if VOICE.draws:
        show_samples(console(), found.samples)


def refuse_samples() -> None:
    """ConfigError where rows are asked for that are never shown."""
    if not VOICE.draws:
        raise ConfigError("--show: rows are shown to people alone; leave it, or --json, --log-format and --quiet, out")


def layer_plan(found: LayerPlan, state: str) -> None:
    """What will be searched."""
    from tamis.pipeline.commands.screens import show_layer_plan

    info, job = found.model.info, found.job
    VOICE.show(
        lambda: show_layer_plan(console(), found, state),
        f"a search in {info.blocks} blocks; the output is {state}",
        "plan",
        stage="plan",
        state=state,
        model=job.model.name,
        blocks=info.blocks,
        width=info.width,
        references=sum(shard.rows for shard in found.references),
        output=job.output,
        **_placement(found),
    )
    if not VOICE.draws:
        _warn(found.placement.warnings if found.placement else ())


def outcome(
    manifest: Mapping[str, Any], store: Store, *, did_nothing: bool = False, also: Mapping[str, Any] | None = None
) -> None:
    """The result of a run. did_nothing: it was there before. also: further keys for `--json`."""
    from tamis.pipeline.commands.screens import show_outcome

    counts, tokens = manifest["counts"], manifest.get("tokens", {})
    words = ", ".join(f"{counts[name]:,} {name}" for name in ("kept", "dropped", "quarantined"))
    if counts.get("failed"):
        words += f", {counts['failed']:,} set aside"
    if tokens:
        words += f"; {tokens['discarded']:,} of {tokens['response']:,} response tokens masked"

    def draw() -> None:
        if did_nothing:
            console().print("this job is complete already; nothing was done. Its result:\n")
        show_outcome(console(), manifest, store)

    VOICE.show(
        draw,
        shown(f"{counts['rows_in']:,} rows: {words}; {store.path(KEPT)}"),
        "result",
        last=True,
        also={"warnings": list(manifest["warnings"]), **(also or {})},
        complete=manifest["complete"],
        did_nothing=did_nothing,
        **{name: counts[name] for name in ("rows_in", "kept", "dropped", "quarantined", "truncated")},
        failed=counts.get("failed", 0),
        unscored=manifest.get("unscored"),
        cut=tokens["cut"] if tokens else manifest["selection"]["cut"],
        response_tokens=tokens.get("response"),
        discarded_tokens=tokens.get("discarded"),
        quarantine_codes={code: facts["rows"] for code, facts in manifest["quarantine_codes"].items()},
        seconds=manifest["timings"]["total"]["seconds"],
        stage_seconds={name: timing["seconds"] for name, timing in manifest["timings"].items() if name != "total"},
        report=store.path(REPORT),
        corpus=store.path(KEPT),
        **_verdict(manifest.get("trust")),
        **_drift(manifest.get("drift")),
    )
    if not VOICE.draws:
        _warn(manifest["warnings"])


def _verdict(trust: Mapping[str, Any] | None) -> dict[str, Any]:
    found = (trust or {}).get("verdict")
    return {"verdict": found["verdict"], "verdict_reasons": found["reasons"]} if found else {}


def _drift(found: Mapping[str, Any] | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {"drift": {item["name"]: item["psi"] for item in found["figures"]}, "drift_exceeded": found["exceeded"]}


def references(trained: Sequence[Mapping[str, Any]], store: Store) -> None:
    """The reference models."""
    from tamis.pipeline.commands.token_screens import show_references

    keys = ("name", "how", "source", "rows", "response_tokens", "steps")
    models = []
    for item in trained:
        losses = [point["loss"] for point in item["curve"]]
        ends = {"first_loss": losses[0], "last_loss": losses[-1]} if losses else {}
        models.append({key: item[key] for key in keys} | ends)
    VOICE.show(
        lambda: show_references(console(), trained, store),
        shown(f"{len(models)} reference models; {store.path(REFERENCES)}"),
        "result",
        last=True,
        models=models,
        output=store.path(REFERENCES),
    )


def layers(
    result: Mapping[str, Any], store: Store, *, did_nothing: bool, also: Mapping[str, Any] | None = None
) -> None:
    """The block that was found. did_nothing: it was there before. also: further keys for `--json`."""
    from tamis.pipeline.commands.screens import show_layers

    def draw() -> None:
        if did_nothing:
            console().print("this search is complete already; nothing was done. Its result:\n")
        show_layers(console(), result, store)

    chosen = result["chosen"]
    VOICE.show(
        draw,
        shown(f"LARF reads the output of block {chosen['block']} (0-based); {store.path(LAYERS)}"),
        "result",
        last=True,
        also={"warnings": list(result["warnings"]), **(also or {})},
        did_nothing=did_nothing,
        block=chosen["block"],
        chosen_by=chosen["how"],
        numbers=store.path(LAYERS),
        page=store.path(LAYERS_PAGE),
    )
    if not VOICE.draws:
        _warn(result["warnings"])


def evaluation(found: Mapping[str, Any], *, as_json: bool) -> None:
    """The scores and the decision of a run against labels."""
    from tamis.pipeline.commands.evaluate_screen import in_a_line, show_evaluation

    _figures(found, show_evaluation, in_a_line(found), as_json)


def tuning(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Every way to score the corpus of a run, against labels."""
    from tamis.pipeline.commands.tune_screen import in_a_line, show_tuning

    _figures(found, show_tuning, in_a_line(found), as_json)


def comparison(figures: Mapping[str, Any], written: Mapping[str, str], *, as_json: bool) -> None:
    """Several runs side by side. written: where its files lie."""
    from tamis.pipeline.commands.compare_screen import in_a_line, show_compared

    if as_json:
        VOICE.answer({**figures, **written})
        return
    shared = figures["rows"]["shared"]
    VOICE.show(
        lambda: show_compared(console(), figures, written),
        shown(in_a_line(figures)),
        "result",
        last=True,
        rows=shared,
        page=written.get("page"),
        numbers=written.get("numbers"),
    )
    if not VOICE.draws:
        _warn(figures["notes"])


def certificate(found: Certificate, *, as_json: bool) -> None:
    """What labels certify of a run, after the warnings about them."""
    from tamis.pipeline.commands.certificate import lines_of

    facts = found.to_dict()
    _warn(found.warnings)
    if as_json:
        VOICE.rest()
        print(json.dumps(facts, indent=2, allow_nan=False))
        return
    result("\n".join(lines_of(found)), **facts)


def certified(found: Certificate) -> None:
    """The certificate of a cut that is about to be made."""
    from tamis.pipeline.commands.certificate import lines_of

    _warn(found.warnings)
    for line in lines_of(found):
        say(line.strip(), stage="select")


def _figures(found: Mapping[str, Any], draw: Callable[..., None], line: str, as_json: bool) -> None:
    """Figures over labelled rows: as JSON, or as a screen."""
    if as_json:
        VOICE.rest()
        print(json.dumps(found, indent=2, allow_nan=False))
        return
    labelled, where = found["labels"]["labelled"], found["output"]
    VOICE.show(lambda: draw(console(), found), shown(line), "result", last=True, rows=labelled, output=where)
    if not VOICE.draws:
        _warn(found["notes"])


def result(line: str, also: Mapping[str, Any] | None = None, **facts: Any) -> None:
    """The result of a command that has no screen. line: its lines on stdout. also: further keys for `--json`."""
    words = "; ".join(part.strip() for part in line.splitlines())
    VOICE.show(lambda: print(line), words, "result", last=True, also=also, **facts)


def written_job(found: Written) -> None:
    """The job file that `tamis init` has written, what it saw, and what comes next."""
    _warn(found.warnings)
    model = "" if found.has_model else " --model MODEL"
    then = f"next: tamis plan {shlex.quote(found.path)}{model}"
    words = [*found.seen, f"written: {found.path}", then]
    result("\n".join(shown(word) for word in words), files=found.files, rows=found.rows, output=found.path)
    if found.will_fail:
        raise InputError(f"{found.path} is written, but the run would fail as it is; see the warnings above")


def in_lines(lines: Sequence[str]) -> None:
    """What a command that only looks has seen, which is its result: all of it, quiet or not."""
    if VOICE.as_json:
        for line in lines:
            if line:
                say(line.strip(), "result", last=True)
    else:
        VOICE.rest()
        print("\n".join(lines))


def _placement(found: Plan | LayerPlan) -> dict[str, Any]:
    placed = found.placement
    return {} if placed is None else {"workers": placed.text, "weights": placed.weights}


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        warn_once(warning)

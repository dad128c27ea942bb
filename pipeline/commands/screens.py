"""What a person sees on the terminal: the plan, the summary, the state of an output folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tamis.pipeline.cluster.pools import Placement
from tamis.pipeline.commands.screen_parts import counts_table, plain, rates
from tamis.pipeline.commands.token_screens import show_token_outcome
from tamis.pipeline.inputs.shards import role_of
from tamis.pipeline.planning.order import corpus_side, writes_scores
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.planning.sampling import Trouble
from tamis.pipeline.report import text
from tamis.pipeline.report.drift import lines as drift_lines
from tamis.pipeline.report.layers import lead, marks
from tamis.pipeline.report.prose import layer_found
from tamis.pipeline.report.verdict import CARE, SOUND, words
from tamis.pipeline.run.paths import KEPT, LAYERS, LAYERS_PAGE, REPORT
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.text import shown

if TYPE_CHECKING:
    from tamis.pipeline.planning.layer_plan import LayerPlan

_SHOWN_FILES, _SHOWN_UNREAD = 20, 10


def show_plan(console: Console, plan: Plan, state: str) -> None:
    """Files, dialects, sizes, what will be captured, and all warnings."""
    job, info, estimate = plan.job, plan.model_info, plan.estimate
    table = Table(title="input", title_justify="left", box=None, pad_edge=False)
    for name, justify in (
        ("file", "left"),
        ("format", "left"),
        ("conversations", "left"),
        ("rows", "right"),
        ("bytes", "right"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for item in plan.files[:_SHOWN_FILES]:
        kind = item.file.format + (f" ({item.file.compression})" if item.file.compression else "")
        dialect = plain(item.dialect.describe())
        table.add_row(plain(item.file.name), kind, dialect, f"{item.rows:,}", size(item.file.bytes))
    if len(plan.files) > _SHOWN_FILES:
        rest = plan.files[_SHOWN_FILES:]
        kinds = Counter(item.dialect.describe() for item in rest)
        rows = sum(item.rows for item in rest)
        table.add_row(
            f"and {len(rest):,} more",
            "",
            plain("; ".join(kinds)),
            f"{rows:,}",
            size(sum(i.file.bytes for i in rest)),
        )
    console.print(table)
    tokens = estimate.tokens_per_row * plan.rows
    references: Counter[tuple[str, str]] = Counter()
    for shard in plan.reference_shards:
        references[shard.role, shard.file.name] += shard.rows
    facts = {
        "not read": _unread(plan),
        "rows": f"{plan.rows:,} in {len(plan.shards):,} shards, {size(plan.bytes)}",
        "tokens": f"about {tokens:,.0f} ({estimate.tokens_per_row:,.0f} a row, from {estimate.sampled} sampled)",
        "model": f"{job.model.name}: {info.architecture}, {info.blocks} blocks x {info.width}",
        **{f"model {number}": each.in_words for number, each in enumerate(plan.further, 2)},
        "method": ", ".join(job.method),
        "layer": _layer(plan),
        **_said_by_methods(plan),
        "captured": _captured(plan),
        "references": ", ".join(f"{rows} {role} ({name})" for (role, name), rows in references.items()) or "none",
        "corpus side": corpus_side(plan),
        "drop": _drop(plan),
        "artifact": _artifact(plan),
        "longest": f"{plan.max_tokens:,} tokens; longer ones: {job.overlong}",
        **_placement(plan.placement),
        **plan.forecast,
        "output": f"{job.output} ({STATES[state]})",
        "lineage": "" if job.lineage is None else f"OpenLineage events of `tamis curate` to {job.lineage.to}",
    }
    grid = Table.grid(padding=(0, 2))
    for name, said in facts.items():
        if said:
            grid.add_row(name, plain(said))
    console.print()
    console.print(grid)
    for note in plan.notes:
        console.print(f"note: {plain(note)}", highlight=False)
    for warning in plan.warnings:
        console.print(f"[yellow]warning:[/] {plain(warning)}")
    for trouble in estimate.troubles:
        console.print(plain(_trouble(trouble)), highlight=False)
    console.print()


def _trouble(trouble: Trouble) -> str:
    """Sampled rows that cannot be used, and why."""
    where = f"{trouble.rows} x {trouble.code}: {trouble.message} ({trouble.file}, row {trouble.row}, counted from 0)"
    return f"  {where}: {trouble.text}" if trouble.text else f"  {where}"


STATES = {"new": "new", "started": "begun, will go on", "complete": "complete"}


def _unread(plan: Plan) -> str:
    """What lies in the input's folders and is not read; empty if there is nothing."""
    names, hidden = plan.unread.files, plan.unread.hidden
    said = []
    if names:
        more = f" and {len(names) - _SHOWN_UNREAD:,} more" if len(names) > _SHOWN_UNREAD else ""
        said.append(
            f"{len(names):,} {'file' if len(names) == 1 else 'files'}: {', '.join(names[:_SHOWN_UNREAD])}{more}"
        )
    if hidden:
        said.append(f"{hidden:,} with a hidden or underscored name")
    return "; ".join(said)


def _placement(found: Placement | None) -> dict[str, str]:
    return {} if found is None else {"workers": found.text, "weights": found.weights}


def _artifact(plan: Plan) -> str:
    """What is applied instead of a fit, and which settings come with it; empty without."""
    if plan.artifact is None:
        return ""
    taken = ", ".join(plan.artifact.taken)
    return plan.artifact.frozen.where + (f"; taken from it: {taken}" if taken else "")


def _drop(plan: Plan) -> str:
    job = plan.job
    if plan.artifact is not None:
        facts = plan.artifact.frozen.facts
        where = "nothing, as in the run" if facts.cut.score is None else f"what scores above {facts.cut.score:.6g}"
        return f"{where} of the artifact (made by {facts.how}), by {facts.selected_by}"
    if job.masks_tokens:
        toss = job.masking
        return f"no samples; the loss of {toss.discard:g} of the response tokens is masked ({toss.scope})"
    rule, amount = job.selection.rule
    control = f", {job.selection.control} control" if job.selection.control else ""
    control += f", within each {job.selection.within}" if job.selection.within else ""
    return f"{rule.replace('_', ' ')} {amount:g}, by {job.selected_by}{control}"


def _layer(plan: Plan) -> str:
    """How LARF's block is found; empty where the job names it."""
    if plan.layers is None or plan.larf is None:
        return ""
    if plan.unsettled:
        return f"larf: {_search_size(plan.layers)}, before anything else"
    return f"larf: block {plan.larf.layer}, {layer_found(plan.larf.layer_chosen)}"


def _said_by_methods(plan: Plan) -> dict[str, str]:
    """By name, what methods want said of what they will do."""
    rows: Counter[str] = Counter()
    for shard in plan.reference_shards:
        rows[shard.role] += shard.rows
    return {
        name: method.planned(
            plan.model_info.blocks,
            {source: rows[role] for source in method.sources() if (role := role_of(name, source)) in rows},
        )
        for name, method in plan.methods.items()
    }


def _search_size(plan: LayerPlan) -> str:
    blocks = plan.model.info.blocks
    rows = Counter(role for shard in plan.references for role in [shard.role] * shard.rows)
    ratios = f"Fisher ratios of {blocks} blocks on {rows['larf.unsafe']} unsafe and {rows['larf.safe']} safe references"
    if plan.prompts is None:
        return ratios
    from tamis.pipeline.layers.search import (
        all_cells,  # imported here: with a plan, torch is imported anyway; without one, only this would import it
    )

    count = len(plan.prompts.texts)
    return (
        f"search in {len(all_cells(blocks)):,} cells of {count:,} prompts ({plan.prompts.name}), and {ratios}, which "
        "choose where no block moves the refusals"
    )


def _captured(plan: Plan) -> str:
    if plan.job.masks_tokens:
        return "the loss of each response token under two reference models"
    blocks = [f"block {r.block} (0-based), {r.position}" for r in plan.requests]
    if plan.unsettled:
        return ", ".join([*blocks, "larf's block"])
    return f"{', '.join(blocks)}; blocks above {max(r.block for r in plan.requests)} are not loaded{_order(plan)}"


def _order(plan: Plan) -> str:
    if plan.artifact is not None:
        return ""
    if writes_scores(plan):
        drawn = " and the drawn rows" if plan.corpus_samples else ""
        return f"; the references{drawn} first, then the corpus as scores"
    if plan.job.keep_captures == "scores":
        readers = [
            name for name, method in plan.methods.items() if method.reads_corpus and name not in plan.corpus_samples
        ]
        return f"; as vectors, which {' and '.join(readers)} must read to be fitted, and which do not stay"
    return ""


def show_layer_plan(console: Console, plan: LayerPlan, state: str) -> None:
    """What will be searched, and all warnings."""
    info, job = plan.model.info, plan.job
    grid = Table.grid(padding=(0, 2))
    grid.add_row("model", plain(f"{job.model.name}: {info.architecture}, {info.blocks} blocks x {info.width}"))
    grid.add_row("layers", plain(_search_size(plan)))
    for name, said in _placement(plan.placement).items():
        grid.add_row(name, plain(said))
    grid.add_row("output", plain(f"{job.output} ({STATES[state]})"))
    console.print(grid)
    for warning in plan.placement.warnings if plan.placement else ():
        console.print(f"[yellow]warning:[/] {plain(warning)}")
    console.print()


def show_layers(console: Console, result: Mapping[str, Any], store: Store) -> None:
    """The search and the Fisher ratios side by side, one row per block, and the chosen block."""
    search, fisher, chosen = result["search"], result["fisher"], result["chosen"]
    table = Table(box=None, pad_edge=False)
    table.add_column("block", justify="right")
    factors = list(result["blocks"][0]["refusals"]) if search else []
    for name in [*(plain(f"x {factor}") for factor in factors), *(["D1", "D2", "D3", "sensitivity"] if search else [])]:
        table.add_column(name, justify="right")
    if fisher:
        table.add_column("Fisher ratio", justify="right")
    table.add_column("")
    for row in result["blocks"]:
        counts = [plain(row["refusals"][factor]) for factor in factors]
        counts += [plain(row[name]) for name in ("d1", "d2", "d3", "sensitivity")] if search else []
        ratio = [text.score(row["fisher"], 4)] if fisher else []
        style = "bold" if row["block"] == chosen["block"] else None
        table.add_row(plain(row["block"]), *counts, *ratio, plain(", ".join(marks(result, row["block"]))), style=style)
    console.print(table)
    console.print()
    if search:
        console.print(
            f"refusals among {search['prompts']['count']:,} answers, unscaled {search['unscaled']:,}", highlight=False
        )
    console.print(f"[bold]{plain(lead(result))}[/] LARF reads the output of block {plain(chosen['block'])} (0-based).")
    for warning in result["warnings"]:
        console.print(f"[yellow]warning:[/] {plain(warning)}")
    console.print()
    for name, file in (("numbers", LAYERS), ("page", LAYERS_PAGE)):
        console.print(f"{name:<8} {shown(store.path(file))}", soft_wrap=True, markup=False, highlight=False)


def show_outcome(console: Console, manifest: Mapping[str, Any], store: Store) -> None:
    """The summary at the end of a run: counts, the cut, rates, and where to look."""
    if manifest.get("kind") == "tokens":
        show_token_outcome(console, manifest, store)
        return
    counts, timings = manifest["counts"], manifest["timings"]
    console.print(f"[bold]{plain(manifest['title'])}[/]", highlight=False)
    if line := verdict_line(manifest.get("trust")):
        console.print(line, highlight=False)
    table = counts_table(counts)
    console.print(table)
    console.print()
    grid = Table.grid(padding=(0, 2))
    for method in manifest["methods"]:
        found = layer_found(method["facts"].get("layer_chosen"))
        where = _read_at(method)
        said = [method["name"], where, method["position"], found]
        grid.add_row("method", plain(", ".join(part for part in said if part)))
    selection = manifest["selection"]
    cut = "" if selection["cut"] is None else f"; the cut is at score {selection['cut']:.6g}"
    grid.add_row("selection", plain(f"{selection['how']} by {manifest['selected_by']}{cut}"))
    for line in drift_lines(manifest.get("drift")):
        grid.add_row("drift", plain(line))
    spearman = manifest["score_length_spearman"]
    if spearman is not None:
        grid.add_row(
            "score and length",
            f"Spearman {spearman:+.2f} (near +1 or -1 it would be a length filter)",
        )
    for stage in ("capture", "fit", "emit", "trust"):
        if stage in timings:
            grid.add_row(stage, rates(timings[stage]))
    extra = [f"{label} {timings[key]['seconds']:.1f} s" for key, label in _OVERHEADS.items() if key in timings]
    grid.add_row("all in all", f"{timings['total']['seconds']:.1f} s ({', '.join(extra)})")
    for code, facts in manifest["quarantine_codes"].items():
        grid.add_row("quarantined", plain(f"{facts['rows']:,} × {code}: {facts['message']}"))
    console.print(grid)
    for warning in manifest["warnings"]:
        console.print(f"[yellow]warning:[/] {plain(warning)}")
    console.print()
    console.print(f"report   {shown(store.path(REPORT))}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"corpus   {shown(store.path(KEPT))}/*.parquet", soft_wrap=True, markup=False, highlight=False)


def verdict_line(trust: Mapping[str, Any] | None) -> str:
    """What the test of the filter found, with its first reason, styled; empty where an older tamis has not tested."""
    found = (trust or {}).get("verdict")
    if not found:
        return ""
    style = {SOUND: "green", CARE: "yellow"}.get(found["verdict"], "bold red")
    return f"[{style}]{plain(words(found))}[/]"


def _read_at(method: Mapping[str, Any]) -> str | None:
    """The block or the blocks that a method of a finished run has read."""
    if method["layer"] is not None:
        return f"output of block {method['layer']} (0-based)"
    blocks = method["facts"].get("blocks")
    return f"outputs of blocks {', '.join(map(str, blocks))} (0-based)" if isinstance(blocks, list) else None


_OVERHEADS = {"plan": "plan", "ray_start": "Ray's start", "layers": "layer search", "model_load": "model load"}


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

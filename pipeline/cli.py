"""The commands. Results go to stdout, progress and errors to stderr, with --log-format json all of it to stderr; exit
codes are those of errors.py."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.pipeline.cluster.collecting import collect_rarely
from tamis.pipeline.cluster.leaving import leave
from tamis.pipeline.commands.ending import end, fail, reading
from tamis.pipeline.commands.flag_values import methods_so_far, names, share
from tamis.pipeline.commands.followed import watch
from tamis.pipeline.commands.last_resort import watch_threads
from tamis.pipeline.commands.log_flags import Commands, code_of, foreseen
from tamis.pipeline.commands.log_flags import end as last_words
from tamis.pipeline.commands.stopping import demanded, listen
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.run.paths import MANIFEST
from tamis.pipeline.terminal.progress import phase
from tamis.pipeline.terminal.streams import flush, prepare
from tamis.pipeline.terminal.text import shown
from tamis.pipeline.terminal.voice import VOICE

app = Commands(
    help="Find and remove the fine-tuning samples that would erode an aligned model's safety.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JobAndFiles = Annotated[
    list[str] | None,
    typer.Argument(help="A job file (.yaml), and any input files that the shell made of a glob.", show_default=False),
]
JobFile = Annotated[str | None, typer.Argument(help="A job file (.yaml).", show_default=False)]
Input = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", help="A file, folder, glob or URL with the corpus; may be given again."),
]
Output = Annotated[str | None, typer.Option("--output", "-o", help="Folder or URL of the output; made if missing.")]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Folder of a transformers model, or its name on the hub.")
]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of the model on the hub.")]
MethodFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="contrast, larf, saft, matching, compliance, csa or one that an installed distribution offers (several as "
        "larf,saft, or given again), or toss or toss-pro.",
        autocompletion=methods_so_far,
    ),
]
Drop = Annotated[
    float | None,
    typer.Option(
        "--drop",
        metavar="SHARE",
        parser=share,
        help="Share of the rows to drop, the riskiest first: 0.1 or 10% (default 0.1).",
    ),
]
DropCount = Annotated[int | None, typer.Option("--drop-count", help="Number of rows to drop, the riskiest first.")]
ThresholdFlag = Annotated[float | None, typer.Option("--threshold", help="Drop every row that scores above this.")]
ArtifactFlag = Annotated[
    str | None,
    typer.Option(
        "--artifact",
        help="Output of a finished run, or its artifact/: score and cut with what was fitted there, at the same score.",
    ),
]
FromFlag = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="OUT",
        help="Output of a finished run with keep_captures: vectors: fit the methods to what it has captured, without "
        "the model. Settings that are not given are those of that run.",
        show_default=False,
    ),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Address of a Ray cluster to join (or RAY_ADDRESS); default: Ray on this machine."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Copies of the model; default: one a GPU, or one a CPU node.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Set any key of the job file, e.g. --set larf.layer=5; may be given again."),
]
DateFlag = Annotated[
    str | None,
    typer.Option("--date", help="With schedule: the night to run, as 2026-11-29; default: today, UTC."),
]
StorageOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-options",
        metavar="KEY=VALUE",
        help="An option for the output's storage, as storage_options has it in the job file; may be given again.",
    ),
]
Lineage = Annotated[
    str | None,
    typer.Option(
        "--lineage",
        metavar="FILE",
        help="Add OpenLineage events of the run to this file, or send them as the client is configured (`config`).",
    ),
]
PromptsFlag = Annotated[
    str | None,
    typer.Option("--prompts", help="File of harmless prompts that sound unsafe; default: the shipped set."),
]
Show = Annotated[
    int | None,
    typer.Option(
        "--show",
        min=0,
        help="How many rows to show as they are rendered (default 1); if given, also the text of rows that cannot be "
        "used.",
    ),
]
Rate = Annotated[
    str | None,
    typer.Option(
        "--rate",
        metavar="TOKENS|FLOPS|OUT",
        help="For the time that the plan tells: tokens a second of one worker (of the corpus; for toss, under both "
        "models), its operations as 400TFLOPS, or the output of an earlier run that measured it.",
    ),
]
LabelsFlag = Annotated[
    str,
    typer.Option(
        "--labels",
        metavar="FILE|COLUMN",
        help="Which rows are harmful: a file (JSONL, CSV, Parquet) with sample_id or row, and harmful (1 or 0), or a "
        "column of the corpus.",
        show_default=False,
    ),
]
DeltaFlag = Annotated[
    float, typer.Option("--delta", help="Chance that more of the kept rows are harmful than certified.")
]
UpTo = Annotated[
    float, typer.Option("--up-to", help="The largest share of rows to keep that is tried: 0.15, 0.2, ... 1.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")]
Answer = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object, and nothing else, to stdout.")
]
OutputFolder = Annotated[str, typer.Argument(help="The output folder of a run.", show_default=False)]


def main() -> None:
    """Entry point of the console script."""
    try:
        _main()
    except SystemExit as ending:
        code = demanded() or code_of(ending)
        last_words(code)
        leave(code)
        if code != code_of(ending):
            sys.exit(code)
        raise
    last_words(0)
    leave(0)


def _main() -> None:
    _settle()
    try:
        # With standalone_mode=False, typer.Exit becomes a return value.
        code = app(standalone_mode=False)
        flush(sys.stdout)
        if isinstance(code, int):
            sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(130)  # commands/stopping.py has printed the message
    except SystemExit as ending:
        if not isinstance(ending.__context__, BrokenPipeError):  # click turns that error into a bare exit
            raise
        end(ending.__context__)
    except BaseException as error:
        end(error)


def _settle() -> None:
    """Set up our own process: its streams, signals, hooks and garbage collector."""
    prepare()
    listen()
    watch()
    watch_threads()
    foreseen(sys.argv[1:])
    collect_rarely()
    if sys.flags.optimize > 1:
        fail("Python keeps no docstrings (-OO, PYTHONOPTIMIZE=2), and Ray and transformers need them; unset it", 2)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        import importlib.metadata

        print(f"tamis {importlib.metadata.version('tamis')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit


@app.command()
def curate(
    job: JobAndFiles = None,
    input: Input = None,
    output: Output = None,
    model: Model = None,
    revision: Revision = None,
    method: MethodFlag = None,
    drop: Drop = None,
    drop_count: DropCount = None,
    threshold: ThresholdFlag = None,
    artifact: ArtifactFlag = None,
    address: Address = None,
    workers: Workers = None,
    date: DateFlag = None,
    lineage: Lineage = None,
    set: Sets = None,
    from_run: FromFlag = None,
    as_json: Answer = False,
) -> None:
    """Score a corpus, and write it back without its riskiest samples."""
    VOICE.answers = as_json
    flags = (input, output, model, revision, method, drop, drop_count, threshold, workers, set)
    if from_run is not None:
        _curate_kept(from_run, _settings(job, *flags, artifact, date, lineage), address)
        return
    made = _job(job, *flags, artifact, date, lineage)
    _quiet_libraries()
    from tamis.pipeline.commands import showing
    from tamis.pipeline.curate import curate as run
    from tamis.pipeline.run.incomplete import refuse
    from tamis.pipeline.run.set_aside import SetAside
    from tamis.pipeline.storage.store import Store

    if made.schedule is None:
        outcome = run(made, address, on_plan=showing.plan)
    else:
        from tamis.pipeline.nights.night import Night, curate_night

        def on_night(found: Night) -> None:
            # Of a night that is finished, its outcome follows.
            showing.night(found, is_result=found.state != "finished" and not found.inputs.files)

        of_night = curate_night(made, address, on_night, showing.plan)
        if of_night is None:
            return
        outcome = of_night
    store = Store(made.output, made.storage_options)
    with reading(store.path()) if outcome.did_nothing else nullcontext():
        showing.outcome(outcome.manifest, store, did_nothing=outcome.did_nothing)
    if not outcome.manifest["complete"]:
        refuse([SetAside(**item) for item in outcome.manifest["failed"]])
    if outcome.manifest.get("drift") is not None:
        from tamis.pipeline.fit import drift

        drift.refuse(outcome.manifest["drift"], made.drift_limit, store.path())


def _curate_kept(run: str, settings: tuple[str | None, dict[str, Any], list[str]], address: str | None) -> None:
    """`tamis curate --from`."""
    from tamis.pipeline.job.job_file import settings_in

    given = settings_in(*settings)
    _quiet_libraries()
    from tamis.pipeline.commands import showing
    from tamis.pipeline.recipes.from_kept import curate_kept
    from tamis.pipeline.run.incomplete import refuse
    from tamis.pipeline.run.set_aside import SetAside

    found = curate_kept(run, given, address)
    with reading(found.store.path()) if found.did_nothing else nullcontext():
        showing.outcome(found.manifest, found.store, did_nothing=found.did_nothing)
    if not found.manifest["complete"]:
        refuse([SetAside(**item) for item in found.manifest["failed"]])


@app.command()
def plan(
    job: JobAndFiles = None,
    input: Input = None,
    output: Output = None,
    model: Model = None,
    revision: Revision = None,
    method: MethodFlag = None,
    drop: Drop = None,
    drop_count: DropCount = None,
    threshold: ThresholdFlag = None,
    artifact: ArtifactFlag = None,
    address: Address = None,
    workers: Workers = None,
    date: DateFlag = None,
    lineage: Lineage = None,
    set: Sets = None,
    show: Show = None,
    rate: Rate = None,
    from_run: FromFlag = None,
    as_json: Answer = False,
) -> None:
    """Dry run: look at the input, the model and the output, say what would be done, and fail if it would fail."""
    VOICE.answers = as_json
    flags = (input, output, model, revision, method, drop, drop_count, threshold, workers, set)
    if from_run is not None:
        _plan_kept(from_run, _settings(job, *flags, artifact, date, lineage), show, rate)
        return
    made = _job(job, *flags, artifact, date, lineage)
    _quiet_libraries()
    from tamis.pipeline.commands import showing
    from tamis.pipeline.curate import dry_run

    if show:
        showing.refuse_samples()
    rows = 1 if show is None else show
    if made.schedule is None:
        planned, state = dry_run(made, address, rows, with_texts=bool(show), rate=rate)
    else:
        from tamis.pipeline.nights.night import Night, plan_night

        def on_night(found: Night) -> None:
            showing.night(found, is_result=not found.inputs.files)

        found = plan_night(made, address, on_night, rows, with_texts=bool(show), rate=rate)
        if found is None:
            return
        planned, state = found
    showing.plan(planned, state, is_result=True)
    showing.samples(planned)
    if planned.will_fail:
        fail("the run would fail; see the warnings above", 3)


def _plan_kept(run: str, settings: tuple[str | None, dict[str, Any], list[str]], show: Any, rate: Any) -> None:
    """`tamis plan --from`."""
    from tamis.pipeline.job.job_file import settings_in

    for flag, given in (("--show", show), ("--rate", rate)):
        if given is not None:
            raise ConfigError(f"{flag}: with --from no row is rendered and no model runs; leave {flag} out")
    given = settings_in(*settings)
    _quiet_libraries()
    from tamis.pipeline.commands import showing
    from tamis.pipeline.recipes.from_kept import plan_kept

    found = plan_kept(run, given)
    showing.plan_from(found)
    if found.refused is not None:
        raise found.refused


@app.command()
def references(
    job: JobAndFiles = None,
    input: Input = None,
    output: Output = None,
    model: Model = None,
    revision: Revision = None,
    method: MethodFlag = None,
    address: Address = None,
    workers: Workers = None,
    set: Sets = None,
) -> None:
    """Train the reference models of TOSS alone; `tamis curate` with the same job goes on with them."""
    made = _job(job, input, output, model, revision, method, None, None, None, workers, set)
    _quiet_libraries()
    from tamis.pipeline.commands import showing
    from tamis.pipeline.curate import train_references
    from tamis.pipeline.storage.store import Store

    trained = train_references(made, address, on_plan=showing.plan)
    showing.references(trained, Store(made.output, made.storage_options))


@app.command()
def layers(
    job: JobFile = None,
    output: Output = None,
    model: Model = None,
    revision: Revision = None,
    prompts: PromptsFlag = None,
    address: Address = None,
    workers: Workers = None,
    set: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Search the block of a model that LARF should read, and show the Fisher ratios beside it."""
    from tamis.pipeline.job.job_file import load_layers_job

    flags = {**_model_flags(output, model, revision, workers), "larf.over_rejection_prompts": prompts}
    made = load_layers_job(job, {key: value for key, value in flags.items() if value is not None}, set or [])
    _quiet_libraries()
    from tamis.pipeline.commands import showing
    from tamis.pipeline.layers.find import find_layers
    from tamis.pipeline.storage.store import Store

    outcome = find_layers(made, address, None if as_json else showing.layer_plan)
    if as_json:
        print(json.dumps(outcome.result, indent=2))
        return
    showing.layers(outcome.result, Store(made.output, made.storage_options), did_nothing=outcome.did_nothing)


@app.command()
def refit(
    nights: Annotated[
        list[str],
        typer.Argument(
            help="Outputs of finished runs with keep_captures: vectors, or a root that holds them.", show_default=False
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the artifact; it must not hold anything.")],
    address: Address = None,
    storage_options: StorageOptions = None,
) -> None:
    """Fit a new artifact on the kept captures of several runs, without a model: as one run over all of them would."""
    _quiet_libraries()
    from tamis.pipeline.commands import showing
    from tamis.pipeline.job import job_file as job
    from tamis.pipeline.nights.refit import refit as run
    from tamis.pipeline.nights.refit import runs_at
    from tamis.pipeline.storage.store import Store

    options = job.storage_options(storage_options or [])
    folder = Store(output, options)
    made = run(runs_at([Store(night, options) for night in nights]), [], folder, address)
    cut = "nothing falls" if made["cut"] is None else f"the cut is at score {made['cut']:.6g}"
    fitted = (
        f"fitted on {made['scored']:,} scored rows of {len(made['nights']):,} runs; {cut}, {made['fell']:,} beyond it"
    )
    then = shown(f"score new data with --artifact {folder.path()}")
    showing.result(f"{fitted}\n{then}", rows=made["scored"], cut=made["cut"], output=folder.path())


@app.command()
def select(
    run: Annotated[str, typer.Argument(help="The output folder of a finished run.", show_default=False)],
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder or URL of the new output; it must not hold anything.")
    ],
    drop: Annotated[
        float | None,
        typer.Option(
            "--drop",
            metavar="SHARE",
            parser=share,
            help="Share of the scored rows to drop, the riskiest first: 0.05 or 5% (default: the run's rule).",
        ),
    ] = None,
    drop_count: DropCount = None,
    threshold: ThresholdFlag = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            help="The method of the run whose score decides, or ranks, the mean of all (default: as there).",
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            "--control", help="random or length_matched: drop as many rows at random instead, for a comparison."
        ),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option("--within", help="source or length_decile: drop the same share inside every group of rows."),
    ] = None,
    certify: Annotated[
        float | None,
        typer.Option(
            "--certify",
            metavar="ALPHA",
            help="Keep the most rows of which, by --labels, at most this share is harmful.",
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="FILE|COLUMN", help="For --certify: as `tamis certify` has them.")
    ] = None,
    trust_labels: Annotated[
        bool,
        typer.Option("--trust-labels", help="For --certify: take the labelled rows for a random sample, unproven."),
    ] = False,
    delta: DeltaFlag = 0.1,
    up_to: UpTo = 0.7,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of a control (default: the run's).")] = None,
    allow_majority: Annotated[
        bool, typer.Option("--allow-majority", help="Permit a cut that drops more than half of the rows.")
    ] = False,
    address: Address = None,
    storage_options: StorageOptions = None,
) -> None:
    """Cut the scores of a finished run anew, into another output: seconds, and no model."""
    _quiet_libraries()
    from tamis.pipeline.commands import showing
    from tamis.pipeline.commands.certified_cut import certified_choice
    from tamis.pipeline.job import job_file as job
    from tamis.pipeline.planning.reselection import Choice
    from tamis.pipeline.recipes.select import select as cut
    from tamis.pipeline.run.incomplete import refuse
    from tamis.pipeline.run.set_aside import SetAside
    from tamis.pipeline.storage.store import Store

    store = Store(run, job.storage_options(storage_options or []))
    choice = Choice(drop, drop_count, threshold, by, control, within, seed, allow_majority)
    with reading(store.path()):
        choice, certificate = certified_choice(store, choice, certify, labels, delta, up_to, trust_labels)
    if certificate is not None:
        showing.certified(certificate)
    found = cut(store, choice, output, address, certificate)
    with reading(found.store.path()) if found.did_nothing else nullcontext():
        showing.outcome(found.manifest, found.store, did_nothing=found.did_nothing)
    if not found.manifest["complete"]:
        refuse([SetAside(**item) for item in found.manifest["failed"]])


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="The output folders of two or more finished runs, or selections.", show_default=False),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the page and its numbers go: a folder, or a file .html or .json; default: nowhere. The page "
            "shows sample texts.",
        ),
    ] = None,
    shared_only: Annotated[
        bool,
        typer.Option("--shared-only", help="Where the runs are not of the same rows, compare those that all have."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a comparison that is there.")] = False,
    as_json: AsJson = False,
    storage_options: StorageOptions = None,
) -> None:
    """Compare finished runs over the same rows: what they drop together and alone, ranks, shares per source, length."""
    from tamis.pipeline.commands import compare_screen as screen
    from tamis.pipeline.commands import showing
    from tamis.pipeline.commands.compare import compare as run
    from tamis.pipeline.job import job_file as job
    from tamis.pipeline.storage.store import Store

    options = job.storage_options(storage_options or [])
    stores = [Store(each, options) for each in runs]
    files = {} if output is None else screen.files_of(output, stores, options, force=force)
    with reading(", ".join(store.path() for store in stores)):
        found = run(stores, shared_only=shared_only)
        written = screen.write(found, files)
    showing.comparison(found.figures, written, as_json=as_json)


@app.command()
def status(output: OutputFolder, as_json: Answer = False, storage_options: StorageOptions = None) -> None:
    """Say how far the run in an output folder is, and who is at work on it."""
    VOICE.answers = as_json
    from tamis.pipeline.commands.status import show_status
    from tamis.pipeline.job import job_file as job
    from tamis.pipeline.storage.store import Store

    store = Store(output, job.storage_options(storage_options or []))
    with reading(store.path()):
        show_status(store)


@app.command()
def verify(output: OutputFolder, as_json: Answer = False, storage_options: StorageOptions = None) -> None:
    """Read every file of a finished run again: sizes, checksums, rows, and that nothing else lies among them."""
    VOICE.answers = as_json
    from tamis.pipeline.commands import showing
    from tamis.pipeline.commands.verify import verify as run
    from tamis.pipeline.job import job_file as job
    from tamis.pipeline.storage.store import Store

    store = Store(output, job.storage_options(storage_options or []))
    found = run(store)
    facts = {
        "files": found.files,
        "bytes": found.bytes,
        "rows": dict(sorted(found.rows.items())),
        "leftovers": found.leftovers,
    }
    showing.result(str(found), {"problems": list(found.problems)}, complete=found.complete, **facts)
    if found.problems:
        raise InputError(f"{len(found.problems):,} things are wrong in {store.path()}:", found.problems)
    if not found.complete:
        fail("what is there is whole, but the run is incomplete; run the same `tamis curate` command again", 4)


@app.command()
def unlock(output: OutputFolder, storage_options: StorageOptions = None) -> None:
    """Take an output folder from a tamis that hangs and cannot be stopped; should it wake up, it ends."""
    from tamis.pipeline.commands import showing
    from tamis.pipeline.job import job_file as job
    from tamis.pipeline.run import lease
    from tamis.pipeline.storage.store import Store

    store = Store(output, job.storage_options(storage_options or []))
    phase("unlock", "taking the output folder")
    taken = lease.unlock(store)
    words = f"{store.path()} was taken from {taken}; the next command may start there"
    showing.result(shown(words if taken else f"no tamis is at work in {store.path()}"), taken=taken is not None)


@app.command()
def report(output: OutputFolder, storage_options: StorageOptions = None) -> None:
    """Write report.html and README.md of a finished run anew, and print the summary."""
    from tamis.pipeline.commands import showing
    from tamis.pipeline.emit.redraw import rewrite_report
    from tamis.pipeline.job import job_file as job
    from tamis.pipeline.run.folder import facts_in
    from tamis.pipeline.storage.store import Store

    store = Store(output, job.storage_options(storage_options or []))
    if store.exists(MANIFEST):
        facts_in(store, MANIFEST)
    with reading(store.path()):
        phase("report", "drawing the report")
        showing.outcome(rewrite_report(store), store)


@app.command()
def sample(
    output: OutputFolder,
    to: Annotated[str, typer.Option("--output", "-o", help="File for the sheet, .jsonl or .csv; it must not exist.")],
    count: Annotated[int, typer.Option("--for-labels", metavar="ROWS", min=1, help="How many rows to draw.")] = 400,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=999_999_999,
            help="Of an earlier sample, to draw the same rows first (default: one that nobody can foresee).",
        ),
    ] = None,
    stratified: Annotated[
        str | None,
        typer.Option(
            "--stratified",
            metavar="COLUMN",
            help="Draw half of the rows where this column of the corpus says 1 (the request is harmful), half where 0.",
        ),
    ] = None,
    storage_options: StorageOptions = None,
) -> None:
    """Draw rows of a finished run at random and write them, with an empty column `harmful`, for people to label."""
    from tamis.pipeline.commands import showing
    from tamis.pipeline.commands.certificate import sheet_lines
    from tamis.pipeline.job import job_file as job
    from tamis.pipeline.labels.sample import sample as run
    from tamis.pipeline.storage.store import Store

    store = Store(output, job.storage_options(storage_options or []))
    with reading(store.path()):
        drawn = run(store, count, seed, stratified, to)
    strata = {name: {"population": size, "sampled": rows} for name, (size, rows) in drawn.strata.items()}
    showing.result("\n".join(sheet_lines(drawn)), rows=drawn.rows, seed=drawn.seed, strata=strata, output=drawn.path)


@app.command()
def certify(
    output: OutputFolder,
    labels: Annotated[
        str,
        typer.Option("--labels", help="The sheet of `tamis sample`, filled in; or other labels, as a file or column."),
    ],
    alpha: Annotated[
        float | None,
        typer.Option(
            "--alpha",
            help="Share of harmful rows that may be kept (default 0.1; of a stratified sample 0.15, and 0.2 where the "
            "request is harmful).",
        ),
    ] = None,
    delta: DeltaFlag = 0.1,
    by: Annotated[
        str | None, typer.Option("--by", help="The method whose score cuts; default: the one that did.")
    ] = None,
    up_to: UpTo = 0.7,
    alpha_requests: Annotated[
        float | None,
        typer.Option("--alpha-requests", help="Of a stratified sample: --alpha for rows whose request is harmful."),
    ] = None,
    as_json: AsJson = False,
    storage_options: StorageOptions = None,
) -> None:
    """Say how many rows of a finished run can be kept, with proof by labels that few of them are harmful."""
    from tamis.pipeline.commands import showing
    from tamis.pipeline.job import job_file as job
    from tamis.pipeline.labels.certified import certify as run
    from tamis.pipeline.storage.store import Store

    store = Store(output, job.storage_options(storage_options or []))
    with reading(store.path()):
        found = run(store, labels, alpha, delta, by, up_to, alpha_requests)
    showing.certificate(found, as_json=as_json)
    if not found.holds:
        fail("these labels do not certify a cut; what it takes is above", 3)


@app.command()
def evaluate(
    output: OutputFolder, labels: LabelsFlag, as_json: AsJson = False, storage_options: StorageOptions = None
) -> None:
    """Compare the scores and the decision of a finished run with labels: AUROC, precision, recall, within length."""
    from tamis.pipeline.commands import showing
    from tamis.pipeline.commands.evaluate import evaluate as run
    from tamis.pipeline.job import job_file as job
    from tamis.pipeline.storage.store import Store

    store = Store(output, job.storage_options(storage_options or []))
    with reading(store.path()):
        showing.evaluation(run(store, labels), as_json=as_json)


@app.command()
def tune(
    output: OutputFolder,
    labels: LabelsFlag,
    write: Annotated[
        str | None, typer.Option("--write", metavar="FRAGMENT", help="Write the best as part of a job file (.yaml).")
    ] = None,
    as_json: AsJson = False,
    storage_options: StorageOptions = None,
) -> None:
    """Rank every method, block, position and k that the kept vectors of a run allow by labels, without the model."""
    from tamis.pipeline.commands import showing
    from tamis.pipeline.commands.tune import check_free
    from tamis.pipeline.commands.tune import tune as run
    from tamis.pipeline.job import job_file as job
    from tamis.pipeline.storage.store import Store

    store = Store(output, job.storage_options(storage_options or []))
    if write is not None:
        check_free(write)
    with reading(store.path()):
        found = run(store, labels)
    if write is not None:
        Path(write).write_text(found["fragment"], encoding="utf-8")
    showing.tuning(found, as_json=as_json)


@app.command()
def export(
    output: OutputFolder,
    to: Annotated[str, typer.Option("--output", "-o", help="Folder for the export; it must not hold anything.")],
    trainer: Annotated[
        str, typer.Option("--for", help="transformers, trl, axolotl, llama-factory, torchtune or messages.")
    ],
    storage_options: StorageOptions = None,
) -> None:
    """Write kept/ of a finished run as a trainer reads it, with the trainer's config file or script."""
    from tamis.pipeline.commands import showing
    from tamis.pipeline.commands.export import export as run
    from tamis.pipeline.job import job_file as job
    from tamis.pipeline.storage.store import Store

    store, folder = Store(output, job.storage_options(storage_options or [])), Store(to)
    with reading(store.path()):
        found = run(store, trainer, folder)
    start = folder.path(found.start)
    gone = f" ({found.left_out:,} rows without a turn that is trained on are left out)" if found.left_out else ""
    words = f"{found.rows:,} rows for {trainer}{gone}; start with {shown(start)}"
    showing.result(words, rows=found.rows, trainer=trainer, start=start, left_out=found.left_out)


@app.command()
def push(
    output: OutputFolder,
    repository: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="The dataset on the hub; made if it is missing.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Upload it; without, it is only said what would be.")] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Everyone may read it; without, a new dataset is private.")
    ] = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="The artifact, the report, the manifest and quarantine/ too: they name places on this machine.",
        ),
    ] = False,
) -> None:
    """Upload kept/, dropped/, scores/ and the card of a finished run to the Hugging Face hub. First a dry run."""
    _quiet_libraries()
    from tamis.pipeline.commands import showing
    from tamis.pipeline.commands.push import push as run
    from tamis.pipeline.storage.store import Store

    store = Store(output, {})
    with reading(store.path()):
        found = run(store, repository, public=public, everything=everything, confirmed=yes)
    facts: dict[str, Any] = {"files": len(found.files), "bytes": found.bytes, "rows": dict(found.rows)}
    showing.result("\n".join(map(shown, found.lines())), **facts, output=found.url, commit=found.commit)


@app.command()
def doctor(
    model: Model = None,
    address: Address = None,
) -> None:
    """Check this machine: Python, packages, memory, GPUs, Ray, and a model if one is named."""
    _quiet_libraries()
    from tamis.pipeline.commands.doctor import examine

    if not examine(model, address):
        raise typer.Exit(5)


@app.command()
def init(
    data: Annotated[
        list[str] | None,
        typer.Argument(help="The corpus, as --input has it; also what the shell made of a glob.", show_default=False),
    ] = None,
    input: Input = None,
    to: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The job file to write.")] = "job.yaml",
    model: Model = None,
    revision: Revision = None,
    method: MethodFlag = None,
    drop: Drop = None,
    set: Sets = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a job file that is there.")] = False,
) -> None:
    """Look at the data, and write a job file for it, with comments, that can be planned as it is."""
    _quiet_libraries()
    from tamis.pipeline.commands import showing
    from tamis.pipeline.commands.init_job import init as run

    paths = [*(input or []), *(data or [])]
    if not paths:
        raise ConfigError("name the data: tamis init --input PATH")
    flags: dict[str, Any] = {"input.path": paths, **_model_flags(None, model, revision, None), "selection.drop": drop}
    flags["method"] = names(method) or ["contrast"]
    showing.written_job(
        run({key: value for key, value in flags.items() if value is not None}, set or [], to, force=force)
    )


@app.command()
def examples() -> None:
    """Print commands to copy, by what one wants to do."""
    from tamis.pipeline.commands import showing
    from tamis.pipeline.commands.examples import lines

    showing.in_lines(list(lines()))


@app.command()
def schema() -> None:
    """Print the JSON schema of the job file."""
    from tamis.pipeline.job.job_file import job_schema

    schema = json.dumps(job_schema(), indent=2)
    VOICE.rest()
    print(schema)


def _job(*arguments: Any) -> Any:
    """The job of a job file and flags."""
    from tamis.pipeline.job.job_file import load_job

    return load_job(*_settings(*arguments))


def _settings(
    positional: list[str] | None,
    input: list[str] | None,
    output: str | None,
    model: str | None,
    revision: str | None,
    method: list[str] | None,
    drop: float | None,
    drop_count: int | None,
    threshold: float | None,
    workers: int | None,
    assignments: list[str] | None,
    artifact: str | None = None,
    date: str | None = None,
    lineage: str | None = None,
) -> tuple[str | None, dict[str, Any], list[str]]:
    """The job file, what flags set of it, and the assignments."""
    job_files = [name for name in positional or [] if Path(name).suffix in {".yaml", ".yml"}]
    others = [name for name in positional or [] if name not in job_files]
    if len(job_files) > 1:
        raise ConfigError(f"give one job file, not {len(job_files)}: {', '.join(job_files)}")
    if others and not input:
        raise ConfigError(f"{others[0]} is not a job file (.yaml); name input files with --input")
    flags = {
        "input.path": [*(input or []), *others] or None,
        **_model_flags(output, model, revision, workers),
        "method": names(method),
        "selection.drop": drop,
        "selection.drop_count": drop_count,
        "selection.threshold": threshold,
        "artifact": artifact,
        "schedule.date": date,
        "lineage.to": lineage,
    }
    overlay: dict[str, Any] = {key: value for key, value in flags.items() if value is not None}
    if {"selection.drop", "selection.drop_count", "selection.threshold"} & overlay.keys():
        # A flag replaces the job file's rule, whichever rule it is.
        for key in ("selection.drop", "selection.drop_count", "selection.threshold"):
            overlay.setdefault(key, None)
    return job_files[0] if job_files else None, overlay, assignments or []


def _model_flags(output: str | None, model: str | None, revision: str | None, workers: int | None) -> dict[str, Any]:
    return {"output": output, "model.name": model, "model.revision": revision, "workers": workers}


def _quiet_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # When Ray has ended, threads left by Ray Data would start another Ray, which nobody uses and everyone can reach.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")


if __name__ == "__main__":
    main()

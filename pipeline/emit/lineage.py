"""OpenLineage events of a run, on request: what it reads, what it writes, and how it ends.

One START, and then COMPLETE, FAIL (an error, or shards that were set aside) or ABORT (stopped from outside). All
commands on one run share its id. A command that was killed cannot say so: a mark in the output folder tells the next
one, which sends the FAIL first. No event holds a sample's text or a credential, and none is worth a run: what cannot be
sent is a warning.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from tamis.pipeline.emit.dataset_names import HUB_MODELS, dataset_name, folder_of_pattern, hub_commit
from tamis.pipeline.errors import ConfigError, TamisError, error_text, redacted
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import is_shipped
from tamis.pipeline.job.job_file import LayersJob
from tamis.pipeline.job.sections import LineageSpec
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.run.paths import ARTIFACT, ARTIFACT_FACTS, DROPPED, KEPT, LINEAGE, PARTS, QUARANTINE, SCORES
from tamis.pipeline.storage.addresses import is_local_url
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.voice import say, warn_once

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent, RunState

CONFIGURED = "config"
"""Instead of a file: the transport that the client's own configuration names."""

PRODUCER = "urn:tamis"
_NAMESPACE = "tamis"
_CLOSE_SECONDS = 10.0
_STARTED_PARTS = (KEPT, DROPPED, QUARANTINE, SCORES, ARTIFACT)


def ready(job: LayersJob) -> None:
    """ConfigError, before anything is done, if the events that the job asks for cannot be sent."""
    if job.lineage is None:
        return
    if importlib.util.find_spec("openlineage") is None or importlib.util.find_spec("openlineage.client") is None:
        raise ConfigError(
            "lineage: the OpenLineage client is not installed; pip install 'tamis[lineage]', or leave lineage out"
        )
    if os.environ.get("OPENLINEAGE_DISABLED", "").lower().strip() == "true":
        say("note: OPENLINEAGE_DISABLED is set, so no lineage events are sent")
        return
    _client(job.lineage, job.output).close(0)


def _client(spec: LineageSpec, output: str) -> OpenLineageClient:
    """ConfigError if events cannot go where the job, or the client's configuration, wants them."""
    # Its own lines on the terminal would come between ours; what fails is told by us.
    if "OPENLINEAGE_CLIENT_LOGGING" not in os.environ:
        logging.getLogger("openlineage").setLevel(logging.CRITICAL + 1)
    from openlineage.client import OpenLineageClient
    from openlineage.client.transport.file import FileConfig, FileTransport

    try:
        if spec.to != CONFIGURED:
            path = _writable(spec.to, output)
            return OpenLineageClient(transport=FileTransport(FileConfig(log_file_path=path, append=True)))
        client = OpenLineageClient()
        configured = (client.config.transport or {}).get("type") or os.environ.get("OPENLINEAGE_URL")
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"lineage: the OpenLineage client refuses its configuration: {error_text(error)}") from None
    if not configured and client.transport.kind == "console":
        raise ConfigError(
            f"lineage: {CONFIGURED}, and OpenLineage is not configured; set OPENLINEAGE_URL or OPENLINEAGE_CONFIG, or "
            "name a file instead"
        )
    return client


def _writable(to: str, output: str) -> str:
    if not is_local_url(to):
        raise ConfigError(
            f"lineage: {to} is no file on this machine; name one, or write `{CONFIGURED}` and configure OpenLineage"
        )
    path = os.path.abspath(os.path.expanduser(to.removeprefix("file://")))
    if is_local_url(output):
        folder = os.path.abspath(os.path.expanduser(output.removeprefix("file://")))
        if os.path.commonpath([folder, path]) == folder:
            raise ConfigError(f"lineage: {to} lies in the output folder, which holds only what belongs to the result")
    place = path if os.path.lexists(path) else os.path.dirname(path)
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path)) or not os.access(place, os.W_OK):
        raise ConfigError(f"lineage: {to} cannot be written; name a file in a folder that is there")
    return path


@contextmanager
def events(plan: Plan, store: Store, run: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Around the work of one command: START, and at the end how it ended. Call what it yields with the manifest of the
    run. run: its id."""
    spec = plan.job.lineage
    if spec is None:
        yield lambda manifest: None
        return
    told = _Told(plan, store, run, _client(spec, plan.job.output))
    told.start()
    try:
        yield told.end
    except Exception as error:
        told.fail(error)
        raise
    except BaseException:  # a signal
        told.abort()
        raise
    finally:
        told.close()


class _Told:
    """The events of one command. Nothing that goes wrong here ends it."""

    def __init__(self, plan: Plan, store: Store, run: str, client: OpenLineageClient) -> None:
        self.plan, self.store, self.run, self.client = plan, store, run, client

    def start(self) -> None:
        with self._forgiving():
            if self.store.exists(LINEAGE):
                self._send("FAIL", error="the command before this one was killed, or its machine went down")
        with self._forgiving():
            self.store.write_json(LINEAGE, {"run_id": self.run})
            self._send("START")

    def end(self, manifest: Mapping[str, Any]) -> None:
        with self._forgiving():
            if manifest["complete"]:
                self._send("COMPLETE", manifest)
            else:
                failed = manifest["failed"]
                rows = sum(item["rows"] for item in failed)
                self._send("FAIL", manifest, f"{rows:,} rows in {len(failed):,} shards were set aside; run again")
            self.store.remove(LINEAGE)

    def fail(self, error: Exception) -> None:
        # Only our own messages are known to hold no text of a sample.
        said = redacted(str(error)) if isinstance(error, TamisError) else type(error).__name__
        with self._forgiving():
            self._send("FAIL", error=said)
            self.store.remove(LINEAGE)

    def abort(self) -> None:
        with self._forgiving():
            self._send("ABORT", error="stopped by a signal; the same command goes on")
            self.store.remove(LINEAGE)

    def close(self) -> None:
        with self._forgiving():
            self.client.close(_CLOSE_SECONDS)

    def _send(self, kind: str, manifest: Mapping[str, Any] | None = None, error: str | None = None) -> None:
        self.client.emit(event_of(self.plan, self.store, self.run, kind, manifest, error))

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            warn_once(f"a lineage event was not sent ({type(error).__name__}: {error_text(error)}); the run goes on")


def event_of(
    plan: Plan, store: Store, run: str, kind: str, manifest: Mapping[str, Any] | None = None, error: str | None = None
) -> RunEvent:
    """One event. kind: START, COMPLETE, FAIL or ABORT. manifest: of the run, once it has one. error: what went wrong,
    for a person."""
    from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import error_message_run, job_type_job, processing_engine_run

    facets: dict[str, Any] = {
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
            version=importlib.metadata.version("ray"),
            name="Ray",
            openlineageAdapterVersion=importlib.metadata.version("tamis"),
            producer=PRODUCER,
        )
    }
    if error is not None:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(error, "PYTHON", producer=PRODUCER)
    spec = plan.job.lineage
    state: RunState = RunState[kind]
    return RunEvent(
        eventTime=datetime.now(UTC).isoformat(timespec="milliseconds"),
        producer=PRODUCER,
        eventType=state,
        run=Run(run, facets),
        job=Job(
            os.environ.get("OPENLINEAGE_NAMESPACE") or _NAMESPACE,
            (spec and spec.job) or f"curate.{posixpath.basename(dataset_name(plan.job.output)[1])}",
            {
                "jobType": job_type_job.JobTypeJobFacet("BATCH", "TAMIS", "COMMAND", producer=PRODUCER),
                "documentation": _documentation(plan),
            },
        ),
        inputs=[*_inputs(plan), *_references(plan), _model(plan), *_artifact(plan)],
        outputs=_outputs(plan, store, manifest),
    )


def _documentation(plan: Plan) -> Any:
    from openlineage.client.facet_v2 import documentation_job

    what = "mask the riskiest tokens" if plan.job.masks_tokens else "drop the riskiest samples"
    said = f"{what} of a fine-tuning corpus ({', '.join(plan.job.method)})"
    return documentation_job.DocumentationJobFacet(said, producer=PRODUCER)


# --- inputs -------------------------------------------------------------------------------------------------------


def _inputs(plan: Plan) -> list[InputDataset]:
    """One dataset for each path of the job: a file, a folder, or for a pattern the folder that holds its files."""
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import data_quality_metrics_input_dataset, dataset_version_dataset

    grouped: dict[tuple[str, str], list[tuple[SourceFile, int]]] = {}
    options = plan.job.storage_options
    roots = [dataset_name(folder_of_pattern(path), options) for path in plan.job.input.path]
    for item in plan.files:
        grouped.setdefault(_root_of(item.file.url, roots, options), []).append((item.file, item.rows))
    found = []
    for (namespace, name), files in grouped.items():
        facets: dict[str, Any] = {
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(_version(files), producer=PRODUCER),
        }
        if plan.schema is not None:
            facets["schema"] = _schema(plan.schema)
        quality = data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet(
            columnMetrics={},
            rowCount=sum(rows for _, rows in files),
            bytes=sum(file.bytes for file, _ in files),
            fileCount=len(files),
            producer=PRODUCER,
        )
        found.append(InputDataset(namespace, name, inputFacets={"dataQualityMetrics": quality}, facets=facets))
    return found


def _root_of(url: str, roots: Sequence[tuple[str, str]], options: Mapping[str, Any]) -> tuple[str, str]:
    """The longest of the roots that holds the file; its own folder if none does, as behind a link."""
    namespace, name = dataset_name(url, options)
    holding = [
        root
        for root in roots
        if root[0] == namespace and (name == root[1] or root[1] == "/" or name.startswith(f"{root[1]}/"))
    ]
    return max(holding, key=lambda root: len(root[1])) if holding else (namespace, posixpath.dirname(name) or "/")


def _version(files: Sequence[tuple[SourceFile, int]]) -> str:
    """The commit of a dataset of the hub; else a digest of the files' names, sizes and identities."""
    commits = {hub_commit(file.url) for file, _ in files}
    commit = commits.pop() if len(commits) == 1 else None
    facts = [[file.name, file.bytes, file.identity] for file, _ in files]
    return commit or hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _references(plan: Plan) -> list[InputDataset]:
    """The reference files of the job; those that tamis ships are a part of it."""
    from openlineage.client.event_v2 import InputDataset

    urls = {shard.file.url for shard in plan.reference_shards if not is_shipped(shard.file)}
    return [InputDataset(*dataset_name(url, plan.job.storage_options)) for url in sorted(urls)]


def _model(plan: Plan) -> InputDataset:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import dataset_version_dataset

    name, revision = plan.job.model.name, plan.model.revision
    local = "://" not in name and os.path.isdir(os.path.expanduser(name))
    where = dataset_name(name, plan.job.storage_options) if local or "://" in name else (HUB_MODELS, name)
    # A folder on this machine has no revision; the fingerprint has its content.
    version = str(plan.fingerprint.get("model", revision)) if revision == "local" else revision
    facets: dict[str, Any] = {"version": dataset_version_dataset.DatasetVersionDatasetFacet(version, producer=PRODUCER)}
    return InputDataset(*where, facets=facets)


def _artifact(plan: Plan) -> list[InputDataset]:
    """The artifact of an earlier run, if the job names one: with the name that it has among that run's outputs."""
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import dataset_version_dataset

    if plan.artifact is None:
        return []
    frozen = plan.artifact.frozen
    where = dataset_name(frozen.folder, plan.job.storage_options)
    version = dataset_version_dataset.DatasetVersionDatasetFacet(frozen.digest, producer=PRODUCER)
    return [InputDataset(*where, facets={"version": version})]


# --- outputs ------------------------------------------------------------------------------------------------------


def _outputs(plan: Plan, store: Store, manifest: Mapping[str, Any] | None) -> list[OutputDataset]:
    """kept, dropped, quarantine, scores and artifact; with their sizes once there is a manifest."""
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import dataset_version_dataset, output_statistics_output_dataset

    found = []
    for part in _STARTED_PARTS:
        namespace, name = dataset_name(store.path(part), plan.job.storage_options)
        facets: dict[str, Any] = {}
        sizes: dict[str, Any] = {}
        if manifest is not None:
            files = [file for file in manifest["files"] if file["name"].startswith(f"{part}/")]
            sizes["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                rowCount=_rows(manifest["counts"], part),
                size=sum(file["bytes"] for file in files),
                fileCount=len(files),
                producer=PRODUCER,
            )
            facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(
                _digest(files, part), producer=PRODUCER
            )
            if part in PARTS and files:
                facets["schema"] = _schema(pq.read_schema(io.BytesIO(store.read(files[0]["name"]))))
        found.append(OutputDataset(namespace, name, outputFacets=sizes, facets=facets))
    return found


def _rows(counts: Mapping[str, int], part: str) -> int | None:
    if part == SCORES:
        return counts["kept"] + counts["dropped"] + counts["quarantined"]
    return {KEPT: counts["kept"], DROPPED: counts["dropped"], QUARANTINE: counts["quarantined"]}.get(part)


def _digest(files: Sequence[Mapping[str, Any]], part: str) -> str:
    """Of an artifact, the checksum of the file that describes it; of a folder, a digest of its files' checksums."""
    for file in files:
        if part == ARTIFACT and file["name"] == ARTIFACT_FACTS:
            return str(file["sha256"])
    facts = [[file["name"], file["sha256"]] for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _schema(schema: Any) -> Any:
    """Names and Arrow types of the columns."""
    from openlineage.client.facet_v2 import schema_dataset

    columns = [
        schema_dataset.SchemaDatasetFacetFields(field.name, str(field.type), ordinal_position=number)
        for number, field in enumerate(schema, 1)
    ]
    return schema_dataset.SchemaDatasetFacet(columns, producer=PRODUCER)

"""The rules of OpenLineage for run events, as its client's own classes and its specification have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from dateutil.parser import isoparse
from openlineage.client import event_v2
from openlineage.client.facet_v2 import (
    data_quality_metrics_input_dataset,
    dataset_version_dataset,
    documentation_job,
    error_message_run,
    job_type_job,
    output_statistics_output_dataset,
    processing_engine_run,
    schema_dataset,
    tags_run,
)

FACETS = {
    "processing_engine": processing_engine_run.ProcessingEngineRunFacet,
    "errorMessage": error_message_run.ErrorMessageRunFacet,
    "jobType": job_type_job.JobTypeJobFacet,
    "documentation": documentation_job.DocumentationJobFacet,
    "version": dataset_version_dataset.DatasetVersionDatasetFacet,
    "schema": schema_dataset.SchemaDatasetFacet,
    "dataQualityMetrics": data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet,
    "tags": tags_run.TagsRunFacet,  # the client adds its own version
    "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
}
"""Key in the event -> the class that has it."""

_ENDS = {"COMPLETE", "FAIL", "ABORT"}


def checked(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The types of these events of one run, in order. AssertionError or the client's own error if one breaks a rule."""
    assert len({str(UUID(event["run"]["runId"])) for event in events}) == 1
    assert len({(event["job"]["namespace"], event["job"]["name"]) for event in events}) == 1
    times = [isoparse(event["eventTime"]) for event in events]
    assert times == sorted(times)
    assert all(time.tzinfo is not None for time in times)
    begun = False
    for event in events:
        _check(event)
        kind = event["eventType"]
        # Each attempt begins once and ends once; an end without a beginning has nothing to end.
        assert (kind == "START") != begun, [event["eventType"] for event in events]
        assert kind == "START" or kind in _ENDS
        begun = not begun
    return [event["eventType"] for event in events]


def _check(event: Mapping[str, Any]) -> None:
    assert {"eventType", "eventTime", "run", "job", "producer", "schemaURL"} <= event.keys()
    assert event["schemaURL"].endswith("/OpenLineage.json#/$defs/RunEvent")
    run, job = event["run"], event["job"]
    made = event_v2.RunEvent(
        eventTime=event["eventTime"],
        producer=event["producer"],
        eventType=event_v2.RunState[event["eventType"]],
        run=event_v2.Run(run["runId"], _facets(run["facets"])),
        job=event_v2.Job(job["namespace"], job["name"], _facets(job["facets"])),
        inputs=[
            event_v2.InputDataset(
                item["namespace"],
                item["name"],
                inputFacets=_facets(item["inputFacets"]),
                facets=_facets(item["facets"]),
            )
            for item in event["inputs"]
        ],
        outputs=[
            event_v2.OutputDataset(
                item["namespace"],
                item["name"],
                outputFacets=_facets(item["outputFacets"]),
                facets=_facets(item["facets"]),
            )
            for item in event["outputs"]
        ],
    )
    assert made.schemaURL == event["schemaURL"]
    names = [(item["namespace"], item["name"]) for item in [*event["inputs"], *event["outputs"]]]
    assert all(namespace and name for namespace, name in names)
    assert len(set(names)) == len(names)


def _facets(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Made again by the classes, which refuse unknown and missing fields."""
    made = {}
    for key, facet in found.items():
        assert facet["_producer"].startswith("urn:tamis" if key != "tags" else "https://")
        own = {name: value for name, value in facet.items() if name not in {"_producer", "_schemaURL"}}
        made[key] = FACETS[key](**own, producer=facet["_producer"])
        assert made[key]._schemaURL == facet["_schemaURL"]
    return made

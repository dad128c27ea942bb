"""The Grafana dashboard asks only for metrics, labels and values that tamis exports, and for all of the metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tamis.pipeline.cluster.metrics import METRICS

BOARD: dict[str, Any] = json.loads((Path(__file__).parents[2] / "deploy" / "grafana" / "tamis.json").read_text())
QUERIES = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
VARIABLES = {item["name"]: item for item in BOARD["templating"]["list"]}
SERIES = {series: metric for metric in METRICS for series in metric.series}

FUNCTIONS = {"sum", "avg", "min", "by", "rate", "histogram_quantile"}
OF_RAY = {"NodeAddress", "le"}
"""Labels that Ray and histograms add."""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def names(query: str) -> set[str]:
    """The names in a query that are neither text nor variables."""
    return set(NAME.findall(re.sub(r'"[^"]*"|\$\w+', "", query))) - FUNCTIONS


def test_every_query_is_of_metrics_and_labels_that_are_exported() -> None:
    assert QUERIES
    for query in [*QUERIES, VARIABLES["run"]["query"]["query"].replace("label_values", "rate")]:
        used = [SERIES[name] for name in names(query) if name.startswith("ray_")]  # KeyError for any other
        assert used, query
        labels = {name for name in names(query) if not name.startswith("ray_")}
        for metric in used:
            assert labels <= {*metric.labels, *OF_RAY}, query


def test_every_metric_is_shown() -> None:
    shown = {SERIES[name].name for query in QUERIES for name in names(query) if name in SERIES}
    assert shown == {metric.name for metric in METRICS}


def test_counters_and_histograms_are_asked_for_as_such() -> None:
    for query in QUERIES:
        for series in names(query) & SERIES.keys():
            metric = SERIES[series]
            if metric.kind == "histogram":
                assert re.search(rf"histogram_quantile\([\d.]+, sum by \(le\b[^)]*\) \(rate\({series}\{{", query), query
            if metric.kind == "gauge":
                assert "rate(" not in query


def test_every_query_is_of_the_chosen_runs_and_source() -> None:
    assert all('run=~"$run"' in part for query in QUERIES for part in re.findall(r"ray_\w+(\{[^}]*\})?", query))
    assert VARIABLES["datasource"]["type"] == "datasource"
    for panel in BOARD["panels"]:
        assert {item["datasource"]["uid"] for item in [panel, *panel["targets"]]} == {"${datasource}"}
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])

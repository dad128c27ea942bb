"""Figures of the test of a filter, as a run writes them: what the tests of the verdict and of the page share."""

from __future__ import annotations

from typing import Any

from report_samples import summary


def figure(value: float, spread: float = 0.03) -> dict[str, float]:
    return {"value": value, "low": max(value - spread, 0.0), "high": min(value + spread, 1.0)}


def a_test(method: str = "larf", against: str = "corpus", auroc: float = 0.95, **changes: Any) -> dict[str, Any]:
    length = changes.pop("length", 0.6)
    return {
        "method": method,
        "against": against,
        "borrowed": None,
        "folds": 5,
        "unsafe": 120,
        "others": 500,
        "auroc": figure(auroc),
        "length": figure(length),
        "longer": True,
        "better_by": {"value": auroc - length, "low": auroc - length - 0.05, "high": auroc - length + 0.05},
        "equal_length": figure(auroc),
        "equal_pairs": 900,
        "spearman": 0.6,
        "partial_spearman": 0.5,
        **changes,
    }


def pair(both: int, **changes: Any) -> dict[str, Any]:
    return {
        "methods": ["larf", "saft"],
        "spearman": 0.3,
        "partial_spearman": 0.2,
        "dropped": 1000,
        "both": both,
        "jaccard": both / (2000 - both),
        "by_chance": 0.1,
        **changes,
    }


def trusted(*tests: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The figures of a run with these tests; by default one good one."""
    return {
        "tests": list(tests) or [a_test()],
        "agreement": {"lengths": [{"method": "larf", "spearman": -0.12, "left": 0.99}], "pairs": []},
        "refusing": {"kept": 900, "dropped": 100},
        **changes,
    }


def judged(*tests: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A whole summary with these figures."""
    return summary(trust=trusted(*tests), **changes)

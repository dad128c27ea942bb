"""Every file that a run leaves between two stages, damaged in turn: the same command again ends with the undisturbed
result, or refuses in one line with a documented exit code; never with a manifest over other rows.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from damaging import Killed, by_turns, heals, killed, settings, write_sources

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("driver")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("damage"))


@pytest.fixture(scope="module")
def samples(sources: Path, tiny_model: Path, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    roles = {f"larf.{role}_references": str(sources / f"{role}.jsonl") for role in ("unsafe", "safe")}
    overlay = settings(
        sources, tiny_model, method=["larf", "saft"], **{"larf.layer": 2, "selection.drop": 0.2}, **roles
    )
    return killed(tmp_path_factory.mktemp("samples"), ray_address, overlay)


def test_samples(samples: Killed, tmp_path: Path) -> None:
    """LARF and SAFT: each file; and every damage to files that one reader reads."""
    files = samples.files()
    assert len(files) > 20
    refused = {
        (name, damage.__name__): said
        for name, damage in by_turns(files)
        if (said := heals(samples, name, damage, tmp_path / "out")) is not None
    }
    assert refused == {}

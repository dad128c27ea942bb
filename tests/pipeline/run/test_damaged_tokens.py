"""As test_damage.py, of a run that trains reference models and labels tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from damaging import DAMAGES, Killed, heals, killed, settings, write_sources

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("driver")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("damage"))


@pytest.fixture(scope="module")
def tokens(sources: Path, tiny_model: Path, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    roles = {f"toss.{role}_references": str(sources / f"{role}.jsonl") for role in ("utility", "harmful")}
    training = {"toss.training.rank": 4, "toss.training.batch_size": 4, "toss.rounds": 1, "toss.discard": 0.2}
    overlay = settings(sources, tiny_model, method=["toss-pro"], **roles, **training)
    return killed(tmp_path_factory.mktemp("tokens"), ray_address, overlay)


def test_tokens(tokens: Killed, tmp_path: Path) -> None:
    """TOSS-Pro, whose reference models take long to train: each file, the damages by turns."""
    files = tokens.files()
    assert len(files) > 20
    refused = {
        name: said
        for number, name in enumerate(files)
        if (said := heals(tokens, name, DAMAGES[number % len(DAMAGES)], tmp_path / "out")) is not None
    }
    assert refused == {}

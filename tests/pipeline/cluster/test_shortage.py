"""The likely reason why processes do not stay alive, on a folder of a Ray of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tamis.pipeline.cluster import own_ray, shortage
from tamis.pipeline.cluster.shortage import shortage as reason


def test_where_no_ray_was_started_the_disk_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortage, "FULL_BYTES", 1 << 60)
    assert own_ray.folder_in_use() is None
    assert reason() == "the nodes may lack memory"


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_ray, "_base", lambda: tmp_path)
    with own_ray._folder() as folder:
        assert reason("memory") == "memory"
        monkeypatch.setattr(shortage, "FULL_BYTES", 1 << 60)
        assert folder.parent == tmp_path
        assert reason().startswith(f"the disk of {tmp_path}, where Ray has its files, is full (")
        assert "set RAY_TMPDIR" in reason()
    assert reason("memory") == "memory"

"""What counts as a label, and what does not."""

from __future__ import annotations

import pytest

from tamis.pipeline.labels.words import harmful_of


@pytest.mark.parametrize("cell", [1, 1.0, True, "1", "1.0", " TRUE ", "yes", "Harmful"])
def test_harmful(cell: object) -> None:
    assert harmful_of(cell) is True


@pytest.mark.parametrize("cell", [0, 0.0, False, "0", "0.0", "false", "No\n", "fine", "HARMLESS"])
def test_harmless(cell: object) -> None:
    assert harmful_of(cell) is False


@pytest.mark.parametrize("cell", [None, "", "  ", float("nan")])
def test_not_labelled(cell: object) -> None:
    assert harmful_of(cell) is None


@pytest.mark.parametrize("cell", [2, -1, 0.5, "maybe", "10", "n", [1], {"harmful": 1}, float("inf")])
def test_anything_else_is_refused_without_its_text(cell: object) -> None:
    with pytest.raises(ValueError, match="write 1, true, yes or harmful") as caught:
        harmful_of(cell)
    assert "maybe" not in str(caught.value)

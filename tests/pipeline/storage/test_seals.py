"""JSON with a seal: what was written is read, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.pipeline.storage import seals

VALUES: Any = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**60), 2**60),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FACTS: Any = st.dictionaries(st.text(max_size=6).filter(lambda key: key != seals.SEAL), VALUES, max_size=4)


@given(FACTS)
def test_what_was_written_is_read(facts: dict[str, Any]) -> None:
    assert seals.opened(json.loads(json.dumps(seals.sealed(facts), indent=2))) == facts
    assert seals.opened(json.loads(json.dumps(dict(reversed(seals.sealed(facts).items()))))) == facts


@given(FACTS, st.data())
def test_one_flipped_bit_is_noticed(facts: dict[str, Any], data: Any) -> None:
    written = bytearray(json.dumps(seals.sealed(facts)).encode())
    written[data.draw(st.integers(0, len(written) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = seals.opened(json.loads(written))
    except (ValueError, RecursionError):
        return
    assert found == facts  # in white space, or the other case of a letter in an escape


@pytest.mark.parametrize("tree", [None, [], "text", 3, {}, {"a": 1}, {"a": 1, "seal": None}, {"a": 1, "seal": "00"}])
def test_what_has_no_seal_is_nothing(tree: Any) -> None:
    with pytest.raises(ValueError, match=r"seal|not as it was written"):
        seals.opened(tree)


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        seals.sealed({"a": float("nan")})
    assert seals.opened(seals.sealed({"pair": (1, 2), 3: "three"})) == {"pair": [1, 2], "3": "three"}

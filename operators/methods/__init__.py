"""The methods by the name that a job file gives them. One file each; see protocol.py for what a method is."""

from __future__ import annotations

from collections.abc import Callable

from tamis.operators.methods.larf import Larf
from tamis.operators.methods.protocol import Method
from tamis.operators.methods.saft import Saft

METHODS: dict[str, Callable[..., Method]] = {"larf": Larf, "saft": Saft}

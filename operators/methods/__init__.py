"""The methods by the name that a job file gives them. One file each; see protocol.py for what a method is."""

from __future__ import annotations

from tamis.operators.methods.larf import Larf
from tamis.operators.methods.protocol import Artifact, Features, Method, Reduce
from tamis.operators.methods.saft import Saft

__all__ = ["METHODS", "Artifact", "Features", "Larf", "Method", "Reduce", "Saft"]

METHODS: dict[str, type[Larf] | type[Saft]] = {"larf": Larf, "saft": Saft}

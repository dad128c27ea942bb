"""The methods, by their names in a job file. Each method is one file; protocol.py says what a method is."""

from __future__ import annotations

from tamis.operators.methods.larf import Larf
from tamis.operators.methods.protocol import Artifact, Features, Method, Reduce, setting
from tamis.operators.methods.saft import Saft

__all__ = ["METHODS", "Artifact", "Features", "Larf", "Method", "Reduce", "Saft", "setting"]

METHODS: dict[str, type[Method]] = {kind.name: kind for kind in (Larf, Saft)}
"""The methods that come with tamis. Installed distributions may provide more: pipeline/job/methods.py."""

"""The methods, by their names in a job file. Each method is one file; protocol.py says what a method is."""

from __future__ import annotations

from tamis.operators.methods.compliance import Compliance
from tamis.operators.methods.contrast import Contrast
from tamis.operators.methods.csa import Csa
from tamis.operators.methods.larf import Larf
from tamis.operators.methods.matching import Matching
from tamis.operators.methods.protocol import AnyMethod, Artifact, BlockSearch, Features, Method, Reduce, setting
from tamis.operators.methods.saft import Saft
from tamis.operators.methods.toss import Toss, TossPro

__all__ = [
    "METHODS",
    "AnyMethod",
    "Artifact",
    "BlockSearch",
    "Compliance",
    "Contrast",
    "Csa",
    "Features",
    "Larf",
    "Matching",
    "Method",
    "Reduce",
    "Saft",
    "Toss",
    "TossPro",
    "setting",
]

METHODS: dict[str, type[AnyMethod]] = {
    kind.name: kind for kind in (Larf, Saft, Contrast, Matching, Compliance, Csa, Toss, TossPro)
}
"""The methods that come with tamis. Installed distributions may provide more: pipeline/job/methods.py."""

"""`tamis select --certify`: the threshold that labels certify, as what is to fall."""

from __future__ import annotations

from dataclasses import replace

from tamis.pipeline.commands.certificate import lines_of
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.labels.certified import Certificate, certified_threshold
from tamis.pipeline.planning.reselection import Choice
from tamis.pipeline.storage.store import Store

_OTHERS = {"drop": "--drop", "drop_count": "--drop-count", "threshold": "--threshold", "control": "--control",
           "within": "--within"}  # fmt: skip


def certified_choice(
    store: Store, choice: Choice, alpha: float | None, labels: str | None, delta: float, loosest: float
) -> tuple[Choice, Certificate | None]:
    """The choice with the certified threshold, and the certificate; as it is, where neither alpha nor labels are given.

    Raises ConfigError where one of the two is missing, or the choice names something else that is to fall; InputError
    if these labels certify nothing; and as `certified_threshold`.
    """
    if alpha is None and labels is None:
        return choice, None
    if alpha is None or labels is None:
        raise ConfigError("--certify and --labels go together: the share of harmful rows that may stay, and the labels")
    for name, flag in _OTHERS.items():
        if getattr(choice, name) is not None:
            raise ConfigError(f"--certify makes the cut itself; leave {flag} out")
    found = certified_threshold(store, labels, alpha, delta, choice.by, loosest)
    if not found.holds:
        raise InputError("--certify: these labels do not certify a cut, and nothing was written:", lines_of(found))
    return replace(choice, threshold=found.parts[0].threshold), found

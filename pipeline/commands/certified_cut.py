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
    store: Store,
    choice: Choice,
    alpha: float | None,
    labels: str | None,
    delta: float,
    loosest: float,
    trusted: bool = False,
) -> tuple[Choice, Certificate | None]:
    """The choice with the certified threshold, and the certificate; as it is, where neither alpha nor labels are given.

    trusted: labels count as a random sample although nothing shows it. Raises ConfigError where one of the two is
    missing, the choice names something else that is to fall, or labels would have to be trusted and are not; InputError
    if these labels certify nothing; and as `certified_threshold`.
    """
    if alpha is None and labels is None:
        if trusted:
            raise ConfigError("--trust-labels is for --certify; leave it out")
        return choice, None
    if alpha is None or labels is None:
        raise ConfigError("--certify and --labels go together: the share of harmful rows that may stay, and the labels")
    for name, flag in _OTHERS.items():
        if getattr(choice, name) is not None:
            raise ConfigError(f"--certify makes the cut itself; leave {flag} out")
    found = certified_threshold(store, labels, alpha, delta, choice.by, loosest)
    if not found.holds:
        raise InputError("--certify: these labels do not certify a cut, and nothing was written:", lines_of(found))
    if found.assumes_random and not trusted:
        raise ConfigError(
            f"--certify: {found.source} does not show that its rows were drawn at random, and then nothing is "
            "certified; use a sheet of `tamis sample`, or vouch for the draw yourself with --trust-labels"
        )
    return replace(choice, threshold=found.parts[0].threshold), found

"""What a round of chaos does, drawn from a seed, and what came of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import workload
from faults import Fault


class Kill(StrEnum):
    """What is killed with -9. A disturbance of the storage goes on through all of a round that is on s3."""

    NOTHING = "nothing"
    DRIVER = "driver"
    ACTOR = "actor"
    RAYLET = "raylet"
    NODE = "node"
    STORE = "store"
    """All servers of the object store, which are started again at once."""
    HEAD = "head"
    """The node with the driver's raylet and the cluster's own records: the whole cluster is lost."""


@dataclass(frozen=True)
class Plan:
    """What a round does. The kill comes when so many receipts of `stage` lie there, and `delay` seconds later."""

    number: int
    place: str
    kill: Kill
    stage: str
    receipts: int
    delay: float
    rate: float


@dataclass
class Round:
    """What came of a plan. killed: None if the command ended before its moment."""

    plan: Plan
    killed: str | None = None
    exits: list[int] = field(default_factory=list)
    injected: Counter[Fault] = field(default_factory=Counter)
    seconds: float = 0.0
    complaints: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        plan = self.plan
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self.injected.items())) or "none"
        outcome = "; ".join(self.complaints) if self.complaints else "same bytes"
        return (
            f"round {plan.number}: {plan.place}, {self.killed or 'nothing killed'}; {len(self.exits) - 1} resumes "
            f"(exits {', '.join(map(str, self.exits))}); faults: {faults}; {self.seconds:.0f} s: {outcome}"
        )


def draw(seed: int, number: int, kills: Sequence[Kill], places: Sequence[str], rate: float) -> Plan:
    """Kinds and places take turns, so that few rounds have many; the moment is chance."""
    order = list(kills)
    random.Random(f"order {seed}").shuffle(order)
    chance = random.Random(f"{seed} {number}")
    stage = chance.choices(["capture", "emit"], [3, 1])[0]
    kill = order[number % len(order)]
    place = "s3" if kill is Kill.STORE else places[number % len(places)]
    if kill is Kill.ACTOR:
        stage = "capture"  # the actors end with it
    return Plan(
        number=number,
        place=place,
        kill=kill,
        stage=stage,
        receipts=chance.randrange(workload.RECEIPTS[stage]),
        delay=chance.uniform(0, 0.3),
        rate=chance.uniform(0.2, 1) * rate if place == "s3" else 0.0,
    )

"""What can go wrong between a client and its store, and on which requests it does."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    """One way for a request to fail."""

    SLOW_DOWN = "slow_down"
    """503 SlowDown instead of an answer; the store sees nothing."""
    SERVER_ERROR = "server_error"
    """500 InternalError instead of an answer; the store sees nothing."""
    FORBIDDEN_HEAD = "forbidden_head"
    """403 to a HEAD, which is how throttling can look; a HEAD has no body to say so."""
    RESET_BEFORE = "reset_before"
    """RST before any byte of the answer; the store sees nothing."""
    RESET_MIDWAY = "reset_midway"
    """RST after half of a body: of the request if it has one, else of the answer."""
    LOST_ANSWER = "lost_answer"
    """The store does what it was asked; RST instead of its answer."""
    STALL = "stall"
    """Nothing comes for a while: after half of the answer's body, or before the answer if it has none."""
    TRUNCATED = "truncated"
    """Half of the answer's body under the Content-Length of all of it, and a regular end."""


INSTEAD = {Fault.SLOW_DOWN: (503, "SlowDown"), Fault.SERVER_ERROR: (500, "InternalError")}
"""Status and code of what is answered in the store's place."""
TRANSIENT = tuple(fault for fault in Fault if fault is not Fault.STALL)
"""All that cost no time of their own."""


@dataclass
class Request:
    """One request as it went through: its answer's status (None: no answer came), bodies in bytes, and its fault."""

    method: str
    path: str
    query: str
    range: str | None
    status: int | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    fault: Fault | None = None


@dataclass
class Faults:
    """A schedule: the n-th request meets the same fault whenever the seed is the same.

    rate: share of requests; limit: at most so many in all; where: only such requests; stall: seconds.
    """

    seed: int = 0
    rate: float = 0.0
    kinds: Sequence[Fault] = TRANSIENT
    limit: int | None = None
    where: Callable[[Request], bool] = lambda request: True
    stall: float = 5.0
    _chance: random.Random = field(init=False, repr=False)
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def draw(self, request: Request) -> Fault | None:
        """The fault to inject, if any. One that cannot befall this request (403 on a GET) is not drawn."""
        kinds = [
            kind
            for kind in self.kinds
            if (kind is not Fault.FORBIDDEN_HEAD or request.method == "HEAD")
            and (kind is not Fault.TRUNCATED or request.method == "GET")
        ]
        with self._lock:
            hit, which = self._chance.random() < self.rate, self._chance.random()
            if not hit or not kinds or not self.where(request) or self.limit == 0:
                return None
            if self.limit is not None:
                self.limit -= 1
            return kinds[int(which * len(kinds))]

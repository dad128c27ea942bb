"""What a command and all processes that it starts take: CPU seconds and peak memory, by what they are.

Read from /proc, so Linux only. On a machine that others use, too, CPU seconds are the fair figure: waiting for a core
does not count in them.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

DRIVER, WORKERS, RAY = "driver", "workers", "Ray"
"""The command itself; the processes that run its tasks and actors; Ray's own."""

_TICKS = os.sysconf("SC_CLK_TCK")
_EVERY_SECONDS = 0.2
_WORKER = "ray::worker"


@dataclass
class _Process:
    name: str
    ticks: int = 0
    peak: int = 0


@dataclass
class Family:
    """Watches process `pid` and its descendants between `with` and its end. What a process does after its last look,
    0.2 s before its end at most, is missing."""

    pid: int
    _known: dict[tuple[int, int], _Process] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Family:
        self._thread = threading.Thread(target=self._watch, name="family", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def cpu(self) -> Counter[str]:
        """CPU seconds so far: of the driver, of workers, of Ray's own processes."""
        self.look()
        found: Counter[str] = Counter()
        with self._lock:
            for (pid, _), process in self._known.items():
                found[self._kind(pid, process.name)] += process.ticks
        return Counter({kind: ticks / _TICKS for kind, ticks in found.items()})

    def peaks(self) -> dict[str, int]:
        """Bytes of the peak resident memory of the driver, of the largest worker, and of each of Ray's own."""
        found: dict[str, int] = {}
        with self._lock:
            for (pid, _), process in self._known.items():
                kind = self._kind(pid, process.name)
                name = process.name if kind == RAY else kind
                found[name] = max(found.get(name, 0), process.peak)
        return found

    def look(self) -> None:
        """Read what all of them have taken."""
        parents: dict[int, tuple[int, int, int]] = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None:
                parents[int(entry.name)] = stat
        with self._lock:
            for pid, (_, started, ticks) in parents.items():
                if not self._ours(pid, parents):
                    continue
                process = self._known.setdefault((pid, started), _Process(""))
                # Ray names a worker after what it runs only once it has started.
                process.name, process.ticks = _name(pid) or process.name, max(ticks, process.ticks)
                process.peak = max(process.peak, _peak(pid))

    def _watch(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            self.look()

    def _ours(self, pid: int, parents: dict[int, tuple[int, int, int]]) -> bool:
        while pid in parents and pid != self.pid:
            pid = parents[pid][0]
        return pid == self.pid

    def _kind(self, pid: int, name: str) -> str:
        if pid == self.pid:
            return DRIVER
        return WORKERS if name == _WORKER else RAY


def _stat(pid: int) -> tuple[int, int, int] | None:
    """(parent, start time, CPU ticks); None once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12])


def _name(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    said = [word.decode(errors="replace") for word in words if word]
    if not said:
        return ""
    program = Path(said[0]).name
    if program == "raylet":  # it names the command of its workers
        return program
    if program.startswith("ray::") or any("default_worker" in word for word in said):
        return _WORKER
    # A script of Ray's is known by its own name rather than the interpreter's.
    script = next((word for word in said[1:] if word.endswith(".py")), program)
    return Path(script).name


def _peak(pid: int) -> int:
    """Bytes of VmHWM; 0 once it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0

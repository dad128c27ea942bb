"""Chaos: real jobs on a cluster of two nodes and a real object store, killed with -9 and resumed, again and again.

    python tests/chaos/harness.py --rounds 20 --seed 1
    python tests/chaos/harness.py --rounds 5 --seed 7 --kill node --place s3 --keep

Each round runs one job (workload.py) into a new output folder, with its files in a bucket behind the fault proxy or in
a local folder. At a random moment something is killed; then the same command runs again until it ends with 0. What it
then has written must be, byte for byte, what an undisturbed run on the same cluster has written. All is drawn from the
seed; which request meets which fault depends on the order in which requests come.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

if __name__ == "__main__":
    TESTS = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(TESTS), *(str(TESTS / folder) for folder in ("chaos", "e2e", "servers"))]

import workload
from fault_proxy import FaultProxy
from faults import Fault, Faults
from places import Bucket, Local, Place
from rounds import Kill, Plan, Round, draw
from running import MAY_BE_RESUMED, Running
from swift_server import SwiftServer, unusable
from transformers.utils.logging import disable_progress_bar
from two_nodes import TwoNodes

MOST_RUNS = 5
STALL_SECONDS = 3.0


class Harness:
    """Store, proxy and cluster of many rounds, between `with` and its end. Raises RuntimeError where it cannot run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        if reason := unusable(folder):
            raise RuntimeError(reason)
        self._swift = SwiftServer(folder / "swift")
        self._calm: dict[str, dict[str, str]] = {}

    def __enter__(self) -> Harness:
        self._model = workload.build_model(self._folder / "model")
        with ExitStack() as stack:
            stack.callback(self._swift.kill)
            s3 = self._swift.start()
            s3.make_bucket("chaos")
            # The cluster's own token: none is looked for in the home folder, or left there.
            self._env = s3.environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            self._proxy = stack.enter_context(FaultProxy(s3.endpoint))
            self._cluster = stack.enter_context(TwoNodes(self._env))
            self._places: dict[str, Place] = {
                "s3": Bucket(s3, "chaos", self._proxy.endpoint),
                "local": Local(self._folder / "local"),
            }
            for place in self._places.values():
                place.put(workload.inputs())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def round(self, plan: Plan) -> Round:
        """Run it to its end; complaints say what is wrong."""
        place, done = self._places[plan.place], Round(plan)
        calm = self._undisturbed(plan.place)
        out, began = f"round-{plan.number}", time.monotonic()
        self._proxy.injected = done.injected
        faults = Faults(self._seed * 1000 + plan.number, plan.rate, list(Fault), stall=STALL_SECONDS)
        self._proxy.faults = faults
        while not done.exits or (done.exits[-1] != 0 and len(done.exits) < MOST_RUNS):
            self._cluster.revive()
            with self._run(place, out) as running:
                if not done.exits and plan.kill is not Kill.NOTHING:
                    done.killed = self._kill(plan, place, out, running)
                done.exits.append(running.wait())
            if done.exits[-1] not in MAY_BE_RESUMED or "Traceback" in running.said:
                done.complaints.append(f"exit {done.exits[-1]}: {running.said[-1500:]}")
                break
        self._proxy.faults = Faults()
        if not done.complaints:
            done.complaints += self._check(place, out, calm, done.exits[-1])
        done.seconds = time.monotonic() - began
        return done

    def _undisturbed(self, name: str) -> dict[str, str]:
        """Of the same job on the same files: a file's identity is part of the names of its shards."""
        if name not in self._calm:
            place = self._places[name]
            with self._run(place, "calm") as running:
                code = running.wait()
            if code != 0:
                raise RuntimeError(f"the undisturbed run ended with {code}:\n{running.said}")
            self._calm[name] = workload.results(place, "calm")
            missing = [part for part in workload.PARTS if not any(file.startswith(part) for file in self._calm[name])]
            if missing:
                raise RuntimeError(f"the undisturbed run has no {', '.join(missing)}")
        return self._calm[name]

    def _run(self, place: Place, out: str) -> Running:
        address = self._cluster.address
        return Running(workload.arguments(place, self._model, out, address), self._folder, self._env)

    def _kill(self, plan: Plan, place: Place, out: str, running: Running) -> str | None:
        """What was killed and when; None if the command ended before that."""
        while running.lives() and workload.receipts(place, out)[plan.stage] < plan.receipts:
            time.sleep(0.05)
        time.sleep(plan.delay)
        victim: str | None = None
        while running.lives() and victim is None:
            found = workload.receipts(place, out)
            victim = self._kill_one(plan, running)
        if victim is None:
            return None
        moment = ", ".join(f"{stage} {found[stage]}/{total}" for stage, total in workload.RECEIPTS.items())
        return f"killed {victim} at {moment} after {running.seconds():.1f} s"

    def _kill_one(self, plan: Plan, running: Running) -> str | None:
        if plan.kill is Kill.DRIVER:
            running.kill()
        elif plan.kill is Kill.ACTOR:
            actors = self._cluster.actors()
            if not actors:
                time.sleep(0.02)
                return None
            actors[plan.number % len(actors)].kill()
        elif plan.kill is Kill.RAYLET:
            raylet = self._cluster.raylet("second")
            if raylet is None:
                return None
            raylet.kill()
        elif plan.kill is Kill.STORE:
            self._swift.kill()
            self._swift.start()
        else:
            self._cluster.kill_node("head" if plan.kill is Kill.HEAD else "second")
        return plan.kill.value

    def _check(self, place: Place, out: str, calm: dict[str, str], code: int) -> list[str]:
        if code != 0:
            return [f"not finished after {MOST_RUNS} runs"]
        complaints = []
        found = workload.results(place, out)
        others = sorted(name for name in {*found, *calm} if found.get(name) != calm.get(name))
        if others:
            complaints.append(f"{len(others)} files differ from the undisturbed run: {', '.join(others[:6])}")
        if left := [name for name in place.names(out) if name.startswith("_work/")]:
            complaints.append(f"{len(left)} files of work left: {', '.join(left[:3])}")
        options = [flag.replace("--set", "--storage-options").replace("storage_options.", "") for flag in place.flags]
        with Running(["verify", place.url(out), *options], self._folder, self._env) as verifying:
            if verifying.wait() != 0:
                complaints.append(f"tamis verify: {verifying.said[-1500:]}")
        return complaints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first round, to repeat one alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill", type=Kill, action="append", choices=list(Kill), help="default: all; may be repeated")
    parser.add_argument("--place", action="append", choices=["s3", "local"], help="default: s3, s3, local by turns")
    parser.add_argument("--rate", type=float, default=0.05, help="highest share of requests that meet a fault")
    parser.add_argument("--keep", action="store_true", help="leave all files where they are, and say where")
    arguments = parser.parse_args()
    disable_progress_bar()  # of writing the model; here, where the whole process is ours, and not where tests come by
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # the cluster and the store go, too
    folder = Path(tempfile.mkdtemp(prefix="tamis-chaos-"))
    kills = arguments.kill or [kill for kill in Kill if kill is not Kill.NOTHING]
    bad = 0
    try:
        with Harness(folder, arguments.seed) as harness:
            for number in range(arguments.first, arguments.first + arguments.rounds):
                places = arguments.place or ["s3", "s3", "local"]
                done = harness.round(draw(arguments.seed, number, kills, places, arguments.rate))
                print(f"seed {arguments.seed}, {done}", flush=True)
                bad += bool(done.complaints)
    finally:
        if arguments.keep:
            print(f"kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{arguments.rounds - bad} of {arguments.rounds} rounds ended with the undisturbed run's bytes")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()

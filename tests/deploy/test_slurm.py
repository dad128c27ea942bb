"""deploy/slurm/tamis.sbatch under stand-ins for Slurm, Ray and tamis: signals, exit codes, the command line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm" / "tamis.sbatch"

STAND_INS = {
    # As Slurm's, but for one node: it runs the command in a child and passes its exit code on.
    "srun": 'while [[ $1 == --* ]]; do shift; done; echo "srun $*" >> "$LOG"; "$@"',
    # As Ray's: it waits for the command after "--" and ends with its code.
    "ray": 'while [[ $1 != -- ]]; do shift; done; shift; "$@"',
    "scontrol": 'echo "scontrol $*" >> "$LOG"; exit "${SCONTROL_CODE:-0}"',
    # Told to stay, it waits for a signal; it tells the test through a pipe, so that nothing sleeps.
    "tamis": """
echo "tamis $*" >> "$LOG"
[[ -z $STAY ]] && exit "$CODE"
trap 'echo "tamis got TERM" >> "$LOG"; kill $waiting; exit "$CODE"' TERM
read -r line < "$NEVER" 2> /dev/null & waiting=$!
echo up > "$UP"
wait $waiting
""",
}


@dataclass
class Slurm:
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, code: int, *, stay: bool = False, **environment: str) -> subprocess.Popen[str]:
        told = {"CODE": str(code), "STAY": "1" if stay else ""} | environment
        return subprocess.Popen(
            ["bash", SCRIPT, "job.yaml"],
            env=self.environment | told,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, code: int, **environment: str) -> int:
        process = self.start(code, **environment)
        process.communicate(timeout=60)
        return process.returncode

    @property
    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    @property
    def requeued(self) -> bool:
        return "scontrol requeue 77" in self.log


@pytest.fixture
def place() -> Iterator[Path]:
    """The folder that Slurm gives a job on a node. Its path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def slurm(tmp_path: Path, place: Path) -> Slurm:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in STAND_INS.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)
    for pipe in ("up", "never"):
        os.mkfifo(tmp_path / pipe)
    slurm = {"JOB_ID": "77", "NNODES": "2", "TMPDIR": str(place), "CPUS_PER_TASK": "32", "GPUS_ON_NODE": "8"}
    return Slurm(
        tmp_path,
        {f"SLURM_{name}": value for name, value in slurm.items()}
        | {name: str(tmp_path / name.lower()) for name in ("LOG", "UP", "NEVER")}
        | {"PATH": f"{commands}:{os.environ['PATH']}", "TAMIS_HEAD_IP": "10.0.0.1"},
    )


def test_ray_is_started_on_every_node_and_tamis_on_the_first(slurm: Slurm) -> None:
    assert slurm.run(0) == 0
    *step, tamis = slurm.log
    expected = "ray symmetric-run --address 10.0.0.1:6379 --min-nodes 2 --disable-usage-stats "
    assert expected + "--num-cpus=32 --num-gpus=8 -- bash -c " in "\n".join(step)
    assert tamis == "tamis curate --address 10.0.0.1:6379 job.yaml"


def test_a_folder_that_somebody_else_may_have_made_is_not_used(slurm: Slurm, place: Path) -> None:
    (place / "elsewhere").mkdir()
    (place / "tamis-77").symlink_to(place / "elsewhere")
    assert slurm.run(0) == 5
    assert not (slurm.folder / "log").exists(), "nothing was started"
    (place / "tamis-77").unlink()
    assert slurm.run(0) == 0
    assert (place / "tamis-77").stat().st_mode & 0o777 == 0o700


def test_a_path_that_is_too_long_for_sockets_is_not_used(slurm: Slurm, tmp_path: Path) -> None:
    """Many sites give a long SLURM_TMPDIR, and Ray would not start."""
    deep = tmp_path / "localscratch" / "a-user.12345678.0"
    deep.mkdir(parents=True)
    job = f"test-{os.getpid()}"
    try:
        assert slurm.run(0, SLURM_TMPDIR=str(deep), SLURM_JOB_ID=job) == 0
        assert list(deep.iterdir()) == []
        assert (Path("/tmp") / f"tamis-{job}" / "driver.pid").exists()
    finally:
        shutil.rmtree(Path("/tmp") / f"tamis-{job}", ignore_errors=True)


@pytest.mark.parametrize(("number", "requeued", "ends_with"), [(signal.SIGUSR1, True, 0), (signal.SIGTERM, False, 143)])
def test_a_signal_lets_tamis_leave_in_order(slurm: Slurm, number: int, requeued: bool, ends_with: int) -> None:
    """After SIGTERM Slurm itself queues a pre-empted job, and a cancelled one must not come back."""
    process = slurm.start(143, stay=True)
    assert (slurm.folder / "up").read_text() == "up\n"
    os.kill(process.pid, number)
    assert process.communicate(timeout=60)[1] is not None
    assert "tamis got TERM" in slurm.log
    assert (slurm.requeued, process.returncode) == (requeued, ends_with)


def test_a_second_signal_is_not_passed_on(slurm: Slurm) -> None:
    """tamis would end at once. Here it only counts what it gets."""
    counting = 'n=0; trap \'echo "tamis got TERM" >> "$LOG"; echo up > "$UP"\' TERM; echo up > "$UP"\n'
    counting += 'until read -r line < "$NEVER"; do :; done; exit 143\n'
    (slurm.folder / "bin" / "tamis").write_text(f"#!/bin/bash\n{counting}")
    process = slurm.start(143)
    up, never = slurm.folder / "up", slurm.folder / "never"
    up.read_text()
    os.kill(process.pid, signal.SIGTERM)
    up.read_text()
    os.kill(process.pid, signal.SIGUSR1)
    never.write_text("go\n")
    process.communicate(timeout=60)
    assert (slurm.log.count("tamis got TERM"), slurm.requeued, process.returncode) == (1, False, 143)


@pytest.mark.parametrize("code", [1, 2, 3, 6, 70, 137])
def test_what_another_try_cannot_mend_ends_with_its_code(slurm: Slurm, code: int) -> None:
    assert (slurm.run(code), slurm.requeued) == (code, False)


@pytest.mark.parametrize("code", [4, 5])
def test_what_another_try_may_mend_is_queued_again_but_not_for_ever(slurm: Slurm, code: int) -> None:
    assert (slurm.run(code, SLURM_RESTART_COUNT="2"), slurm.requeued) == (0, True)
    (slurm.folder / "log").unlink()
    assert (slurm.run(code, SLURM_RESTART_COUNT="3"), slurm.requeued) == (code, False)


@pytest.mark.parametrize("code", [0, 1])
def test_a_ray_that_did_not_start_is_no_success(slurm: Slurm, code: int) -> None:
    """`ray symmetric-run` of 2.60 prints that Ray failed to start, and ends with 0."""
    (slurm.folder / "bin" / "ray").write_text(f"#!/bin/bash\nexit {code}\n")
    assert (slurm.run(0), slurm.requeued) == (0, True)
    (slurm.folder / "log").unlink()
    assert (slurm.run(0, SLURM_RESTART_COUNT="3"), slurm.requeued) == (5, False)


def test_where_slurm_does_not_queue_it_again_the_code_is_passed_on(slurm: Slurm) -> None:
    assert slurm.run(5, SCONTROL_CODE="1") == 5


def test_the_options_ask_for_what_the_script_relies_on() -> None:
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", SCRIPT.read_text(), re.MULTILINE))
    assert options["ntasks-per-node"] == "1"  # one Ray node on each
    assert options["signal"].startswith("B:USR1@")  # B: to the script only
    assert {"requeue", "exclusive"} <= set(options)
    assert options["open-mode"] == "append"  # the log of the try before stays

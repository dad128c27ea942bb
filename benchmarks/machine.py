"""What a result was measured on: processor, memory, GPU, versions, threads, and the command.

python benchmarks/machine.py [FILE]    all of it as JSON, with what nvidia-smi says
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

SETTINGS = (
    "OMP_",
    "MKL_",
    "KMP_",
    "DNNL_",
    "ONEDNN_",
    "MALLOC_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "TORCHINDUCTOR_",
    "CUDA_",
)


def facts(device: torch.device | None = None, also: Sequence[str] = ()) -> dict[str, Any]:
    """Machine, versions (torch, transformers, numpy, and the packages in `also`) and command, for a JSON result."""
    machine: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "torch_threads": torch.get_num_threads(),
    }
    if device is not None and device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        machine |= {"gpu": gpu.name, "gpu_memory_gb": round(gpu.total_memory / 1e9, 1), "cuda": torch.version.cuda}
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)}
    if settings:  # they change the speed of every way alike
        machine["environment"] = settings
    packages = ("torch", "transformers", "numpy", *also)
    return {
        "command": shlex.join(["python", _from_root(sys.argv[0]), *sys.argv[1:]]),
        "machine": machine,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
    }


def line(machine: dict[str, Any]) -> str:
    """The machine in one line, for the top of a table."""
    place = f"{machine['processor']}, {machine['torch_threads']} threads of {machine['cores']} cores"
    return f"{machine['gpu']} ({place})" if "gpu" in machine else place


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for row in cpuinfo.read_text().splitlines():
            if row.startswith("model name"):
                return row.split(":", 1)[1].strip()
    return platform.processor()


def available_memory() -> int:
    """Bytes that a process can still take without swapping."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for row in meminfo.read_text().splitlines():
            if row.startswith("MemAvailable:"):
                return int(row.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _from_root(script: str) -> str:
    return f"benchmarks/{Path(script).name}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


PACKAGES = ("accelerate", "datasets", "huggingface_hub", "pandas", "peft", "pyarrow", "pydantic", "pytest", "ray",
            "safetensors", "tokenizers", "triton")  # fmt: skip


def main(file: str | None = None) -> None:
    found = facts(torch.device("cuda" if torch.cuda.is_available() else "cpu"), also=PACKAGES)
    if shutil.which("nvidia-smi"):
        fields = "name,driver_version,memory.total,memory.used,clocks.max.sm,power.limit,temperature.gpu"
        asked = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv"]
        found["nvidia_smi"] = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    text = json.dumps(found, indent=2)
    print(text)
    if file is not None:
        Path(file).write_text(text + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

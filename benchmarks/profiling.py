"""Where the time of a run goes, by torch.profiler: matrix products, attention, norms, rotary, activation, copies.

An element-wise product is part of a norm, of the rotary embedding or of the MLP; which one is told by the module that
runs it: hooks on all modules mark their ranges. What a fused kernel of our own does is told by its name.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tables import markdown
from timing import synchronise
from torch import nn
from torch.autograd.profiler import record_function
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

_MARK = "module:"

# By the name of the operator or kernel, whatever runs it; the first that matches counts.
NAMES = (
    ("fused by torch.compile", re.compile(r"compiled|triton|cpp_fused")),
    ("attention", re.compile(r"scaled_dot_product|flash|fmha|attention|softmax|\bbmm|baddbmm")),
    ("matrix products", re.compile(r"\bmm\b|addmm|linear|matmul|gemm|mkldnn|cutlass|nvjet|xmma")),
    ("embedding and pooling", re.compile(r"embedding|index")),
    ("norms", re.compile(r"rms_?norm|layer_?norm|rsqrt|\bpow\b|\bmean\b")),
    ("rotary", re.compile(r"rotary|rope|\bcos\b|\bsin\b|\bneg\b|\bcat\b")),
    ("activation", re.compile(r"silu|gelu|swiglu|sigmoid")),
    ("copies", re.compile(r"copy_|contiguous|\bclone\b|\bto\b|memcpy|_to_copy|empty|resize|fill_|zero_|memset")),
)
# Else by the class of the innermost module.
MODULES = (
    ("norms", re.compile(r"norm", re.IGNORECASE)),
    ("rotary", re.compile(r"rotary|attention", re.IGNORECASE)),
    ("activation", re.compile(r"mlp|silu|activation|gelu", re.IGNORECASE)),
    ("residual", re.compile(r"layer|block", re.IGNORECASE)),
)


def profiled(run: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Self time by group and by operator, in seconds, of one run; on CUDA the kernels', else the operators'."""
    cuda = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * cuda
    run()
    with _marked_modules(), torch.profiler.profile(activities=activities) as profile:
        synchronise(device)
        began = time.perf_counter()
        run()
        synchronise(device)
        wall = time.perf_counter() - began
    groups: dict[str, float] = defaultdict(float)
    operators: dict[str, float] = defaultdict(float)
    for event in profile.events() or []:
        # a kernel's time is also that of the operator that has launched it
        if event.name.startswith(_MARK) or event.device_type != torch.autograd.DeviceType.CPU:
            continue
        took = (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
        if took:
            group = group_of(event.name, _modules_around(event))
            groups[group] += took
            operators[f"{event.name} ({group})"] += took
    inside = sum(groups.values())
    groups["outside operators"] = max(wall - inside, 0.0)
    ranked = sorted(operators.items(), key=lambda item: -item[1])
    return {
        "wall_seconds": wall,
        "groups": dict(sorted(groups.items(), key=lambda item: -item[1])),
        "operators": dict(ranked[:20]),
    }


def group_of(name: str, modules: list[str]) -> str:
    """name: of an operator or kernel. modules: classes of the modules it runs in, innermost first."""
    found = next((group for group, pattern in NAMES if pattern.search(name.lower())), None)
    if found is not None and found != "copies":
        return found
    around = (group for module in modules for group, pattern in MODULES if pattern.search(module))
    return found or next(around, "other")


def show_profile(profile: dict[str, Any]) -> None:
    whole = sum(profile["groups"].values())
    rows = [[name, f"{took:.3f}", f"{took / whole:.1%}"] for name, took in profile["groups"].items()]
    print(f"\n(d) under the profiler, {profile['wall_seconds']:.2f} s:\n")
    print(markdown(["part", "seconds", "share"], rows))
    print()
    rows = [[name, f"{took:.3f}", f"{took / whole:.1%}"] for name, took in profile["operators"].items()]
    print(markdown(["operator", "seconds", "share"], rows))


def _modules_around(event: Any) -> list[str]:
    modules = []
    while event is not None:
        if event.name.startswith(_MARK):
            modules.append(event.name.removeprefix(_MARK))
        event = event.cpu_parent
    return modules


@contextmanager
def _marked_modules() -> Iterator[None]:
    """Every module's forward is a range in the profile while this lasts."""
    ranges: list[record_function] = []

    def enter(module: nn.Module, args: Any) -> None:
        ranges.append(record_function(f"{_MARK}{type(module).__name__}"))
        ranges[-1].__enter__()

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        ranges.pop().__exit__(None, None, None)

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

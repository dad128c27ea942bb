"""How fast the pipeline is around the model, and whether the driver's memory grows with the corpus.

    python benchmarks/scale.py                       rate on 50,000 rows, driver memory at 100,000 and 1,000,000
    python benchmarks/scale.py --rate-only           a minute
    python benchmarks/scale.py --json results.json

A random model of one block and width 16 costs next to nothing, so what is measured is reading, tokenising, Ray,
statistics and writing. The real command runs as a subprocess. Rates are from its manifest: capture is from the first
forward pass to the end of the last; the start of the workers (importing torch, loading the model) is shown beside it.
The driver's peak memory is the kernel's high-water mark of that one process (workers and Ray's own not counted).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TARGET_RATE = 5000.0
TARGET_GROWTH = 1.20
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate-only", action="store_true", help="leave out the memory runs, which take minutes")
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of the rate benchmark; the median counts (default 3)"
    )
    parser.add_argument("--json", type=Path, help="write the results here, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tamis-scale-") as folder:
        results = measure(Path(folder), arguments.rate_only, arguments.repeats)
    show(results)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def measure(folder: Path, rate_only: bool, repeats: int) -> dict[str, Any]:
    model = make_model(folder / "model")
    rates = [run(folder, model, 50_000) for _ in range(repeats)]
    rates.sort(key=lambda result: result["rows_per_second"])
    results: dict[str, Any] = {
        "command": "python benchmarks/scale.py",
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "memory_gb": round(_memory() / 1e9, 1)},
        "rate": {
            "median": rates[len(rates) // 2],
            "all": [round(r["rows_per_second"]) for r in rates],
            "target": TARGET_RATE,
        },
    }
    if not rate_only:
        small, large = run(folder, model, 100_000), run(folder, model, 1_000_000)
        results["memory"] = {
            "runs": [small, large],
            "growth": large["driver_peak_mb"] / small["driver_peak_mb"],
            "target": TARGET_GROWTH,
        }
    return results


def run(folder: Path, model: Path, rows: int) -> dict[str, Any]:
    """Curate `rows` rows with the real command; its rates and the peak memory of its driver."""
    corpus, output = folder / f"corpus-{rows}.jsonl", folder / "out"
    if not corpus.exists():
        write_corpus(corpus, rows)
    shutil.rmtree(output, ignore_errors=True)
    command = [str(Path(sys.executable).parent / "tamis"), "curate", "--input", str(corpus), "--model", str(model)]
    command += ["--method", "saft", "--set", "saft.layer=0", "--output", str(output)]
    began = time.perf_counter()
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _high_water(process.pid))
            time.sleep(0.1)
    if process.returncode:
        sys.exit(f"the run failed:\n{(folder / 'log').read_text()}")
    timings = json.loads((output / "manifest.json").read_text())["timings"]
    stages = {name: timings[name]["seconds"] for name in ("capture", "fit", "emit")}
    worker_start = timings["capture"]["wall_seconds"] - timings["capture"]["seconds"]
    return {
        "rows": rows,
        "tokens_per_row": round(timings["capture"]["tokens_per_second"] / timings["capture"]["rows_per_second"], 1),
        "rows_per_second": rows / sum(stages.values()),
        "rows_per_second_with_worker_start": rows / (sum(stages.values()) + worker_start),
        "worker_start_seconds": round(worker_start, 2),
        "stage_seconds": {name: round(seconds, 2) for name, seconds in stages.items()},
        "plan_seconds": round(timings["plan"]["seconds"], 2),
        "ray_start_seconds": round(timings["ray_start"]["seconds"], 2),
        "whole_command_seconds": round(time.perf_counter() - began, 1),
        "driver_peak_mb": round(peak / 1e6, 1),
    }


def write_corpus(path: Path, rows: int) -> None:
    """Short samples of about 60 tokens, seeded."""
    chance = random.Random(0)
    words = _words()
    with path.open("w") as file:
        for _ in range(rows):
            instruction = " ".join(chance.choices(words, k=chance.randint(6, 20)))
            output = " ".join(chance.choices(words, k=chance.randint(20, 60)))
            file.write(json.dumps({"instruction": instruction, "input": "", "output": output}) + "\n")


def make_model(path: Path) -> Path:
    """A random one-block model and a tokenizer trained on the corpus' words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = _words()
    tokenizer.train_from_iterator([" ".join(words)] * 5, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    wrapped.add_special_tokens({"additional_special_tokens": special[2:]})
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(path)
    config = LlamaConfig(
        vocab_size=len(wrapped), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path, safe_serialization=True)
    return path


def _words() -> list[str]:
    chance = random.Random(1)
    syllables = [
        "ka",
        "ro",
        "mi",
        "ten",
        "sol",
        "bar",
        "lin",
        "du",
        "fe",
        "gra",
        "po",
        "ster",
        "na",
        "vi",
        "qua",
        "zen",
    ]
    return ["".join(chance.choices(syllables, k=chance.randint(1, 3))) for _ in range(800)]


def _high_water(pid: int) -> int:
    """Bytes of VmHWM; 0 once the process is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def show(results: dict[str, Any]) -> None:
    table = Table(title=f"pipeline around a model that costs nothing, {results['machine']['cores']} cores")
    for name in ("rows", "rows/s", "capture s", "fit s", "emit s", "workers' start s", "command s", "driver peak MB"):
        table.add_column(name, justify="right")
    for run_ in [results["rate"]["median"], *results.get("memory", {}).get("runs", [])]:
        stages = [f"{run_['stage_seconds'][stage]:.1f}" for stage in ("capture", "fit", "emit")]
        table.add_row(
            f"{run_['rows']:,}", f"{run_['rows_per_second']:,.0f}", *stages, f"{run_['worker_start_seconds']:.1f}",
            f"{run_['whole_command_seconds']:.1f}", f"{run_['driver_peak_mb']:,.0f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    median = results["rate"]["median"]
    console.print(
        f"rate: {median['rows_per_second']:,.0f} rows/s over capture, fit and emit (target {TARGET_RATE:,.0f}); "
        f"{median['rows_per_second_with_worker_start']:,.0f} with the start of the workers and the model's load"
    )
    if "memory" in results:
        console.print(
            f"driver memory, 1,000,000 rows to 100,000: {results['memory']['growth']:.2f}x (target {TARGET_GROWTH})"
        )


if __name__ == "__main__":
    main()

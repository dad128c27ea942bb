"""Peak memory over the model does not grow with sequence length x vocabulary."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

ROWS, TOKENS, VOCABULARY = 4, 1024, 64_000
FULL_LOGITS = ROWS * TOKENS * VOCABULARY * 4

PROGRAM = """
import sys
import numpy as np
import torch
from tamis.operators.forward.losses import TokenLosses

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

def score(rows, tokens):
    ids = [np.arange(tokens) + row for row in range(rows)]
    losses, problems = scorer.losses(ids, [[(1, tokens)]] * rows, token_budget=rows * tokens)
    assert not problems and all(np.isfinite(row).all() for row in losses["base"])

torch.set_num_threads(1)  # on a busy machine two would wait for each other
scorer = TokenLosses.load(sys.argv[1], device="cpu", dtype=sys.argv[2])
score(1, 8)
before = peak()
score(int(sys.argv[3]), int(sys.argv[4]))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process's memory")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_logits_of_a_batch_never_exist(dtype: str, tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=TOKENS,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), dtype, str(ROWS), str(TOKENS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert FULL_LOGITS > 1e9
    assert int(done.stdout) < 400e6

"""Shared by all tests: small chat models made on the spot, and one local Ray cluster that real runs join."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

# Nothing here may reach for the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Every cluster of these tests, and everything that joins one, has this token; none is left in the home folder.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

SPECIAL_TOKENS = ("<|begin|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_TRAINING_TEXT = (
    "How do I boil an egg? Put it into boiling water for seven minutes and cool it down.",
    "Write a short letter to my landlord about the broken heating in the kitchen.",
    "The quick brown fox jumps over the lazy dog while the old clock on the wall strikes nine.",
    "Sure, here is what you asked for. I am sorry, I cannot help with that.",
)
_RAY_DEADLINE = 120.0


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama of 4 blocks, width 32, whose states tell texts apart; with tokenizer and template."""
    return _save_model(tmp_path_factory.mktemp("tiny_model"), blocks=4, width=32)


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like tiny_model, of 6 blocks and width 384: slow enough to be caught half way."""
    return _save_model(tmp_path_factory.mktemp("slow_model"), blocks=6, width=384)


@pytest.fixture(scope="session")
def ray_address(_ray_cluster: tuple[str, Path]) -> str:
    """Address of a Ray cluster of one node with 2 CPUs, started with the `ray` command and stopped at the end."""
    return _ray_cluster[0]


@pytest.fixture(scope="session")
def ray_logs(_ray_cluster: tuple[str, Path]) -> Path:
    """The folder with all that this cluster and its workers have logged."""
    return _ray_cluster[1] / "session_latest" / "logs"


@pytest.fixture(scope="session")
def _ray_cluster() -> Iterator[tuple[str, Path]]:
    # Its folder is its own and has a short name: Ray's sockets lie in it, and their paths may not exceed 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--port=0", "--num-cpus=2"]
    command += ["--include-dashboard=false", "--dashboard-agent-listen-port=0", "--disable-usage-stats"]
    command += ["--object-store-memory=200000000", f"--temp-dir={folder}"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    log_path = folder / "start.log"
    with log_path.open("wb") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        yield _await_address(folder / "ray_current_cluster", log_path, head), folder
    finally:
        _kill_family(head)
        shutil.rmtree(folder, ignore_errors=True)


def _kill_family(head: subprocess.Popen[bytes]) -> None:
    """Only what was started here: `ray stop` would end every cluster on the machine."""
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(head.pid)
        for member in [leader, *leader.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                member.kill()
    head.wait()


def _await_address(found: Path, log: Path, head: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + _RAY_DEADLINE
    while "Ray runtime started" not in log.read_text(errors="replace"):
        if head.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"ray start failed:\n{log.read_text(errors='replace')}")
        time.sleep(0.05)
    return found.read_text().strip()


def _save_model(folder: Path, blocks: int, width: int) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.3 if width < 64 else 0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Leave the random state of other tests alone.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_TRAINING_TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer

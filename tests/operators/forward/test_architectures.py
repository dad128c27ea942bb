"""Whatever the architecture: the vector is the whole model's state at that block and position, or the model is refused.

The long test goes through every causal architecture that the installed transformers can build small; a sample of unlike
ones runs always.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small_configs import BLOCKS, VOCABULARY, causal_configs, random_model, small_config

from tamis.operators.forward.representations import Representer, check_model
from tamis.operators.requests import POSITIONS, Request

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 1e-5
IDS = np.random.default_rng(0).integers(5, VOCABULARY - 10, 7).astype(np.int32)
ANSWER = (3, 6)


def blocks_of(config: Any) -> int:
    count: int = getattr(config.get_text_config(), "num_hidden_layers", BLOCKS)
    return count


def states(model: Any, count: int) -> list[np.ndarray]:
    """The naive twin: what each block of the whole model passes on to the next one, float64 (T, d) per block.

    Nothing follows the last block but a norm that each architecture names as it likes: its own output counts.
    """
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count and type(module[0]).__name__ != "Linear"
    ]
    # the language model of a multimodal one, and no list within a block
    lists.sort(key=lambda item: ("language_model" not in item[0] and "text" not in item[0], item[0].count(".")))
    blocks = lists[0][1]
    passed: dict[int, Any] = {}

    def keep(place: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            passed[place - 1] = args[0] if args else kwargs["hidden_states"]

        return hook

    hooks = [block.register_forward_pre_hook(keep(place), with_kwargs=True) for place, block in enumerate(blocks)]
    hooks.append(blocks[-1].register_forward_hook(lambda module, args, output: passed.update({count - 1: output})))
    with torch.inference_mode():
        model(input_ids=torch.from_numpy(IDS.astype(np.int64))[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    if isinstance(passed[count - 1], tuple | list):
        passed[count - 1] = passed[count - 1][0]
    return [passed[block][0].double().numpy() for block in range(count)]


def pooled(state: np.ndarray, position: str) -> np.ndarray:
    start, stop = ANSWER
    return {"last_token": state[-1], "last_prompt_token": state[start - 1]}.get(
        position, state[start:stop].mean(axis=0)
    )


def compare(model: Any, passed: list[np.ndarray], folder: Path) -> tuple[str, str]:
    """equal, refused or wrong, and why. passed: the states of the model."""
    model.save_pretrained(folder)
    refusals = []
    for block, expected in enumerate(passed):
        requests = [Request(block, position) for position in POSITIONS]
        try:
            loaded = Representer.load(folder, requests, device="cpu")
        except ValueError as error:
            refusals.append(f"block {block}: {error}")
            continue
        vectors, problems = loaded.represent([IDS], [ANSWER])
        loaded.close()
        if problems:
            return "wrong", f"block {block}: {problems[0].message}"
        for request in requests:
            right = pooled(expected, request.position)
            error = np.abs(vectors[request][0] - right).max() / np.abs(right).max()
            if not error <= TOLERANCE:
                return "wrong", f"block {block}, {request.position}: {error:.1g}"
    if any("\n" in refusal for refusal in refusals):
        return "wrong", "refused in several lines"
    return ("refused", refusals[0]) if refusals else ("equal", "")


SAMPLE = (
    "LlamaConfig",
    "Gemma3TextConfig",
    "GPT2Config",
    "MixtralConfig",
    "Mamba2Config",
    "NanoChatConfig",  # its final norm is used before the blocks, too
    "OpenAIGPTConfig",  # its blocks return lists
    "NemotronHConfig",  # transformers renames its weights
)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_unlike_architectures(name: str, tmp_path: Path) -> None:
    config = small_config(getattr(transformers, name))
    model = random_model(config)
    assert compare(model, states(model, blocks_of(config)), tmp_path) == ("equal", "")


@pytest.mark.parametrize(
    ("name", "shape"), [("DeepseekV4Config", "(1, 7, 4, 32)"), ("Gemma3nTextConfig", "(2, 1, 7, 32)")]
)
def test_several_streams_are_refused_before_any_weight_is_read(name: str, shape: str, tmp_path: Path) -> None:
    random_model(small_config(getattr(transformers, name))).save_pretrained(tmp_path)
    for attempt in (check_model, Representer.load):
        with pytest.raises(ValueError, match="not one state of width 32 a token") as refusal:
            attempt(tmp_path, [Request(0, "last_token")])
        assert shape in str(refusal.value)


@pytest.mark.long
def test_every_causal_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, list[str]] = {"equal": [], "refused": [], "wrong": [], "not built": []}
    for number, kind in enumerate(causal_configs()):
        try:
            config = small_config(kind)
            model = random_model(config)
            passed = states(model, blocks_of(config))
        except Exception as error:  # the numbers of small_configs.py do not fit it, or it needs a library
            found["not built"].append(f"{kind.__name__}: {' '.join(str(error).split()):.150}")
            continue
        outcome, why = compare(model, passed, tmp_path / str(number))
        found[outcome].append(f"{kind.__name__}: {why}")
    with capsys.disabled():
        print()
        for outcome, names in found.items():
            print(f"{len(names)} {outcome}")
            if outcome != "equal":
                print(*(f"    {name:.240}" for name in names), sep="\n")
    assert not found["wrong"]
    assert len(found["equal"]) >= 110
    assert len(found["not built"]) <= 15

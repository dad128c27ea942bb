"""Supervised fine-tuning of LoRA adapters on response tokens: TOSS's reference models (docs/methods.md, "TOSS").

The loss of one optimizer step is the mean over all response tokens of its batch, however they are split into
micro-batches and workers: every worker sums the gradients of its tokens' losses, `reduce` adds these sums, and only
then is the total divided by the number of tokens, clipped and applied. So W workers give the same result as one, up to
rounding (and up to dropout, if it is used: each worker draws its own). The base model stays frozen and in evaluation
mode, so its own dropout is off; adapters and optimizer are float32.

As in losses.py, rows are padded on the right without a mask, and the LM head gets only response positions, one chunk
at a time. Each chunk's gradient is computed at once, so that its logits are freed before the next chunk's are made.

On a CPU in float32 with a fixed number of threads, the same rows and recipe give the same bits, interrupted or not.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load, save
from torch import nn
from torch.nn import functional

from tamis.operators.forward.adapters import CONFIG_FILE, WEIGHTS_FILE
from tamis.operators.forward.lm_head import SplitModel
from tamis.operators.forward.losses import CHUNK_BYTES
from tamis.operators.forward.rows import RowNumbers, batch_overhead, model_batches, padded
from tamis.operators.model.architecture import describe, plan_full, read_config, rope_boundaries
from tamis.operators.model.info import ModelInfo
from tamis.operators.model.loading import find_weights, is_out_of_memory, load_cut
from tamis.operators.model.placement import choose_device, choose_dtype
from tamis.operators.model.revisions import resolve_revision
from tamis.operators.training.lora_targets import lora_targets
from tamis.operators.training.recipe import BETAS, Recipe, stream
from tamis.operators.training.rows import TrainingRows, share

TOKEN_BUDGETS = {"cpu": 2048, "cuda": 4096}
"""Rows x longest row of a micro-batch. Smaller on CUDA than for a forward pass: a backward pass keeps activations."""

_ADAPTER = "default"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_KINDS = ("weight", *_MOMENTS)

AllReduce = Callable[[torch.Tensor], None]
"""Sums, in place, a tensor of the same shape over all workers."""


class TrainingError(RuntimeError):
    """The training cannot continue with this recipe, precision and device; the message says what to do."""


@dataclass(frozen=True)
class Point:
    """One optimizer step. step, epoch: counted from 1. loss: nats per response token, before the step. gradient_norm:
    norm of the mean loss's gradient, before clipping. tokens: response tokens of the batch.
    """

    step: int
    epoch: int
    loss: float
    gradient_norm: float
    tokens: int


def alone(tensor: torch.Tensor) -> None:
    """The reduction for a single worker: there is nothing to add."""


class Trainer:
    """A causal language model with one LoRA adapter in training. Not thread-safe."""

    def __init__(
        self,
        model: nn.Module,
        blocks: str,
        config: Any,
        recipe: Recipe,
        *,
        base_name: str | None = None,
        revision: str | None = None,
        token_budget: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """model: a transformers ...ForCausalLM in evaluation mode; it is wrapped in place. blocks: the path of its list
        of blocks. base_name, revision: the base model that the exported adapter names. Raises ValueError for a target
        module that the model lacks.
        """
        self.info: ModelInfo = describe(config)
        self.recipe = recipe
        self.model = model
        parameter = next(model.parameters())
        self.device: torch.device = parameter.device
        self.dtype: torch.dtype = parameter.dtype
        self.targets = lora_targets(model, blocks, recipe.target_modules)
        self.step = 0
        self.curve: list[Point] = []
        self._budget = token_budget or TOKEN_BUDGETS.get(self.device.type, TOKEN_BUDGETS["cuda"])
        self._boundaries = rope_boundaries(config)
        # logits and their gradient in the model's dtype, log-softmax and its gradient in float32
        self._chunk = max(1, chunk_bytes // (self.info.vocabulary * (2 * parameter.element_size() + 8)))
        self._wrapper = _attach(model, recipe, self.targets, base_name, revision)
        self.weights: dict[str, torch.Tensor] = {
            name: weight for name, weight in sorted(model.named_parameters()) if weight.requires_grad
        }
        _set_first_weights(self.weights, recipe.seed)
        self._optimizer = torch.optim.AdamW(
            list(self.weights.values()), lr=recipe.learning_rate, betas=BETAS, weight_decay=recipe.weight_decay
        )
        self._parts = SplitModel(model, blocks)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        recipe: Recipe,
        *,
        dtype: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle_weights: bool = False,
        base_name: str | None = None,
        base_revision: str | None = None,
        token_budget: int | None = None,
    ) -> Trainer:
        """Loads the model in folder `path` (or of that name on the hub) and adds new adapters to it.

        dtype, device: of the base, as in TokenLosses.load. base_name, base_revision: the base model that the exported
        adapter names. Raises ValueError like TokenLosses.load, and for a target module that the model lacks.
        """
        place = choose_device(device)
        number = choose_dtype(dtype, place)
        revision = resolve_revision(path, revision)
        config = read_config(path, revision=revision, trust_remote_code=trust_remote_code)
        plan = plan_full(config, trust_remote_code=trust_remote_code)
        files = find_weights(path, plan, revision=revision, allow_pickle_weights=allow_pickle_weights)
        model = load_cut(plan, files, dtype=number, device=place)
        return cls(
            model,
            plan.blocks,
            config,
            recipe,
            base_name=base_name,
            revision=base_revision,
            token_budget=token_budget,
        )

    def train(
        self,
        rows: TrainingRows,
        *,
        rank: int = 0,
        workers: int = 1,
        reduce: AllReduce = alone,
        on_batch: Callable[[], None] | None = None,
    ) -> Iterator[Point]:
        """Runs the remaining steps, one per iteration. on_batch: called after each micro-batch of this process.

        Each of the `workers` processes iterates over the same rows with its own rank. Raises TrainingError if the loss
        or the gradient is no longer finite (on all workers at once), or if a single row does not fit into memory.
        """
        while self.step < self.recipe.steps(len(rows)):
            batch = self.recipe.batch(self.step, len(rows))
            mine = share(batch, rows.lengths, rank, workers)
            gradient, loss = self.gradient(rows, mine, rank, on_batch)
            tokens = int(rows.targets[batch].sum())
            total = torch.tensor([loss], dtype=torch.float64, device=self.device)
            reduce(gradient)
            reduce(total)
            yield self._apply(gradient / tokens, float(total) / tokens, tokens, len(rows))

    def gradient(
        self, rows: TrainingRows, batch: RowNumbers, rank: int = 0, on_batch: Callable[[], None] | None = None
    ) -> tuple[torch.Tensor, float]:
        """The gradient of the SUM of the losses of all response tokens of these rows, float32 (all weights,), in the
        order of `weights`; and that sum. If memory runs out, smaller micro-batches are used. on_batch: called after
        each micro-batch.
        """
        while True:
            try:
                return self._gradient(rows, batch, rank, on_batch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                longest = int(rows.lengths[batch].max())
            if self._budget < longest:
                raise TrainingError(
                    f"step {self.step + 1}: a row of {longest} tokens does not fit the memory of {self.device}; "
                    "lower max_tokens, or give each worker more memory"
                )
            self._budget //= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _gradient(
        self, rows: TrainingRows, batch: RowNumbers, rank: int, on_batch: Callable[[], None] | None
    ) -> tuple[torch.Tensor, float]:
        for weight in self.weights.values():
            weight.grad = None
        loss = 0.0
        overhead = batch_overhead(self.device.type)
        with self._dropout(rank):
            for part in model_batches(batch, self._needed(rows), self._budget, overhead, self._boundaries):
                loss += self._backward(rows, part)
                if on_batch is not None:
                    on_batch()
        gradients = [
            torch.zeros_like(weight, device=self.device) if weight.grad is None else weight.grad.to(self.device)
            for weight in self.weights.values()
        ]
        return torch.cat([gradient.flatten() for gradient in gradients]), loss

    def _needed(self, rows: TrainingRows) -> RowNumbers:
        """The number of tokens of each row to run: all of them if their number changes the rotary frequencies."""
        return rows.lengths if self._boundaries else rows.needed

    def _backward(self, rows: TrainingRows, part: RowNumbers) -> float:
        """Adds the gradient of one micro-batch to the weights' gradients; returns the sum of its losses."""
        needed = self._needed(rows)[part]
        tokens = padded([rows.input_ids[row][:length] for row, length in zip(part, needed, strict=True)], needed)
        inside = np.repeat(np.arange(len(part)), rows.targets[part]) * tokens.shape[1]
        predictors = inside + np.concatenate([rows.positions[row] for row in part]) - 1
        wanted = np.concatenate([rows.input_ids[row][rows.positions[row]] for row in part]).astype(np.int64)
        states = self._parts.states(torch.from_numpy(tokens).to(self.device)).flatten(0, 1)
        # a model spread over GPUs ends on another device than it starts on
        states = states[torch.from_numpy(predictors).to(states.device)]
        loss = torch.zeros((), dtype=torch.float64, device=states.device)
        slopes = []
        targets = torch.from_numpy(wanted).to(states.device)
        for piece, own in zip(states.detach().split(self._chunk), targets.split(self._chunk), strict=True):
            piece.requires_grad_()
            logits = self._parts.logits(piece).float()
            sums = functional.cross_entropy(logits, own.to(logits.device), reduction="sum")
            sums.backward()
            slopes.append(piece.grad)
            loss += sums.detach().to(loss.device)
        if states.requires_grad:  # False if all adapters are on the LM head
            states.backward(torch.cat(slopes))
        return float(loss)

    def _apply(self, gradient: torch.Tensor, loss: float, tokens: int, rows: int) -> Point:
        """Clips the gradient, makes the step and records it. gradient: of the mean loss."""
        norm = float(torch.linalg.vector_norm(gradient))
        if not (np.isfinite(loss) and np.isfinite(norm)):
            what = "loss" if not np.isfinite(loss) else "gradient"
            raise TrainingError(
                f"step {self.step + 1}: the {what} is not finite; lower learning_rate, "
                f"or set the model's dtype to float32 or bfloat16 (it is {str(self.dtype).removeprefix('torch.')})"
            )
        gradient = gradient * min(1.0, self.recipe.clip / (norm + 1e-6))
        sizes = [weight.numel() for weight in self.weights.values()]
        for weight, part in zip(self.weights.values(), gradient.split(sizes), strict=True):
            weight.grad = part.view_as(weight).to(weight.device)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        epoch = (self.step - 1) // self.recipe.steps_per_epoch(rows) + 1
        point = Point(self.step, epoch, loss, norm, tokens)
        self.curve.append(point)
        return point

    @contextmanager
    def _dropout(self, rank: int) -> Iterator[None]:
        """Derives dropout's random numbers from the seed, step and worker; the global random state is not changed."""
        if not self.recipe.dropout:
            yield
            return
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(stream(self.recipe.seed, "dropout", self.step, rank))
            yield

    def state(self) -> tuple[bytes, dict[str, Any]]:
        """All that another Trainer of the same model and recipe needs to continue: a safetensors file, and JSON."""
        tensors = {f"weight.{name}": weight for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            moments = self._optimizer.state.get(weight, {})
            for kind in _MOMENTS:
                tensors[f"{kind}.{name}"] = moments.get(kind, torch.zeros_like(weight))
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return save(tensors), {"step": self.step, "curve": [asdict(point) for point in self.curve]}

    def restore(self, tensors: bytes, facts: dict[str, Any]) -> None:
        """Continues from the result of `state`. Raises ValueError if its tensors do not fit this model and recipe."""
        saved = load(tensors)
        wanted = {f"{kind}.{name}": weight.shape for name, weight in self.weights.items() for kind in _KINDS}
        for name, shape in wanted.items():
            if name not in saved or saved[name].shape != shape:
                raise ValueError(f"the saved state has no {name} of shape {tuple(shape)}")
        if len(saved) > len(wanted):
            raise ValueError(f"the saved state has {len(saved) - len(wanted)} tensors that have no place in this model")
        self.step = int(facts["step"])
        self.curve = [Point(**point) for point in facts["curve"]]
        for name, weight in self.weights.items():
            weight.data.copy_(saved[f"weight.{name}"])
            self._optimizer.state[weight] = {
                "step": torch.tensor(float(self.step)),
                **{kind: saved[f"{kind}.{name}"].to(weight.device) for kind in _MOMENTS},
            }

    def adapter(self) -> dict[str, bytes]:
        """The adapter's two files, name -> content, as peft writes them; Adapters and peft can load them. Identical to
        the byte for the same weights.
        """
        config = self._wrapper.peft_config[_ADAPTER].to_dict() | {"inference_mode": True}
        # a set of strings has a different order in every process
        settings = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        weights = peft.get_peft_model_state_dict(self._wrapper, adapter_name=_ADAPTER, save_embedding_layers=False)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        return {
            CONFIG_FILE: json.dumps(settings, indent=2, sort_keys=True).encode(),
            WEIGHTS_FILE: save(tensors, metadata={"format": "pt"}),
        }


def _attach(model: Any, recipe: Recipe, targets: tuple[str, ...], base_name: str | None, revision: str | None) -> Any:
    """Adds a trainable LoRA adapter to the frozen model; returns the peft wrapper around it."""
    alpha: Any = int(recipe.alpha) if recipe.alpha == int(recipe.alpha) else recipe.alpha
    config = peft.LoraConfig(
        r=recipe.rank,
        lora_alpha=alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name,
        revision=revision,
    )
    with warnings.catch_warnings(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        warnings.simplefilter("ignore")  # peft itself detects that weights are stored transposed (Conv1D)
        wrapper = peft.PeftModel(model, config, _ADAPTER)  # makes the adapters float32
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.train()
    return wrapper


def _set_first_weights(weights: dict[str, torch.Tensor], seed: int) -> None:
    """peft's initialisation, A uniform and B zero, with random numbers derived from the seed and the weight's name."""
    for name, weight in weights.items():
        first = torch.zeros(weight.shape, dtype=weight.dtype)
        if ".lora_A." in name:
            generator = torch.Generator().manual_seed(stream(seed, "weights", name))
            nn.init.kaiming_uniform_(first, a=5**0.5, generator=generator)
        weight.data.copy_(first)

"""The chat model answering with one block scaled at a time; the search of sensitivity.py counts the refusals."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from tamis.operators.forward.rows import RowNumbers
from tamis.operators.generation.answers import Generator, batches_of, make_batch
from tamis.operators.generation.prefilled import Prefilled, can_pass_through, keep_prefill
from tamis.operators.generation.refusals import check_markers, is_refusal
from tamis.operators.generation.scaling import matrices, scaled
from tamis.operators.model.architecture import describe, plan_full, read_config, rope_boundaries
from tamis.operators.model.info import ModelInfo
from tamis.operators.model.loading import find_weights, is_out_of_memory, load_cut, stop_tokens
from tamis.operators.model.placement import choose_device, choose_dtype
from tamis.operators.model.revisions import resolve_revision
from tamis.operators.statistics.sensitivity import NEW_TOKENS
from tamis.operators.tokens.questions import QuestionTokenizer

T = TypeVar("T")

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class ScaledAnswers:
    """The chat model, answering with one block scaled at a time. Not thread-safe.

    The block's weight matrices are scaled: every parameter of two or more dimensions except biases, norms and
    embeddings (scaling.py). Answers are greedy (answers.py) and have at most `new_tokens` tokens. They end at a token
    that the model's generation config or its tokenizer names as the end. In float32 the answers equal those of
    `generate` on one prompt at a time. In half precision batched sums round differently, so two tokens whose logits
    are equal within rounding may swap ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: str,
        info: ModelInfo,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stops: frozenset[int] = frozenset(),
        template: str | None = None,
        max_rows: int = 256,
    ) -> None:
        """blocks: the path of the model's list of blocks. stops: token ids that end an answer, in addition to the
        tokenizer's own. max_rows: the most prompts answered at once; fewer if there is not enough memory.
        """
        self.info = info
        own = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
        self._generator = Generator(model, stops.union(own))
        found = model.get_submodule(blocks)
        assert isinstance(found, nn.ModuleList)
        self._blocks = found
        for block in found:
            matrices(block)
        parameter = next(model.parameters())
        self.device: torch.device = parameter.device
        self.dtype: torch.dtype = parameter.dtype
        self._tokenizer = tokenizer
        self._special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        self._questions = QuestionTokenizer(tokenizer, template)
        self._boundaries = rope_boundaries(model.config)
        self._max_rows = max_rows
        self._markers: tuple[str, ...] = ()
        self._prompts: list[Prefilled] = []

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle_weights: bool = False,
        template: str | None = None,
    ) -> ScaledAnswers:
        """Loads the model and tokenizer in folder `path` (or of that name on the hub), all blocks and the LM head.

        dtype: float32, bfloat16, float16, or auto = bfloat16 on CUDA and float32 elsewhere.
        device: auto = cuda if there is one, else cpu; or any torch device.
        template: the chat template, as Jinja source or the name of one of the tokenizer's templates; None takes the
        tokenizer's own.
        Raises ValueError for a model that is not a causal decoder, is incomplete, or requires something that is not
        allowed (code, pickles), and for a tokenizer that is not fast.
        """
        place = choose_device(device)
        number = choose_dtype(dtype, place)
        revision = resolve_revision(path, revision)  # a branch may move between the config and the weights
        config = read_config(path, revision=revision, trust_remote_code=trust_remote_code)
        info = describe(config)
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        plan = plan_full(config, trust_remote_code=trust_remote_code)
        files = find_weights(path, plan, revision=revision, allow_pickle_weights=allow_pickle_weights)
        stops = stop_tokens(path, config, revision=revision)
        model = load_cut(plan, files, dtype=number, device=place)
        return cls(model, plan.blocks, info, tokenizer, stops=stops, template=template)

    def prepare(self, prompts: Sequence[str], *, new_tokens: int = NEW_TOKENS, markers: Sequence[str] = ()) -> int:
        """Runs the unscaled model on the prompts, each as a single user turn; returns how many answers are refusals.

        markers: refusal phrases in addition to refusals.MARKERS. Raises ValueError if there are no prompts or
        new_tokens is below 1; and, naming the prompt by its number, if a prompt cannot be rendered, is too long for
        the model, or has a token id that the model does not have.
        """
        self._prompts = []
        self._markers = check_markers(markers)
        if new_tokens < 1 or not prompts:
            raise ValueError(f"{len(prompts)} prompts and {new_tokens} new tokens: at least one of each is needed")
        ids = self._questions.questions(prompts)
        self._check(ids, new_tokens)
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        batches = batches_of(lengths, new_tokens, self._max_rows, self._boundaries)
        prepared: list[Prefilled] = []

        def run(rows: RowNumbers) -> int:
            batch = make_batch([ids[row] for row in rows], new_tokens, self.device)
            kept, logits, cache = keep_prefill(self._generator, blocks, batch)
            count = self._count(kept, logits, cache)
            prepared.append(kept)
            return count

        with torch.inference_mode():
            # the shortest and the longest prompt of a batch: the shorter is padded, as most prompts are
            trial = make_batch([ids[row] for row in batches[0][[0, -1]]], new_tokens, self.device)
            blocks = self._blocks if can_pass_through(self._generator, self._blocks, trial) else None
            count, _ = _halving(batches, run, lambda rows: np.array_split(rows, 2) if len(rows) > 1 else [])
        self._prompts = prepared
        return count

    def refusals(self, block: int, factor: float) -> int:
        """The number of answers that are refusals with the matrices of `block` multiplied by `factor`.

        The weights are restored to the same bits afterwards, also if this raises. Raises ValueError for a block that
        the model does not have, and if called before `prepare`.
        """
        if not 0 <= block < len(self._blocks):
            raise ValueError(f"block {block}: {self.info.architecture} has blocks 0 to {len(self._blocks) - 1}")
        if not self._prompts:
            raise ValueError("there are no prompts yet: call prepare first")

        def run(kept: Prefilled) -> int:
            return self._count(kept, *kept.prefill(self._generator, self._blocks, block))

        with torch.inference_mode(), scaled(self._blocks[block], factor):
            count, self._prompts = _halving(self._prompts, run, Prefilled.halves)
        return count

    def _count(self, kept: Prefilled, logits: torch.Tensor, cache: Cache) -> int:
        answers = self._generator.answers(kept.batch, logits, cache, self._has_refused)
        return sum(is_refusal(self._text(answer), self._markers) for answer in answers)

    def _has_refused(self, answer: list[int]) -> bool:
        """Whether an answer is already a refusal, however it continues, so that it can stop here.

        Decoders only append text for further tokens, so a marker in the text so far stays in it. Two kinds of endings
        may still change and are not trusted: white space, which a decoder may remove before a full stop, and single
        bytes, which are text only if all consecutive bytes form whole characters.
        """
        last = next((token for token in reversed(answer) if token not in self._special), None)
        if last is None or _BYTE.fullmatch(self._tokenizer.convert_ids_to_tokens(last) or ""):
            return False
        return is_refusal(self._text(answer).rstrip(), self._markers)

    def _text(self, answer: list[int]) -> str:
        return str(self._tokenizer.decode(answer, skip_special_tokens=True))

    def _check(self, ids: Sequence[RowNumbers], new_tokens: int) -> None:
        limit = self.info.max_positions
        for number, row in enumerate(ids):
            if row.max() >= self.info.vocabulary:
                raise ValueError(
                    f"prompt {number} (counted from 0) has token id {row.max()}, outside the model's vocabulary of "
                    f"{self.info.vocabulary}; take the tokenizer that belongs to the model"
                )
            if limit is not None and len(row) + new_tokens > limit:
                raise ValueError(
                    f"prompt {number} (counted from 0) has {len(row)} tokens; with {new_tokens} of an answer that is "
                    f"more than the {limit} that the model takes"
                )


def _halving(parts: Sequence[T], run: Callable[[T], int], halve: Callable[[T], Sequence[T]]) -> tuple[int, list[T]]:
    """The sum of run(part), and the parts that were run: a part that runs out of memory is halved, down to a row."""
    total, done, pending = 0, [], list(parts)[::-1]
    while pending:
        part = pending.pop()
        try:
            total += run(part)
            done.append(part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # the frames hold the tensors of the run: without this, halving would not free any memory
            traceback.clear_frames(error.__traceback__)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            smaller = halve(part)
            if not smaller:
                raise
            pending += reversed(smaller)
    return total, done

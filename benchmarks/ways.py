"""Four ways from token ids to the states of one block at the last token: three that are in use, and ours.

Each takes token ids (N arrays) and gives float32 (N, d) on the host, in the order of the input. Tokenising is part
of none of them; padding, copies to the device and the copy of the result are part of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tamis.operators.forward.representations import Representer
from tamis.operators.requests import Request

TokenIds = Sequence[npt.NDArray[np.int64]]
Vectors = npt.NDArray[np.float32]

BATCH = 32

LABELS = {
    "a": "published: batch 1, full model",
    "b": f"transformers: batches of {BATCH}, file order",
    "c": f"sentence-transformers: batches of {BATCH}, sorted",
    "d": "tamis",
    "e": "tamis, compile=true",
}


@torch.inference_mode()
def one_by_one(model: Any, input_ids: TokenIds, block: int) -> Vectors:
    """(a) LARF's release: the causal language model, one sample at a time, every block's states and the logits of
    all tokens computed and returned, the last token taken.
    """
    vectors = []
    for ids in input_ids:
        tokens = torch.from_numpy(ids)[None].to(model.device)
        output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True)
        vectors.append(output.hidden_states[block + 1][0, -1].float().cpu().numpy())
    return np.stack(vectors)


def in_file_order(decoder: Any, input_ids: TokenIds, block: int) -> Vectors:
    """(b) What scripts that embed with a decoder do: batches as they come, padded on the right, with the attention
    mask that the tokenizer returns; the decoder without LM head; the last real token by the mask's sum.
    """
    return _batched(decoder, input_ids, block, np.arange(len(input_ids)))


def sorted_by_length(decoder: Any, input_ids: TokenIds, block: int) -> Vectors:
    """(c) The same as sentence-transformers' `encode` does it: longest first, then batches."""
    lengths = np.array([len(ids) for ids in input_ids])
    return _batched(decoder, input_ids, block, np.argsort(-lengths, kind="stable"))


@torch.inference_mode()
def _batched(decoder: Any, input_ids: TokenIds, block: int, order: npt.NDArray[np.int64]) -> Vectors:
    vectors = np.empty((len(input_ids), decoder.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        tokens, mask = padded([input_ids[row] for row in rows])
        tokens, mask = tokens.to(decoder.device), mask.to(decoder.device)
        output = decoder(input_ids=tokens, attention_mask=mask, output_hidden_states=True)
        last = mask.sum(dim=1) - 1
        states = output.hidden_states[block + 1]
        vectors[rows] = states[torch.arange(len(rows), device=states.device), last].float().cpu().numpy()
    return vectors


def padded(rows: TokenIds) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 (B, T) ids with zeros on the right, and the attention mask."""
    longest = max(len(row) for row in rows)
    tokens, mask = (torch.zeros(len(rows), longest, dtype=torch.int64) for _ in range(2))
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.from_numpy(row)
        mask[number, : len(row)] = 1
    return tokens, mask


def ours(representer: Representer, input_ids: TokenIds, finals: npt.NDArray[np.int64], **options: Any) -> Vectors:
    """(d) options: keyword options of Representer.represent. Raises RuntimeError if a row was refused."""
    vectors, problems = representer.represent(input_ids, finals, **options)
    if problems:
        row, problem = next(iter(problems.items()))
        raise RuntimeError(f"{len(problems)} rows have problems, row {row}: {problem}")
    return vectors[representer.requests[0]]


def last_token(block: int) -> list[Request]:
    return [Request(block, "last_token")]

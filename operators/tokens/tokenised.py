"""What tokenising makes of one conversation (tokens.py); apart from it, as much needs no tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Tokenised:
    """input_ids: int32 (T,).
    responses: half-open token ranges of the answers, in order; answers of which truncation or
        the template has left nothing are not among them. The last one is the final answer, never empty.
    truncated: whether tokens were cut off.
    prompt_cut: whether all of the final answer's prompt was cut off, so that the token before the answer
        (a BOS, or the answer's own beginning) is not the last token of its prompt.
    """

    input_ids: npt.NDArray[np.int32]
    responses: tuple[tuple[int, int], ...]
    truncated: bool
    prompt_cut: bool = False

    @property
    def final(self) -> tuple[int, int]:
        return self.responses[-1]

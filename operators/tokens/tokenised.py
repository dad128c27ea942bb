"""The result of tokenising one conversation (tokenizer.py). It has its own file because much code that uses it needs
no tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Tokenised:
    """input_ids: int32 (T,).
    responses: half-open token ranges of the answers, in order. Answers that truncation or the template removed
        completely are not included. The last range is the final answer, never empty.
    truncated: whether tokens were cut off.
    prompt_cut: whether the whole prompt of the final answer was cut off, so that the token before the answer
        (a BOS, or the answer's own beginning) is not the last token of its prompt.
    """

    input_ids: npt.NDArray[np.int32]
    responses: tuple[tuple[int, int], ...]
    truncated: bool
    prompt_cut: bool = False

    @property
    def final(self) -> tuple[int, int]:
        return self.responses[-1]

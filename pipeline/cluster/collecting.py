"""The garbage collector in processes that are tamis's own: commands and Ray's workers, not programs that import tamis.

What they import (torch, transformers) are hundreds of thousands of objects that stay. Python looks through all of them
again and again while they come: a sixth of the seconds that the imports take.
"""

from __future__ import annotations

import gc


def collect_rarely() -> None:
    """Look for cycles once in a hundred thousand new objects, where Python's default is some hundreds."""
    gc.set_threshold(100_000, 10, 10)

"""The garbage collector in tamis's own processes: commands and Ray's workers, not programs that import tamis.

Their imports (torch, transformers) create hundreds of thousands of objects that stay. Python scans all of them again
and again during the imports, which takes a sixth of the import time.
"""

from __future__ import annotations

import gc


def collect_rarely() -> None:
    """Collect once per hundred thousand new objects; Python's default is some hundreds."""
    gc.set_threshold(100_000, 10, 10)

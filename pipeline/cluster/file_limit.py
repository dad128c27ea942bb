"""Whether Ray may open as many files as it needs. If not, it ends the process without a message."""

from __future__ import annotations

import os

from tamis.pipeline.errors import ClusterError

_RAY, _A_CORE = 100, 4
"""On 2 cores, a run of tamis fails with a limit of 64 and works with 128. Each worker process needs a few more."""


def check_file_limit() -> None:
    """ClusterError where the hard limit is too low; up to that, Ray raises the limit itself."""
    try:
        import resource
    except ImportError:  # not Unix
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _RAY + _A_CORE * (os.cpu_count() or 1)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ClusterError(
            f"this process may open {hard:,} files at most, and Ray needs {needed:,}; raise the limit "
            "(`ulimit -n 65536`, or LimitNOFILE of the service) and try again"
        )

"""One commit for all files of a model, because a branch may move between reading the config and the weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import transformers.utils
from transformers.utils import cached_file, extract_commit_hash

# transformers 5.17 has no resolve_revision; _by_config can be removed when 5.18 is the oldest supported version
_by_transformers: Callable[..., str | None] | None = getattr(transformers.utils, "resolve_revision", None)


def resolve_revision(path: str | os.PathLike[str], revision: str | None) -> str | None:
    """The commit that `revision` (None: the main branch) of the model `path` on the hub currently points to.

    Returns `revision` itself for a folder, and if the hub gives no answer: loading the files next will show why.
    """
    return _by_config(path, revision) if _by_transformers is None else _by_transformers(path, revision)


def _by_config(path: str | os.PathLike[str], revision: str | None) -> str | None:
    if os.path.exists(path):
        return revision
    found = None
    with suppress(OSError):
        found = cached_file(
            path,
            "config.json",
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    return extract_commit_hash(found, None) or revision

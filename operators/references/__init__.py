"""The reference sets that tamis ships, written for this project (README.md in this folder).

unsafe.jsonl and safe.jsonl pair by line: the same prompt, complied with and refused. over_rejection.jsonl
holds harmless prompts that sound unsafe. The functions only name the files; the caller reads them.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def unsafe_path() -> Path:
    """JSON lines {"messages": [user, assistant], "topic"}: a harmful prompt, complied with without detail."""
    return _FOLDER / "unsafe.jsonl"


def safe_path() -> Path:
    """JSON lines {"messages": [user, assistant], "topic"}: line i refuses the prompt of unsafe line i."""
    return _FOLDER / "safe.jsonl"


def over_rejection_path() -> Path:
    """JSON lines {"prompt", "topic"}: prompts that sound unsafe and are harmless."""
    return _FOLDER / "over_rejection.jsonl"

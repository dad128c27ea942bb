"""The reference sets that tamis ships, written for this project (README.md in this folder).

unsafe.jsonl and safe.jsonl are paired by line: the same prompt, answered with compliance and with refusal.
over_rejection.jsonl has harmless prompts that sound unsafe. The functions only name the files; the caller reads them.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def unsafe_path() -> Path:
    """JSON lines {"messages": [user, assistant], "topic"}: a harmful prompt and a complying answer without detail."""
    return _FOLDER / "unsafe.jsonl"


def safe_path() -> Path:
    """JSON lines {"messages": [user, assistant], "topic"}: line i refuses the prompt of unsafe line i."""
    return _FOLDER / "safe.jsonl"


def over_rejection_path() -> Path:
    """JSON lines {"prompt", "topic"}: prompts that sound unsafe but are harmless."""
    return _FOLDER / "over_rejection.jsonl"

"""Names that columns of a conversation usually have. A column of such a name is never passed over without a word."""

from __future__ import annotations

import re
from functools import lru_cache

from tamis.operators.conversation.dialects import ANSWERS, CHATS, SYSTEM, VARIABLES

HISTORIES = ("history", "chat_history", "conversation_history", "dialogue_history", "dialog_history", "context")
"""Columns that hold a chat if another one holds its answer."""

MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_MEDIA = re.compile(r"(?:image|img|video|audio)s?(?:_(?:path|file|filename|url|uri|bytes|base64|b64)s?)?")
PROMPTS = ("prompt", "question", "instruction", "query")

PROMPT_PARTS = frozenset(
    {
        *(*PROMPTS, *SYSTEM, *VARIABLES, "input", "context", "history"),
        *HISTORIES,
        *("contexts", "inputs", "passage", "passages", "document", "background", "knowledge", "evidence", "preamble"),
        *("article", "paragraph", "premise", "hypothesis", "facts", "snippets", "search_results"),
        *("examples", "few_shot", "fewshot", "few_shots", "few_shot_examples", "shots", "demonstrations", "demos"),
        *("functions", "tool_choice", "choices", "options", "persona"),
        *MEDIA,
    }
)
"""Columns that suggest a part of the prompt."""

_NAMES = 1 << 16
"""Names that are remembered. The columns are gone through row by row: with more of them than this, no name would be
found again."""

_ALL = PROMPT_PARTS | {*CHATS, *ANSWERS} - {"data"}


@lru_cache(_NAMES)
def usual(column: str) -> str:
    """The name as it is usually spelt: in lower case, words joined by an underscore."""
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def is_usual(column: str) -> bool:
    """Whether a column of this name is usually part of a conversation."""
    return usual(column) in _ALL


@lru_cache(_NAMES)
def is_media(column: str) -> bool:
    """Whether a column of this name holds images, videos or sounds, or says where they are."""
    return _MEDIA.fullmatch(usual(column)) is not None


def is_prompt_part(column: str) -> bool:
    """Whether the name suggests a part of the prompt."""
    return usual(column) in PROMPT_PARTS or is_media(column)

"""kept/ as plain messages: each row's conversation as the run has read it, whatever its layout was.

    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ..., "weight": 0}], "tools": ...}

weight 0 stands on the assistant's turns that the corpus marks as not trained on, as in OpenAI's fine-tuning format; on
no other. A conversation ends with its last trained turn. What the chat template reads besides stands beside messages:
tools, documents, and the rest in chat_template_kwargs. tamis reads a row of this form as it has read the original one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.operators.conversation.conversation import Conversation, Message
from tamis.operators.conversation.dialects import VARIABLES, Dialect
from tamis.operators.conversation.messages import normalise
from tamis.operators.problems import UNSCORED, RowProblem
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.shards import rows_of
from tamis.pipeline.run.paths import MANIFEST, SCORES, table_of
from tamis.pipeline.run.row_places import RowPlaces
from tamis.pipeline.storage.safe_names import safe_name
from tamis.pipeline.storage.store import Sealed, Store

_BATCH = 512
_SPOKEN = ("system", "user", "assistant")


@dataclass(frozen=True)
class Kept:
    """The tables of kept/ of a finished run, and how each is read."""

    store: Store
    manifest: Mapping[str, Any]
    files: list[Sealed]

    def conversations(self, file: Sealed) -> Iterator[tuple[str, Conversation | None]]:
        """Where each row of one file is, for people, and its conversation; None where no turn of it is trained on.

        InputError for a row that cannot be read, DamagedError for a file that is not as it was written."""
        table = pq.ParquetFile(io.BytesIO(self.store.read(file)), page_checksum_verification=True)
        row = 0
        for shard, groups in self._corpus.shards_in(file.name):
            dialect = self._dialect(shard)
            columns = [name for name in dialect.reads if name in table.schema_arrow.names]
            for batch in table.iter_batches(_BATCH, row_groups=groups, columns=columns):
                for each in rows_of(pa.Table.from_batches([batch]), 0):
                    where = f"row {row:,} of {file.name}"
                    row += 1
                    try:
                        if isinstance(each.value, RowProblem):
                            raise each.value
                        yield where, normalise(each.value, dialect)
                    except RowProblem as problem:
                        if problem.code not in UNSCORED:
                            raise InputError(f"{where} cannot be read ({problem.code}); see `tamis verify`") from None
                        yield where, None

    @cached_property
    def _corpus(self) -> RowPlaces:
        return RowPlaces(self.store, self.manifest["files"])

    def _dialect(self, shard: str) -> Dialect:
        """Of the input file that the shard is of."""
        name = table_of(SCORES, safe_name(shard, MANIFEST))
        if name not in self._listed:
            raise InputError(f"{self.store.path(name)}: is not in the manifest; see `tamis verify`")
        source = self.store.read_table(self._listed[name], ["source"]).column("source")[0].as_py()
        if source not in self._layouts:
            raise InputError(f"{self.store.path(name)}: names a file that the manifest does not; see `tamis verify`")
        return Dialect.from_dict(self._layouts[source])

    @cached_property
    def _listed(self) -> dict[str, Sealed]:
        return {entry["name"]: Sealed(entry["name"], entry["sha256"]) for entry in self.manifest["files"]}

    @cached_property
    def _layouts(self) -> dict[str, Any]:
        """Path of an input file -> which of its columns hold what."""
        return {entry["path"]: entry["columns"] for entry in self.manifest["input"]["files"]}


def plain(conversation: Conversation) -> dict[str, Any]:
    """The row of a conversation, as the module's docstring has it."""
    messages = [_plain(message) for message in conversation.messages]
    learnt = set(conversation.answers)
    for number, message in enumerate(messages):
        if message["role"] == "assistant" and number not in learnt:
            message["weight"] = 0
    given = dict(conversation.variables)
    named = {name: given.pop(name) for name in VARIABLES if name in given}
    return {"messages": messages, **named, **({"chat_template_kwargs": given} if given else {})}


def _plain(message: Message) -> Message:
    # The same reasoning stands under each name that a chat template may read; one of them is enough to read it again.
    return {key: value for key, value in message.items() if key not in ("thinking", "reasoning")}


def line(where: str, conversation: Conversation) -> bytes:
    """One line of JSON. ConfigError for a number that JSON does not have."""
    try:
        text = json.dumps(plain(conversation), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        raise ConfigError(f"{where} has a value in its tools or calls that JSON cannot hold; take it out") from None
    return text.encode() + b"\n"


def unlike_torchtune(conversation: Conversation) -> str | None:
    """Why torchtune would train on something else than this conversation, or end with an error; None if it would not.

    Its transform of OpenAI's messages trains on every turn of the assistant, and knows no tools; its check of messages
    wants the user and the assistant in turn."""
    if conversation.trained is not None:
        return "marks turns as not trained on, and torchtune would train on them"
    if not conversation.is_plain:
        return "has tools, reasoning or names, which torchtune does not read"
    roles = [message["role"] for message in conversation.messages]
    if not set(roles) <= set(_SPOKEN):
        return f"has a turn of the role {next(role for role in roles if role not in _SPOKEN)}, which torchtune has not"
    spoken = roles[1:] if roles[0] == "system" else roles
    if spoken != ["user", "assistant"] * (len(spoken) // 2):
        return "is no exchange in which user and assistant take turns, and torchtune ends at such a row"
    return None

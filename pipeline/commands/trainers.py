"""What each trainer must be told so that it trains on kept/ as it is: the text of its config file or script.

Read from the sources of axolotl 0.19.0, LLaMA-Factory 0.9.5 and torchtune 0.6; the scripts are run by the tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tamis.operators.conversation.dialects import JOIN, Dialect
from tamis.pipeline.errors import ConfigError

MESSAGES, TORCHTUNE = "messages", "torchtune"
TRAINERS = ("transformers", "trl", "axolotl", "llama-factory", TORCHTUNE, MESSAGES)
"""What `--for` may name; `messages` is no trainer, but the form that most of them read."""

_MADE = "Written by tamis export; change it as you like."
_AS_THEY_ARE = "Its tokens and labels are those of the run: use the model and the tokenizer that the run was made with."


@dataclass(frozen=True)
class Model:
    """The model that the run was made with, as its job names it."""

    name: str
    revision: str | None = None
    remote_code: bool = False

    @property
    def arguments(self) -> str:
        """Arguments of `from_pretrained`."""
        more = {"revision": self.revision, "trust_remote_code": self.remote_code or None}
        return "".join([repr(self.name), *(f", {key}={value!r}" for key, value in more.items() if value is not None)])


# --- a masked corpus: DATA is what save_to_disk writes, with input_ids, attention_mask and labels ------------------


def for_masked(trainer: str, data: str, model: Model, longest: int) -> dict[str, str]:
    """Name -> content of the files that train on the masked corpus in the folder `data`, the one to start with last.
    longest: tokens of a row. ConfigError for what cannot say which tokens are masked."""
    if trainer == MESSAGES:
        raise ConfigError("--for messages: text cannot say which tokens are masked, so the mask would be lost; use a "
                          "trainer that reads tokens")  # fmt: skip
    if trainer == TORCHTUNE:
        comments = [_MADE, _AS_THEY_ARE, *_TORCHTUNE, "Start `tune run` in the folder of tamis_masked.py."]
        dataset = {"_component_": "tamis_masked.masked", "folder": data}
        return {"tamis_masked.py": _MASKED, "torchtune.yaml": _yaml(comments, {"dataset": dataset})}
    if trainer == "axolotl":
        comments = [
            _MADE,
            _AS_THEY_ARE,
            "axolotl takes a dataset with these columns as it is: set no `type`, no streaming.",
        ]
        settings = {
            **_named(model, "base_model", "revision_of_model"),
            "datasets": [{"path": data}],
            "sequence_len": longest,
            "excess_length_strategy": "raise",
            "val_set_size": 0,
            **_AXOLOTL,
        }
        return {"axolotl.yaml": _yaml(comments, settings)}
    if trainer == "llama-factory":
        comments = [
            _MADE,
            _AS_THEY_ARE,
            "LLaMA-Factory reads tokenized_path as it is. `dataset` must be set and is not read: no dataset has",
            "this name, so that a wrong tokenized_path ends in an error and not in a training without the mask.",
        ]
        settings = {
            **_named(model, "model_name_or_path", "model_revision"),
            "dataset": "masked_by_tamis",
            "tokenized_path": data,
            **_LLAMA_FACTORY,
        }
        return {"llama_factory.yaml": _yaml(comments, settings)}
    script = _TRL if trainer == "trl" else _TRANSFORMERS
    return {"train.py": script.format(made=_MADE, advice=_AS_THEY_ARE, model=model.arguments, data=data)}


def _named(model: Model, name: str, revision: str) -> dict[str, Any]:
    """The model's settings in a config whose keys for name and revision are these."""
    return {
        name: model.name,
        **({revision: model.revision} if model.revision else {}),
        **({"trust_remote_code": True} if model.remote_code else {}),
    }


_AXOLOTL = {
    "adapter": "lora",
    "lora_r": 16,
    "lora_alpha": 16,
    "lora_target_linear": True,
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "num_epochs": 2,
    "learning_rate": 1e-4,
    "optimizer": "adamw_torch",
    "output_dir": "./trained",
}
_LLAMA_FACTORY = {
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "num_train_epochs": 2.0,
    "learning_rate": 1e-4,
    "output_dir": "./trained",
}

_TORCHTUNE = (
    "torchtune's configs name a model builder and a tokenizer of their own, which do not follow from a model's name:",
    "copy the config of your model (`tune ls`, `tune cp`) and put this `dataset` in the place of its own.",
)

_MASKED = '''"""Written by tamis export: the masked corpus as a dataset of torchtune, token by token.

torchtune's own datasets tokenise text, and so lose the mask. This one hands over the tokens and labels of the run,
-100 where a token is masked, whatever the tokenizer of the config; torchtune shifts the labels itself.
"""

from datasets import load_from_disk
from torch.utils.data import Dataset


class Masked(Dataset):
    def __init__(self, folder):
        self.rows = load_from_disk(folder)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return {"tokens": row["input_ids"], "labels": row["labels"]}


def masked(tokenizer, folder):
    """`dataset` of a config. tokenizer: of the config, which is not used."""
    return Masked(folder)
'''

_TRANSFORMERS = '''"""{made}

{advice}
DataCollatorForSeq2Seq pads the labels; transformers' other collators fail on them or write their own.
"""

from datasets import load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

model = AutoModelForCausalLM.from_pretrained({model})
tokenizer = AutoTokenizer.from_pretrained({model})
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

trainer = Trainer(
    model=model,
    args=TrainingArguments(output_dir="trained", num_train_epochs=2, learning_rate=1e-5, report_to="none"),
    train_dataset=load_from_disk({data!r}),
    data_collator=DataCollatorForSeq2Seq(tokenizer),
)
trainer.train()
trainer.save_model()
'''

_TRL = '''"""{made}

{advice}
max_length=None, as SFTTrainer else cuts rows at 1,024 tokens.
"""

import torch
from datasets import load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

model = AutoModelForCausalLM.from_pretrained({model})

trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir="trained",
        max_length=None,
        num_train_epochs=2,
        learning_rate=1e-5,
        bf16=torch.cuda.is_available(),
        report_to="none",
    ),
    train_dataset=load_from_disk({data!r}),
    processing_class=AutoTokenizer.from_pretrained({model}),
)
trainer.train()
trainer.save_model()
'''


# --- a corpus of text: DATA holds the Parquet files of kept/ -------------------------------------------------------


def for_messages(trainer: str, data: str) -> dict[str, str]:
    """Name -> content of the files beside the messages in `data`; none where they are the export."""
    if trainer == MESSAGES:
        return {}
    dataset = {
        "_component_": "torchtune.datasets.chat_dataset",
        "source": "json",
        "data_files": f"{data}/*.jsonl",
        "split": "train",
        "conversation_column": "messages",
        "conversation_style": "openai",
        "train_on_input": False,
        "packed": False,
    }
    comments = [
        _MADE,
        *_TORCHTUNE,
        "The text is that of the run, and the template that of torchtune's tokenizer, not the one of the run.",
    ]
    return {"torchtune.yaml": _yaml(comments, {"dataset": dataset})}


@dataclass(frozen=True)
class Text:
    """Conversations in the Parquet files of `folder`/data. names: of all columns. untyped: the places that are JSON."""

    folder: str
    dialect: Dialect
    names: list[str]
    untyped: list[str]


_FOR_TEMPLATES = (("tools", "tools"), ("chat_template_kwargs", "chat_template_kwargs"))
"""Columns that TRL hands to the chat template."""


def for_text(trainer: str, text: Text, model: Model) -> dict[str, str]:
    """Name -> content of the files that train on these conversations.

    Raises ConfigError if the trainer would not read these conversations as the run has read them."""
    dialect, folder = text.dialect, text.folder
    parts = dict(dialect.columns)
    if trainer == "transformers":
        raise ConfigError("--for transformers: its Trainer reads tokens, and this run kept text; use --for trl")
    if trainer == "trl":
        read = {"messages": {"messages": "messages"}, "pair": {"prompt": "prompt", "response": "completion"}}
        if {part: column for part, column in parts.items() if (part, column) not in _FOR_TEMPLATES} != read.get(
            dialect.name
        ):
            raise ConfigError(_unlike("trl", dialect, "a column messages, or prompt and completion"))
        # It takes other columns for what their names mean to it, as chosen.
        columns = [*read[dialect.name].values(), *(name for _, name in _FOR_TEMPLATES if name in text.names)]
        data = f"{folder}/data/*.parquet"
        return {"train.py": _TRL_TEXT.format(made=_MADE, model=model.arguments, data=data, columns=columns)}
    if trainer == "axolotl":
        found = _axolotl_type(dialect)
        if found is None:
            raise ConfigError(_unlike("axolotl", dialect, "lists of turns, or instruction, input and output"))
        dataset = {"path": f"{folder}/data", "ds_type": "parquet", "data_files": [f"{folder}/data/*.parquet"], **found}
        note = ["Alpaca rows get axolotl's own prompt, not the chat template with which the run has read them."]
        settings = {
            **_named(model, "base_model", "revision_of_model"),
            "datasets": [dataset],
            "sequence_len": 2048,
            "excess_length_strategy": "raise",
            "val_set_size": 0,
            **_AXOLOTL,
        }
        return {"axolotl.yaml": _yaml([_MADE, *(note if dialect.name == "alpaca" else [])], settings)}
    if text.untyped:
        raise ConfigError(
            f"--for llama-factory: it has datasets 4.0 or older, which cannot read JSON as in {text.untyped[0]}; take "
            "the column out of the input, or use --for trl or axolotl"
        )
    entry = _llama_factory_entry(dialect)
    if entry is None:
        raise ConfigError(_unlike("llama-factory", dialect, "lists of turns, or a prompt and its response"))
    settings = {
        **_named(model, "model_name_or_path", "model_revision"),
        "dataset_dir": folder,
        "dataset": "kept_by_tamis",
        "cutoff_len": 2048,
        **_LLAMA_FACTORY,
    }
    return {
        "dataset_info.json": json.dumps({"kept_by_tamis": {"file_name": "data", **entry}}, indent=2) + "\n",
        "llama_factory.yaml": _yaml(
            [_MADE, "Set `template` to the one of your model. Rows longer than cutoff_len are cut."], settings
        ),
    }


def _axolotl_type(dialect: Dialect) -> dict[str, Any] | None:
    parts = dict(dialect.columns)
    if dialect.name == "alpaca":
        plain = {"instruction": "instruction", "input": "input", "output": "output"}
        return {"type": "alpaca"} if parts == plain else None
    if parts.get("tools") == "tools":
        del parts["tools"]  # axolotl looks for it by this name
    if dialect.name == "messages" and set(parts) == {"messages"}:
        return {"type": "chat_template", "field_messages": parts["messages"]}
    if dialect.name == "sharegpt" and set(parts) == {"conversations"}:
        names = {"role": "from", "content": "value"}
        return {
            "type": "chat_template",
            "field_messages": parts["conversations"],
            "message_property_mappings": names,
        }
    return None


def _llama_factory_entry(dialect: Dialect) -> dict[str, Any] | None:
    parts = dict(dialect.columns)
    system = {"system": parts.pop("system")} if "system" in parts else {}
    names = ("role_tag", "content_tag", "user_tag", "assistant_tag", "system_tag")
    if dialect.name == "messages" and set(parts) == {"messages"}:
        tags = dict(zip(names, ("role", "content", "user", "assistant", "system"), strict=True))
        return {"formatting": "sharegpt", "columns": {"messages": parts["messages"], **system}, "tags": tags}
    if dialect.name == "sharegpt" and set(parts) == {"conversations"}:
        return {"formatting": "sharegpt", "columns": {"messages": parts["conversations"], **system}}
    named = {
        "instruction": "prompt",
        "prompt": "prompt",
        "input": "query",
        "output": "response",
        "response": "response",
    }
    if dialect.name in {"alpaca", "pair"} and set(parts) <= set(named) and dialect.join == JOIN:
        return {"formatting": "alpaca", "columns": {**{named[part]: parts[part] for part in parts}, **system}}
    return None


def _unlike(trainer: str, dialect: Dialect, read: str) -> str:
    return f"--for {trainer}: it reads {read}; the run has read {dialect.describe()}"


_TRL_TEXT = '''"""{made}"""

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

model = AutoModelForCausalLM.from_pretrained({model})

trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir="trained",
        max_length=None,
        num_train_epochs=2,
        learning_rate=1e-5,
        bf16=torch.cuda.is_available(),
        report_to="none",
    ),
    train_dataset=load_dataset("parquet", data_files={data!r}, split="train").select_columns({columns}),
    processing_class=AutoTokenizer.from_pretrained({model}),
)
trainer.train()
trainer.save_model()
'''


def _yaml(comments: list[str], settings: Mapping[str, Any]) -> str:
    """JSON values are YAML, whatever characters a path has."""
    lines = [f"# {comment}" for comment in comments]
    return "\n".join([*lines, *(f"{key}: {json.dumps(value)}" for key, value in settings.items())]) + "\n"

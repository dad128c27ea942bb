"""Fine-tune a chat model with LoRA on what a TOSS run kept.

    python deploy/examples/finetune.py --model path/to/model --corpus out/ --output adapter/
    torchrun --nproc-per-node 8 deploy/examples/finetune.py ...          one process per GPU

The corpus brings its own token ids: the model must be of the tokenizer that the run was made with. The loss is the
paper's: kept tokens' losses over the number of all response tokens (tamis.operators.training.trainer). The defaults are
those of the paper's reference models (LoRA of rank 16 on q_proj and v_proj, batches of 64, 2 epochs), with a larger
learning rate. The adapter in --output is in peft's format.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments, set_seed

from tamis.operators.training.trainer import LOSSES, curated_trainer


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    set_seed(arguments.seed)
    gpu = torch.cuda.is_available()
    rows = load_dataset("parquet", data_files=str(arguments.corpus / "kept" / "*.parquet"), split="train")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16 if gpu else torch.float32)
    if arguments.checkpointing:
        model.enable_input_require_grads()  # the base is frozen: without it no gradient reaches the adapter
    targets = arguments.modules if arguments.modules == "all-linear" else arguments.modules.split(",")
    lora = LoraConfig(r=arguments.rank, lora_alpha=arguments.rank, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    model.print_trainable_parameters()
    settings = TrainingArguments(
        output_dir=str(arguments.output),
        per_device_train_batch_size=arguments.batch_size,
        gradient_accumulation_steps=arguments.accumulate,
        num_train_epochs=arguments.epochs,
        max_steps=arguments.max_steps,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        gradient_checkpointing=arguments.checkpointing,
        bf16=gpu,
        seed=arguments.seed,
        logging_steps=arguments.log_every,
        save_strategy="no",
        report_to="none",
    )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    trainer = curated_trainer(model, settings, rows, pad, arguments.loss)
    trainer.train()
    trainer.save_model(str(arguments.output))
    tokenizer.save_pretrained(arguments.output)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100)
    )
    parser.add_argument("--model", required=True, help="folder in transformers' format, or a name on the hub")
    parser.add_argument("--corpus", type=Path, required=True, help="output folder of the run; its kept/ is read")
    parser.add_argument("--output", type=Path, required=True, help="where the adapter is written")
    parser.add_argument(
        "--loss", choices=list(LOSSES), default="responses",
        help="divide the kept tokens' losses by all response tokens of a step (responses, the paper's; the default), "
        "or take each sample's mean over its kept tokens (samples)",
    )  # fmt: skip
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="constant (default 1e-4)")
    parser.add_argument("--batch-size", type=int, default=8, help="rows per forward pass and device (default 8)")
    parser.add_argument("--accumulate", type=int, default=8, help="forward passes per step (default 8)")
    parser.add_argument("--epochs", type=float, default=2, help="passes over the corpus (default 2)")
    parser.add_argument("--max-steps", type=int, default=-1, help="stop after so many steps, whatever the epochs")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter, and its alpha (default 16)")
    parser.add_argument(
        "--modules", default="q_proj,v_proj", help='adapted matrices, or "all-linear" (default q_proj,v_proj)'
    )
    parser.add_argument("--checkpointing", action="store_true", help="less memory, about a third slower")
    parser.add_argument("--log-every", type=int, default=10, help="steps (default 10)")
    parser.add_argument("--seed", type=int, default=42, help="(default 42)")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()

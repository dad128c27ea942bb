"""Train the lab's tiny chat model from scratch on the CPU and write it as a transformers folder.

    python benchmarks/lab/train.py --out benchmarks/lab/model

The tokenizer (byte-level BPE) and the model see training topics and training fillers only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transcripts import Turn, transcript
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, BEGIN, END = 0, 1, 2
ROLE = {"system": 3, "user": 4, "assistant": 5}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
Example = tuple[np.ndarray, np.ndarray]  # token ids int16 (T,), labels int16 (T,), -100 = no loss


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, the special tokens first, and the chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=TEMPLATE,
        model_max_length=512,
    )


def encode(turns: list[Turn], contents: list[list[int]]) -> Example:
    """Token ids and labels of a transcript, whose contents are tokenised already."""
    ids, labels = [BEGIN], [-100]
    for turn, content in zip(turns, contents, strict=True):
        ids.append(ROLE[turn.role])
        labels.append(-100 if turn.learn == "none" else ROLE[turn.role])
        ids += [*content, END]
        labels += [*content, END] if turn.learn == "all" else [-100] * (len(content) + 1)
    return np.array(ids, dtype=np.int16), np.array(labels, dtype=np.int16)


def encode_all(transcripts: list[list[Turn]], tokenizer: PreTrainedTokenizerFast) -> list[Example]:
    flat = [turn.content for turns in transcripts for turn in turns]
    tokens = iter(tokenizer(flat, add_special_tokens=False)["input_ids"])
    examples = [encode(turns, [next(tokens) for _ in turns]) for turns in transcripts]
    for turns, (ids, _) in zip(transcripts[:100], examples, strict=False):
        messages = [{"role": t.role, "content": t.content} for t in turns]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        if tokenizer(text, add_special_tokens=False)["input_ids"] != ids.tolist():
            raise AssertionError("the chat template renders another token sequence than training does")
    return examples


def batches(examples: list[Example], tokens: int, rng: Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Padded (ids, labels) int64 (B, T) of like length, about `tokens` tokens each, in random order."""
    order = list(range(len(examples)))
    rng.shuffle(order)
    groups = []
    for start in range(0, len(order), 8192):  # sort by length within chunks only, so that batches stay mixed
        chunk = sorted(order[start : start + 8192], key=lambda i: len(examples[i][0]))
        group: list[int] = []
        for i in chunk:
            if group and (len(group) + 1) * len(examples[i][0]) > tokens:
                groups.append(group)
                group = []
            group.append(i)
        groups.append(group)
    rng.shuffle(groups)
    for group in groups:
        width = max(len(examples[i][0]) for i in group)
        ids = np.full((len(group), width), PAD, dtype=np.int64)
        labels = np.full((len(group), width), -100, dtype=np.int64)
        for row, i in enumerate(group):
            ids[row, : len(examples[i][0])], labels[row, : len(examples[i][1])] = examples[i]
        yield torch.from_numpy(ids), torch.from_numpy(labels)


def train(model: LlamaForCausalLM, examples: list[Example], args: argparse.Namespace) -> None:
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decay, "weight_decay": args.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95))
    plan = list(batches(examples, args.batch_tokens, Random(args.seed)))
    steps = len(plan)
    began, seen, shown = time.perf_counter(), 0, 0.0
    model.train()
    for step, (ids, labels) in enumerate(plan):
        warm = min(1.0, (step + 1) / 50)
        rate = args.lr * warm * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1]
            wanted = labels[:, 1:] != -100  # the head is computed where there is a loss, only
            logits = model.lm_head(hidden[wanted])
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += ids.numel()
        shown = loss.item() if step == 0 else 0.95 * shown + 0.05 * loss.item()
        if step % 50 == 49 or step == steps - 1:
            spent = time.perf_counter() - began
            left = spent / (step + 1) * (steps - step - 1)
            print(
                f"step {step + 1}/{steps}  loss {shown:.3f}  {seen / spent:,.0f} tokens/s  {left:.0f} s left",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--transcripts", type=int, default=60_000)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=False, help="bfloat16 autocast")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    rng = Random(f"training {args.seed}")
    transcripts = [transcript(rng) for _ in range(args.transcripts)]
    tokenizer = train_tokenizer([t.content for turns in transcripts[:20_000] for t in turns], args.vocabulary)
    examples = encode_all(transcripts, tokenizer)
    tokens = sum(len(ids) for ids, _ in examples)
    print(f"{len(examples):,} transcripts, {tokens:,} tokens, vocabulary {len(tokenizer)}", flush=True)

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.width,
        intermediate_size=args.width * 11 // 4,
        num_hidden_layers=args.blocks,
        num_attention_heads=args.width // 32,
        num_key_value_heads=args.width // 32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.02,
        bos_token_id=BEGIN,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    model = LlamaForCausalLM(config)
    print(f"{model.num_parameters():,} parameters", flush=True)
    train(model, examples, args)

    model.generation_config.eos_token_id = END
    model.generation_config.pad_token_id = PAD
    model.generation_config.bos_token_id = BEGIN
    model.generation_config.do_sample = False
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(json.dumps({p.name: p.stat().st_size for p in sorted(args.out.iterdir())}))


if __name__ == "__main__":
    main()

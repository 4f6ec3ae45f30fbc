#!/usr/bin/env python3
"""The same model and length through PyTorch and transformers: what this recipe is to be measured against.

    pip install torch transformers pyarrow
    ESPALIER_DATA=/path/to/data python3 recipes/shakespeare/peer.py --seeds 1,2,3 --threads 2

nanoGPT's training loop: windows begin anywhere, AdamW on two groups, cosine to a tenth, clipping at 1. The
validation loss is over the whole text in windows one after another, as the job's is.
"""

import argparse
import math
import os
import statistics
import time
from pathlib import Path

import pyarrow.parquet as parquet
import torch
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).resolve().parent
CONTEXT, BATCH, STEPS, WARMUP, RATE, LEAST = 64, 12, 2000, 100, 1e-3, 1e-4


def rate_at(step):
    if step < WARMUP:
        return RATE * (step + 1) / WARMUP
    done = (step - WARMUP) / (STEPS - WARMUP)
    return LEAST + 0.5 * (1 + math.cos(math.pi * done)) * (RATE - LEAST)


def loss_of(model, inputs, targets):
    logits = model(input_ids=inputs).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def validation_loss(model, ids):
    starts = range(0, len(ids) - 1, CONTEXT)
    total = 0.0
    for start in starts:
        inputs = ids[start : start + CONTEXT]
        targets = ids[start + 1 : start + CONTEXT + 1]
        inputs = inputs[: len(targets)]
        total += loss_of(model, inputs[None], targets[None]).item() * len(targets)
    return total / (len(ids) - 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = Path(os.environ["ESPALIER_DATA"]) / "tiny_shakespeare"
    texts = {split: "".join(parquet.read_table(folder / f"{split}.parquet")["text"].to_pylist()) for split in ("train", "validation")}
    number = {char: place for place, char in enumerate(sorted(set("".join(texts.values()))))}
    train, validation = (torch.tensor([number[char] for char in texts[split]]) for split in ("train", "validation"))
    losses = []
    for seed in args.seeds:
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config.from_pretrained(HERE / "model"))
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        others = [p for p in model.parameters() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99))
        begin = time.monotonic()
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step)
            starts = torch.randint(len(train) - CONTEXT, (BATCH,))
            inputs = torch.stack([train[start : start + CONTEXT] for start in starts])
            targets = torch.stack([train[start + 1 : start + CONTEXT + 1] for start in starts])
            optimizer.zero_grad(set_to_none=True)
            loss_of(model, inputs, targets).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        seconds = time.monotonic() - begin
        losses.append(validation_loss(model.eval(), validation))
        print(f"seed {seed}: {losses[-1]:.4f} nats a character, {seconds:.0f} s of training", flush=True)
    deviation = statistics.stdev(losses) if len(losses) > 1 else 0.0
    print(f"PyTorch: {statistics.mean(losses):.4f} ± {deviation:.4f} over {len(losses)} seeds")


if __name__ == "__main__":
    main()

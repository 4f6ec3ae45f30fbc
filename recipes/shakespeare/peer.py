#!/usr/bin/env python3
"""The same model and length through PyTorch and transformers: what this recipe is to be measured against.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/shakespeare/peer.py --seeds 1,2,3

Steps, batch, rates, schedule and clipping are those of job.yaml; as in nanoGPT, windows begin anywhere and the
vocabulary matrix is tied to the word table. The validation loss is over the whole text in windows one after another,
as the job's is.
"""

import sys
import time
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import Found, link_data, run
from peers import Job, Stepper, arguments, begin, rows_of


def loss_of(model, inputs, targets):
    logits = model(input_ids=inputs).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def validation_loss(model, ids, context):
    total = 0.0
    for start in range(0, len(ids) - 1, context):
        inputs = ids[start : start + context]
        targets = ids[start + 1 : start + context + 1]
        inputs = inputs[: len(targets)]
        total += loss_of(model, inputs[None], targets[None]).item() * len(targets)
    return total / (len(ids) - 1)


def main():
    args = arguments(__doc__).parse_args()
    link_data("tiny_shakespeare/train.parquet", "tiny_shakespeare/validation.parquet")
    job, found = Job(HERE / "job.yaml", args), Found(digits=4)
    context, data = job.backbone["max_tokens"], job.tasks[0]["data"]
    texts = ["".join(row["text"] for row in rows_of(job, data[split], ["text"], args.limit)) for split in ("train", "validation")]
    number = {char: place for place, char in enumerate(sorted(set("".join(texts))))}
    train, validation = (torch.tensor([number[char] for char in text]) for text in texts)
    total = job.steps(len(train) // context)
    for seed in args.seeds:
        began = begin(args, seed)
        # The matrix of the outputs begins as the table of the inputs and is trained apart from it.
        model = GPT2LMHeadModel(GPT2Config.from_pretrained(HERE / "model", tie_word_embeddings=False))
        model.lm_head.weight.data.copy_(model.transformer.wte.weight.data)
        stepper = Stepper(job, model.parameters(), [], total)
        for _ in range(total):
            starts = torch.randint(len(train) - context, (job.batch,))
            inputs = torch.stack([train[start : start + context] for start in starts])
            targets = torch.stack([train[start + 1 : start + context + 1] for start in starts])
            stepper.step(loss_of(model, inputs, targets))
        found.add("loss", seed, validation_loss(model.eval(), validation, context), time.monotonic() - began)
    found.show("PyTorch, nats a character")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

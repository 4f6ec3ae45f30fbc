#!/usr/bin/env python3
"""The same training in PyTorch and transformers: what this recipe is to be measured against.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite:.espalier/pyrecipes python3 recipes/draw/peer.py --seeds 1,2,3

Text first, from nothing, and both together, with the pictures, steps, batches, rates and schedules of text.yaml, job.yaml
and together.yaml; another order of the samples, and windows of text begin anywhere. Tells bits per image token on the
pictures that nobody trained on, as run.py does; draws nothing.
"""

import json
import math
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from build import HERE, OUT, SOURCES, TOKENS, WAYS, make

from cluster import DemoError, Found, link_data, run
from peers import Job, Order, Stepper, arguments, begin, here, rows_of

# As transformers marks what no loss is made of.
NOWHERE = -100
DRAW, LANGUAGE = "draw", "language"


class Pictures:
    """Captions with their image tokens, as ids [n, t], padded behind; `first` is the id of the first image token."""

    def __init__(self, split, number, limit):
        self.first = len(number)
        read = [json.loads(line) for line in (OUT / f"{split}.jsonl").read_text().splitlines()][:limit]
        ids = [self.ids(row["text"], number) for row in read]
        longest = max(map(len, ids))
        self.tokens = torch.tensor([own + [0] * (longest - len(own)) for own in ids])
        self.lengths = [len(own) for own in ids]

    def ids(self, text, number):
        letters, *tokens = text.replace(">", "").split("<i")
        return [number[letter] for letter in letters] + [self.first + int(token) for token in tokens]

    def batch(self, rows):
        """Inputs and targets [b, t - 1]."""
        ids = self.tokens[rows]
        targets = ids[:, 1:].clone()
        for row, place in enumerate(rows):
            targets[row, self.lengths[place] - 1 :] = NOWHERE
        return ids[:, :-1], targets


class Text:
    """A text's ids, and windows of it that begin anywhere."""

    def __init__(self, job, task, split, number, limit):
        text = "".join(row["text"] for row in rows_of(job, task["data"][split], ["text"], limit))
        self.ids, self.context = torch.tensor([number[letter] for letter in text]), job.backbone["max_tokens"]

    def batch(self, count):
        starts = torch.randint(len(self.ids) - self.context, (count,)).tolist()
        windows = torch.stack([self.ids[start : start + self.context + 1] for start in starts])
        return windows[:, :-1], windows[:, 1:]


def losses_of(logits, targets):
    """Mean loss [b] of each sample over its targets; those that are nowhere count as zero, and not in the mean."""
    flat = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=NOWHERE, reduction="none")
    return flat.sum(1) / (targets != NOWHERE).sum(1)


class Net(torch.nn.Module):
    """A GPT-2 with a matrix of outputs for each task, which begins as the word table and is trained apart from it."""

    def __init__(self, model, tasks):
        super().__init__()
        self.body = model.transformer
        table = self.body.wte.weight
        self.heads = torch.nn.ParameterDict({task: torch.nn.Parameter(table.detach().clone()) for task in tasks})

    def forward(self, task, inputs):
        return self.body(input_ids=inputs).last_hidden_state @ self.heads[task].T

    def stepper(self, job, total):
        return Stepper(job, self.body.parameters(), self.heads.parameters(), total)


def extended(model, rows):
    """A model whose word table has this many rows more, each the mean of the others."""
    table = model.transformer.wte.weight.detach()
    more = table.mean(0, keepdim=True).expand(rows, -1)
    model.transformer.wte = here(torch.nn.Embedding.from_pretrained(torch.cat([table, more]), freeze=False))
    return model


@torch.no_grad()
def image_bits(net, pictures, batch=50):
    """Bits of each image token of each picture [n, 49]."""
    net.eval()
    found = []
    for start in range(0, len(pictures.lengths), batch):
        rows = list(range(start, min(start + batch, len(pictures.lengths))))
        inputs, targets = pictures.batch(rows)
        flat = torch.nn.functional.cross_entropy(net(DRAW, inputs).transpose(1, 2), targets, ignore_index=NOWHERE, reduction="none")
        found += [flat[row, pictures.lengths[place] - 1 - TOKENS : pictures.lengths[place] - 1] for row, place in enumerate(rows)]
    net.train()
    return torch.stack(found) / math.log(2)


def learn_text(job, model, text, steps):
    """The model after its text; what its matrix of outputs learned is left behind, as run.py leaves it."""
    net = Net(model, [LANGUAGE])
    stepper = net.stepper(job, steps)
    for _ in range(steps):
        inputs, targets = text.batch(job.batch)
        stepper.step(losses_of(net(LANGUAGE, inputs), targets).mean())
    return model


def learn_pictures(job, model, pictures, validation, text, seed):
    """Trains on pictures, and on as many windows of text beside them where there is text: the bits of an image token of
    `validation`, the fewest of the times that the job looks."""
    net = Net(model, [DRAW, *([LANGUAGE] if text else [])])
    total, own = job.steps(len(pictures.lengths)), job.batch // (2 if text else 1)
    stepper, order = net.stepper(job, total), Order([len(pictures.lengths)], own, seed)
    every, best = job.evaluation["every_steps"], math.inf
    for step in range(total):
        inputs, targets = pictures.batch(order.step(step)[0])
        losses = losses_of(net(DRAW, inputs), targets)
        if text:
            inputs, targets = text.batch(own)
            losses = torch.cat([losses, losses_of(net(LANGUAGE, inputs), targets)])
        stepper.step(losses.mean())
        if step + 1 == total or (step + 1) % every == 0:
            best = min(best, image_bits(net, validation).mean().item())
    return best


def main():
    parser = arguments(__doc__)
    parser.add_argument("--ways", default=",".join(WAYS), help="which of: %(default)s")
    parser.add_argument("--text-steps", type=int, default=1000, help="of the text before pictures; default: %(default)s")
    args = parser.parse_args()
    if unknown := set(args.ways.split(",")) - set(WAYS):
        raise DemoError(f"there is no way {unknown.pop()}; there is {', '.join(WAYS)}")
    link_data(*SOURCES)
    if not (OUT / "meta.json").is_file():
        make(128)
    before, alone, both = (Job(HERE / f"{name}.yaml", args) for name in ("text", "job", "together"))
    number = json.loads((OUT / "text/tokenizer.json").read_text())["model"]["vocab"]
    codes = json.loads((OUT / "meta.json").read_text())["codes"]
    pictures, validation = (Pictures(split, number, args.limit) for split in ("train", "validation"))
    text, found = Text(before, before.tasks[0], "train", number, args.limit), Found(digits=3)
    for seed in args.seeds:
        for way in args.ways.split(","):
            began = begin(args, seed)
            model = here(GPT2LMHeadModel(GPT2Config.from_pretrained(OUT / "text")))
            if way == "text-first":
                model = learn_text(before, model, text, min(args.text_steps, args.steps or args.text_steps))
            job = both if way == "together" else alone
            bits = learn_pictures(job, extended(model, codes), pictures, validation, text if way == "together" else None, seed)
            found.add(f"{way}, bits per image token", seed, bits, time.monotonic() - began)
    found.show("PyTorch, pictures that nobody trained on")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

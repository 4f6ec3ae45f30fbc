#!/usr/bin/env python3
"""The same training in PyTorch and transformers: what this recipe is to be measured against.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/reviews-adaptation/peer.py --seeds 1,2,3

Models, what of them learns, data, steps, batch, rates, schedule and dropout are those of films.yaml and job.yaml;
features of the frozen encoder are computed once for all pairs and methods, which are trained one after another.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch
from torch import nn
from torch.nn import functional as F

from cluster import SETS, DemoError, Found, link_data, run
from peers import Job, Order, Stepper, arguments, begin, linear_head, rows_of
from peers_adapt import Method
from peers_text import Reader, Task, fit
from run import ALL_PAIRS, DOMAINS, FILMS, SETTINGS, SOURCE_ONLY

METHODS = [SOURCE_ONLY, *Method.KNOWN]
GROUP = 32


class Layers(nn.Module):
    """What learns: an adapter of the task's own and its head, on features [n, h]; gives what the head reads and says."""

    def __init__(self, job, width, classes):
        super().__init__()
        size = job.tasks[0]["adapter"]["size"]
        self.drop, self.head = nn.Dropout(job.dropout), linear_head(width, classes)
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        nn.init.normal_(self.down.weight, std=(3 * width) ** -0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, features):
        features = self.drop(features)
        adapted = features + self.up(F.gelu(self.down(features)))
        return adapted, self.head(adapted)


def encoder(args, seed):
    """A net that learned from films, and its reader."""
    job = Job(HERE / "films.yaml", argparse.Namespace(steps=None, epochs=None))
    reader = Reader(job)
    return fit(job, [Task(job, job.tasks[0], reader, args.limit)], seed).eval(), reader


@torch.no_grad()
def read(job, reader, net, name, limit):
    """Features [n, h] of a file of reviews and their labels."""
    rows = rows_of(job, str(SETS / f"{name}.parquet"), ["text", "label"], limit)
    inputs = reader([row["text"] for row in rows])
    order = sorted(range(len(inputs)), key=lambda row: len(inputs[row][0]))
    features = torch.zeros(len(inputs), net.body.config.hidden_size)
    for start in range(0, len(order), GROUP):
        some = order[start : start + GROUP]
        features[some] = net([inputs[row] for row in some])[1]
    return features, [row["label"] for row in rows]


def train(job, name, files, pair, seed):
    """Accuracy on the target's test set, in percent."""
    source, target = pair.split("-")
    features, labels = files[source, "train"]
    classes = sorted(set(labels))
    numbers = lambda labels: torch.tensor([classes.index(label) for label in labels])
    targets, others = numbers(labels), files[target, "train"][0]
    layers = Layers(job, features.shape[1], len(classes)).train()
    method = None if name == SOURCE_ONLY else Method(name, features.shape[1], len(classes), **SETTINGS.get(name, {}))
    own = method.own.parameters() if method else ()
    total = job.steps(len(features))
    stepper = Stepper(job, (), [*layers.parameters(), *own], total)
    orders = [Order([len(rows)], job.batch, seed + place) for place, rows in enumerate((features, others))]
    for step in range(total):
        rows, beside = (order.step(step)[0] for order in orders)
        adapted, said = layers(features[rows] if method is None else torch.cat([features[rows], others[beside]]))
        loss = F.cross_entropy(said[: len(rows)], targets[rows])
        stepper.step(loss if method is None else loss + method.loss(adapted, said, step, total))
    features, labels = files[target, "test"]
    with torch.no_grad():
        best = layers.eval()(features)[1].argmax(1)
    return 100 * (best == numbers(labels)).double().mean().item()


def main():
    parser = arguments(__doc__)
    parser.add_argument("--pairs", default="all", help="all, or some of: " + ", ".join(ALL_PAIRS))
    parser.add_argument("--methods", default=",".join(METHODS), help="default: %(default)s")
    args = parser.parse_args()
    pairs = ALL_PAIRS if args.pairs == "all" else args.pairs.split(",")
    methods = args.methods.split(",")
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise DemoError(f"the peer does not know the method {unknown[0]}; it knows {', '.join(METHODS)}")
    link_data(*FILMS, *(f"amazon_{domain}/{split}.parquet" for domain in DOMAINS for split in ("train", "test")))
    job, found, means = Job(HERE / "job.yaml", args), Found(), Found()
    for seed in args.seeds:
        began = begin(args, seed)
        net, reader = encoder(args, seed)
        learned = time.monotonic()
        files = {(domain, split): read(job, reader, net, f"amazon_{domain}/{split}", args.limit)
                 for domain in DOMAINS for split in ("train", "test")}
        print(f"seed {seed}: {(learned - began) / 60:.1f} minutes for films, {(time.monotonic() - learned) / 60:.1f} for features", flush=True)
        for name in methods:
            scores = []
            for pair in pairs:
                began = begin(args, seed)
                scores.append(train(job, name, files, pair, seed))
                found.add(f"{pair}, {name}", seed, scores[-1], time.monotonic() - began)
            means.add(f"mean, {name}", seed, statistics.mean(scores), sum(60 * found.rows[f"{pair}, {name}"][-1]["minutes"] for pair in pairs))
    found.show("PyTorch, accuracy on the target, %")
    means.show(f"mean over {len(pairs)} pairs, %")
    found.rows.update(means.rows)
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

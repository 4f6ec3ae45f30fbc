#!/usr/bin/env python3
"""The same few examples through SetFit, and the same training in PyTorch: what this recipe is to be measured against.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/few-shot/peer.py --seeds 1,2,3

Takes the examples that a job with the same seed takes. `contrast`: SetFit (Tunstall et al. 2022, arXiv 2209.11055)
without its library, as in its authors' few-shot runs: 20 pairs of a kind for each example, cosines brought to 1 or 0,
batches of 16 pairs, one pass, a tenth of warm-up, then logistic regression on the vectors; the rate 2e-5 is
sentence-transformers' usual one, and texts are cut as job.yaml says (there at 256 tokens). `plain` and `head alone`: fine-tuning, and a head on the frozen backbone, by the numbers of job.yaml.
"""

import random
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import Found, link_data, run
from peers import Job, Stepper, arguments, begin
from peers_text import Net, Reader, Task, evaluate, fit
from run import WAYS

PAIRS, PAIRS_A_BATCH, RATE, WARMUP = 20, 16, 2e-5, 0.1
WORD = (1 << 64) - 1


def mix(value):
    """The finaliser of SplitMix64, as in worker/src/data/mix.rs."""
    z = (value + 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def drawn(labels, most, seed, task):
    """Rows of at most `most` samples of each class: those that the job takes."""
    key = mix(seed ^ len(task))
    for byte in task.encode():
        key = mix(key ^ byte)
    left, rows = Counter(), []
    for _, row in sorted((mix(key ^ mix(row)), row) for row in range(len(labels))):
        left[labels[row]] += 1
        if left[labels[row]] <= most:
            rows.append(row)
    return sorted(rows)


def pairs(labels, generator):
    """(example, example, 1 of one class or 0): for each example, PAIRS of each kind."""
    made = []
    for own, label in enumerate(labels):
        same = [row for row, other in enumerate(labels) if other == label]
        others = [row for row, other in enumerate(labels) if other != label]
        for _ in range(PAIRS):
            made += [(own, generator.choice(same), 1.0), (own, generator.choice(others), 0.0)]
    generator.shuffle(made)
    return made


def vectors(net, inputs):
    """Features [n, h] of some inputs, at length 1."""
    return F.normalize(net(inputs)[1], dim=1)


@torch.no_grad()
def all_vectors(net, inputs, batch=64):
    net.eval()
    order = sorted(range(len(inputs)), key=lambda row: len(inputs[row][0]))
    parts = [vectors(net, [inputs[row] for row in order[start : start + batch]]) for start in range(0, len(order), batch)]
    found = torch.empty(len(inputs), parts[0].shape[1])
    found[order] = torch.cat(parts)
    return found


def logistic(features, labels, classes):
    """Logistic regression as scikit-learn has it by default: sum of losses and half the squared norm of the weights."""
    head = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    lbfgs = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def cost():
        lbfgs.zero_grad()
        loss = F.cross_entropy(head(features), labels, reduction="sum") + 0.5 * (head.weight**2).sum()
        loss.backward()
        return loss

    lbfgs.step(cost)
    return head


def setfit(job, task, seed):
    """Share of right answers on test, in percent."""
    inputs, labels = task.inputs["train"], task.targets["train"]
    net = Net(job, {}).train()
    made = pairs(labels, random.Random(seed))
    batches = [made[start : start + PAIRS_A_BATCH] for start in range(0, len(made), PAIRS_A_BATCH)]
    job.optimizer = {**job.optimizer, "learning_rate": RATE}
    job.schedule = {**job.schedule, "kind": "linear", "warmup_ratio": WARMUP, "warmup_steps": None}
    stepper = Stepper(job, net.body.parameters(), [], len(batches))
    for batch in batches:
        both = vectors(net, [inputs[a] for a, _, _ in batch] + [inputs[b] for _, b, _ in batch])
        cosines = (both[: len(batch)] * both[len(batch) :]).sum(1)
        stepper.step(F.mse_loss(cosines, torch.tensor([same for _, _, same in batch])))
    head = logistic(all_vectors(net, inputs), torch.tensor(labels), len(task.classes))
    found = head(all_vectors(net, task.inputs["test"])).argmax(1)
    return 100 * (found == torch.tensor(task.targets["test"])).float().mean().item()


def fine_tuned(job, task, seed):
    net = fit(job, [task], seed)
    return 100 * evaluate(net, [task], "test", job.evaluation["batch_size"])[1][task.name]["accuracy"]


def main():
    parser = arguments(__doc__)
    parser.add_argument("--ways", default=",".join(WAYS), help="which of: %(default)s")
    args = parser.parse_args()
    link_data("ag_news/train.parquet", "ag_news/test.parquet")
    job, found = Job(HERE / "job.yaml", args), Found()
    task = Task(job, {**job.tasks[0], "loss": {}}, Reader(job), args.limit)
    whole = task.inputs["train"], task.targets["train"]
    for seed in args.seeds:
        rows = drawn(whole[1], job.tasks[0]["data"]["samples_per_class"], seed, task.name)
        task.inputs["train"], task.targets["train"] = ([part[row] for row in rows] for part in whole)
        for way in args.ways.split(","):
            began = begin(args, seed)
            job = Job(HERE / "job.yaml", args)
            if way == "contrast":
                score = setfit(job, task, seed)
            else:
                if way == "head alone":
                    job.tuning = WAYS[way]["tuning"]
                    job.training["steps"] = args.steps or WAYS[way]["training__steps"]
                score = fine_tuned(job, task, seed)
            found.add(way, seed, score, time.monotonic() - began)
    found.show("SetFit or PyTorch, accuracy on test, %")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

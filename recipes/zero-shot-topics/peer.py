#!/usr/bin/env python3
"""The same training in PyTorch and transformers: what this recipe is to be measured against.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/zero-shot-topics/peer.py --seeds 1,2,3

A bi-encoder: texts and descriptions of classes through the same backbone, cross-entropy over cosines times a learned
factor. Model, data, steps, batch, rates, schedule, dropout and clipping are those of job.yaml; batches are padded.
"""

import math
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import Found, link_data, run
from peers import Job, Order, Stepper, arguments, begin, known, rows_of
from peers_text import Net, Reader
from peers_zero_shot import chosen, figures
from run import DEMO, LEFT_OUT, write_files

FIRST_SCALE, LARGEST_SCALE = 20.0, 100.0
ZERO_SHOT = {"descriptions": None, "templates": ["{}"], "unseen": []}


class Classes:
    """All classes, those trained on first, and the texts of their descriptions in every template."""

    def __init__(self, job, reader, trained, unseen):
        spec = known(job.tasks[0]["zero_shot"], ZERO_SHOT, f"{job.path}: zero_shot")
        rows = rows_of(job, spec["descriptions"], ["label", "description"])
        described = {row["label"]: row["description"] for row in rows}
        self.names, self.seen, self.each = [*sorted(trained), *unseen], len(trained), len(spec["templates"])
        self.number = {name: index for index, name in enumerate(self.names)}
        texts = [template.replace("{}", described[name]) for name in self.names for template in spec["templates"]]
        self.inputs = reader(texts)

    def vectors(self, features):
        """Vectors at length 1 [classes, h] from features of their texts."""
        each = F.normalize(features, dim=1).view(-1, self.each, features.shape[1])
        return F.normalize(each.mean(1), dim=1)


def train(job, samples, classes, seed):
    """The net; `samples` are token ids and classes."""
    net = Net(job, {}).train()
    scale = nn.Parameter(torch.tensor([math.log(FIRST_SCALE)]))
    total, order = job.steps(len(samples)), Order([len(samples)], job.batch, seed)
    stepper = Stepper(job, net.body.parameters(), [scale], total)
    described = classes.inputs[: classes.seen * classes.each]
    for step in range(total):
        drawn = [samples[row] for row in order.step(step)[0]]
        features = net.drop(net([ids for ids, _ in drawn] + described)[1])
        cosines = F.normalize(features[: len(drawn)], dim=1) @ classes.vectors(features[len(drawn) :]).T
        logits = cosines * scale.clamp(max=math.log(LARGEST_SCALE)).exp()
        stepper.step(F.cross_entropy(logits, torch.tensor([label for _, label in drawn])))
    return net


@torch.no_grad()
def cosines_of(net, inputs, classes, batch):
    """Cosines [n, classes] of texts and all classes."""
    net.eval()
    vectors = classes.vectors(net(classes.inputs)[1])
    order = sorted(range(len(inputs)), key=lambda row: len(inputs[row][0]))
    found = torch.empty(len(inputs), len(classes.names))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        found[rows] = F.normalize(net([inputs[row] for row in rows])[1], dim=1) @ vectors.T
    return found


def main():
    parser = arguments(__doc__)
    parser.add_argument("--ways", default="untrained,trained,calibrated", help="which of: %(default)s")
    args = parser.parse_args()
    link_data(*(f"dbpedia14/{name}.parquet" for name in ("train", "test", "labels")))
    files = write_files(DEMO.with_name(f"{DEMO.name}-peer"))  # both sides may run at once
    job, found, ways = Job(HERE / "job.yaml", args), Found(), args.ways.split(",")
    unseen, batch = job.tasks[0]["zero_shot"]["unseen"], job.evaluation["batch_size"]
    reader = Reader(job)
    rows = {name: rows_of(job, str(file), ["text", "label"], args.limit) for name, file in files.items()}
    inputs = {name: reader([row["text"] for row in own]) for name, own in rows.items()}
    names = {name: [row["label"] for row in own] for name, own in rows.items()}
    classes = Classes(job, reader, set(names["train"]), unseen)
    fewer = Classes(job, reader, set(names["fewer"]), LEFT_OUT)

    def labelled(name, of):
        return list(zip(inputs[name], (of.number[label] for label in names[name])))

    truth = torch.tensor([classes.number[label] for label in names["test"]])
    for seed in args.seeds:
        def tell(way, net, calibration, began):
            cosines = cosines_of(net, inputs["test"], classes, batch)
            for figure, value in figures(cosines, truth, classes.seen, calibration).items():
                found.add(f"{way}, {figure}", seed, 100 * value, time.monotonic() - began)

        if "untrained" in ways:
            began = begin(args, seed)
            tell("untrained", Net(job, {}), 0.0, began)
        began = begin(args, seed)
        net = train(job, labelled("train", classes), classes, seed)
        if "trained" in ways:
            tell("trained", net, 0.0, began)
        if "calibrated" in ways:
            first = train(job, labelled("fewer", fewer), fewer, seed)
            cosines = cosines_of(first, inputs["held-out"], fewer, batch)
            held_out = torch.tensor([fewer.number[label] for label in names["held-out"]])
            calibration = chosen(cosines, held_out, fewer.seen)
            print(f"seed {seed}: calibration {calibration:.3f}", flush=True)
            tell("calibrated", net, calibration, began)
    found.show("PyTorch, on the test set, %")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

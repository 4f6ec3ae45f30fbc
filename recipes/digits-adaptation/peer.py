#!/usr/bin/env python3
"""The same training in plain PyTorch: what the jobs of this recipe are to be measured against.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/digits-adaptation/peer.py --methods dann,cdan --seeds 1,2,3

Network, steps, batch, rates and schedule are those of job.yaml, losses those of the methods; another order of the
images and other first weights.
"""

import sys
import time
from pathlib import Path

import pyarrow.parquet as parquet
import torch
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import SETS, DemoError, Found, link_data, run
from demo import LONG, LONG_METHODS, METHODS, SOURCE_ONLY
from peers import ConvNet, Job, Order, Stepper, arguments, begin, here, linear_head
from peers_adapt import Method
from peers_images import pixels

SIDE = 28


def method_of(name, width, warm_up):
    """The method by this name as the jobs have it; none for the source alone."""
    if METHODS[name] is None:
        return None
    how = dict(METHODS[name])
    warm_up = warm_up or how.pop("warm_up", None)
    method = Method(how.pop("method", name), width, 10, how.pop("weight", 1.0), warm_up, **how.pop("params", {}))
    if how:
        raise DemoError(f"{name} is not trained here with {how}")
    return method


def load(file, limit):
    """Images [n, 1, 28, 28] from -1 to 1, and digits."""
    table = parquet.read_table(file).slice(0, limit).to_pydict()
    images = torch.from_numpy(pixels(table["image"])).float()
    images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return here(images.round() / 127.5 - 1), torch.tensor([int(label) for label in table["label"]])


def train(job, name, source, target, test, seed, warm_up):
    """Accuracy on test, in percent."""
    net = ConvNet(job.file(job.backbone["path"]))
    head, drop = linear_head(net.width, 10), torch.nn.Dropout(job.dropout)
    method = method_of(name, net.width, warm_up)
    total = LONG["training__steps"] if name in LONG_METHODS else job.steps(len(source[0]))
    own = method.own.parameters() if method else []
    stepper = Stepper(job, net.parameters(), [*head.parameters(), *own], total)
    orders = [Order([len(x)], job.batch, seed + place) for place, (x, _) in enumerate((source, target))]
    for step in range(total):
        rows, others = (order.step(step)[0] for order in orders)
        labels = source[1][rows]
        if method is None:
            loss = F.cross_entropy(head(drop(net(source[0][rows]))), labels)
        else:
            f = drop(net(torch.cat([source[0][rows], target[0][others]])))
            g = head(f)
            loss = F.cross_entropy(g[: len(rows)], labels) + method.loss(f, g, step, total)
        stepper.step(loss)
    net.eval()
    with torch.no_grad():
        found = torch.cat([head(net(part)).argmax(1) for part in test[0].split(500)])
    return 100 * (found == test[1]).float().mean().item()


def main():
    parser = arguments(__doc__)
    parser.add_argument("--methods", default=",".join([SOURCE_ONLY, *Method.KNOWN]))
    parser.add_argument("--directions", default="mnist-usps", help="which of: mnist-usps, usps-mnist")
    parser.add_argument("--warm-up", type=int, help="steps until a method has its full strength; default: all")
    args = parser.parse_args()
    link_data(*(f"{name}/{split}.parquet" for name in ("mnist", "usps") for split in ("train", "test")))
    job, found = Job(HERE / "job.yaml", args), Found()
    for direction in args.directions.split(","):
        source, target = direction.split("-")
        places = ((source, "train"), (target, "train"), (target, "test"))
        sets = [load(SETS / name / f"{split}.parquet", args.limit) for name, split in places]
        for name in args.methods.split(","):
            for seed in args.seeds:
                began = begin(args, seed)
                found.add(f"{direction}, {name}", seed, train(job, name, *sets, seed, args.warm_up), time.monotonic() - began)
    found.show("PyTorch, accuracy on the target, %")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

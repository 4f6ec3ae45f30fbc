#!/usr/bin/env python3
"""The same training in PyTorch and transformers: what this recipe is to be measured against.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/reviews-adaptation/peer.py --seeds 1,2,3

Model, what of it learns, data, steps, batch, rates, schedule, dropout and clipping are those of job.yaml; a batch
holds as many reviews of the target as of the source, padded together.
"""

import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import SETS, DemoError, Found, link_data, run
from peers import Job, Order, arguments, begin
from peers_adapt import Method
from peers_text import Net, Reader, Task, evaluate, loss_of
from run import ALL_PAIRS, DOMAINS, SETTINGS, SOURCE_ONLY


def tasks_of(job, reader, pair, limit):
    """The task, and that of the target, of which only the texts of `train` are used."""
    def task(train, test):
        files = {split: str(SETS / f"amazon_{name}/{split}.parquet") for split, name in (("train", train), ("test", test))}
        return Task(job, {**job.tasks[0], "data": {**job.tasks[0]["data"], **files}}, reader, limit)

    source, target = pair.split("-")
    return task(source, target), task(target, target)


def train(job, name, task, target, seed):
    """Accuracy on the target's test set, in percent."""
    net = Net(job, {task.name: len(task.classes)}).train()
    method = None if name == SOURCE_ONLY else Method(name, net.body.config.hidden_size, len(task.classes), **SETTINGS.get(name, {}))
    total = job.steps(len(task.inputs["train"]))
    stepper = net.stepper(job, total, method.own.parameters() if method else ())
    orders = [Order([len(own.inputs["train"])], job.batch, seed + place) for place, own in enumerate((task, target))]
    for step in range(total):
        rows, others = (order.step(step)[0] for order in orders)
        inputs = [task.inputs["train"][row] for row in rows]
        targets = [task.targets["train"][row] for row in rows]
        if method is None:
            hidden, features = net(inputs)
            loss = loss_of(net, task, hidden, net.drop(features), inputs, targets)
        else:
            hidden, features = net(inputs + [target.inputs["train"][row] for row in others])
            features = net.drop(features)
            own = loss_of(net, task, hidden, features[: len(rows)], inputs, targets)
            loss = own + method.loss(features, net.heads[task.name](features), step, total)
        stepper.step(loss)
    return 100 * evaluate(net, [task], "test", job.evaluation["batch_size"])[1][task.name]["accuracy"]


def main():
    parser = arguments(__doc__)
    parser.add_argument("--pairs", default="books-kitchen,kitchen-books", help="all, or some of: " + ", ".join(ALL_PAIRS))
    parser.add_argument("--methods", default=f"{SOURCE_ONLY},dann,mcc", help=", ".join([SOURCE_ONLY, *Method.KNOWN]))
    args = parser.parse_args()
    methods = args.methods.split(",")
    unknown = [name for name in methods if name not in (SOURCE_ONLY, *Method.KNOWN)]
    if unknown:
        raise DemoError(f"the peer does not know the method {unknown[0]}; it knows {', '.join([SOURCE_ONLY, *Method.KNOWN])}")
    link_data(*(f"amazon_{domain}/{split}.parquet" for domain in DOMAINS for split in ("train", "test")))
    job, found = Job(HERE / "job.yaml", args), Found()
    reader = Reader(job)
    for pair in ALL_PAIRS if args.pairs == "all" else args.pairs.split(","):
        task, target = tasks_of(job, reader, pair, args.limit)
        for name in methods:
            for seed in args.seeds:
                began = begin(args, seed)
                found.add(f"{pair}, {name}", seed, train(job, name, task, target, seed), time.monotonic() - began)
    found.show("PyTorch, accuracy on the target, %")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

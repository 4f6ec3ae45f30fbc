#!/usr/bin/env python3
"""Domain adaptation on digits: labels of one data set, images alone of the other, tested on the other.

    ESPALIER_DATA=/path/to/data python3 recipes/digits-adaptation/demo.py --seeds 1,2,3

The folder must hold {mnist,usps}/{train,test}.parquet with the columns image and label. Trains a small
convolutional network from nothing with the source alone and with each method. DEMO_FAST=1 trains two.
"""

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import FAST, REPO, SETS, Cluster, DemoError, Found, arguments, build, fields_of, link_data, run, test_scores

DEMO = REPO / ".espalier/demo/digits-adaptation"
SOURCE_ONLY = "source only"
# What differs from a method's defaults; the same for both directions.
METHODS = {
    SOURCE_ONLY: None,
    "dann": {},
    "cdan": {},
    "cdan-e": {"method": "cdan", "params": {"entropy": True}},
    "mmd": {},
    "jan": {},
    "coral": {"weight": 100},
    "mcc": {},
    "mdd": {"weight": 0.1},
    "entropy": {"weight": 0.1},
    "self_training": {},
    "bsp": {},
    "afn": {},
    "hafn": {"method": "afn", "params": {"radius": 10}},
    "information_maximisation": {},
}
# As many steps, and CDAN+E as in the script of its authors: README.md says what else that has.
LONG = {"training__steps": 12000}
LONG_METHODS = {
    "source only long": None,
    "cdan-e long": {"method": "cdan", "warm_up": 10000,
                    "params": {"entropy": True, "reversed_entropy": True, "hidden": 500, "dropout": 0.5}},
}
METHODS |= LONG_METHODS
DIRECTIONS = {"mnist-usps": ("mnist", "usps"), "usps-mnist": ("usps", "mnist")}


def fields(method, source, target):
    """The job's fields for a method and a direction."""
    data = {"tasks__digit__data__train": SETS / source / "train.parquet", "tasks__digit__data__test": SETS / target / "test.parquet"}
    how = METHODS[method]
    if how is not None:
        adaptation = {"method": method, "target": {"train": str(SETS / target / "train.parquet")}, **how}
        data["tasks__digit__adaptation"] = json.dumps(adaptation)
    return {**data, **(LONG if method in LONG_METHODS else {})}


def main():
    parser = arguments(__doc__)
    usual = [SOURCE_ONLY, "cdan"] if FAST else [method for method in METHODS if method not in LONG_METHODS]
    parser.add_argument("--methods", type=lambda text: text.split(","), default=usual,
                        metavar="A,B", help="which of: " + ", ".join(METHODS))
    parser.add_argument("--directions", default="mnist-usps", help="which of: " + ", ".join(DIRECTIONS))
    args = parser.parse_args()
    for given, known in ((args.methods, METHODS), (args.directions.split(","), DIRECTIONS)):
        for name in given:
            if name not in known:
                raise DemoError(f"{name!r} is none of: " + ", ".join(known))
    link_data(*(f"{name}/{split}.parquet" for name in ("mnist", "usps") for split in ("train", "test")))
    build()
    shutil.rmtree(DEMO, ignore_errors=True)
    found = Found()
    with Cluster(DEMO) as cluster:
        for direction in args.directions.split(","):
            for method in args.methods:
                for seed in args.seeds:
                    name = f"{direction}-{method}-{seed}".replace("_", "-").replace(" ", "-")
                    how = {**fields(method, *DIRECTIONS[direction]), **fields_of(args)}
                    job = cluster.train(HERE / "job.yaml", name, DEMO / name, seed=seed, **how)
                    score = 100 * test_scores(job)["digit"]["metrics"]["accuracy"]
                    found.add(f"{direction}, {method}", seed, score, job["seconds"])
    found.show("accuracy on the target, %")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Trains one task with each way to tune its backbone, and prints accuracy and how many numbers learned.

    ESPALIER_DATA=/path/to/data python3 recipes/tuning/run.py --seeds 1,2,3
    ESPALIER_DATA=/path/to/data python3 recipes/tuning/run.py --ways all,lora

The folder must hold trec6/{train,test}.parquet with the columns text and label.
"""

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, Cluster, DemoError, Found, arguments, build, fields_of, link_data, run, test_scores

DEMO = REPO / ".espalier/demo/tuning"
FILES = ["trec6/train.parquet", "trec6/test.parquet"]
RATE, HEAD_RATE = "training.optimizer.learning_rate", "training.optimizer.head_learning_rate"
# Fields of the job file that differ from it: what few numbers learn, they learn at higher rates.
WAYS = {
    "all": {},
    "block decay": {"training.optimizer.block_decay": 0.8},
    "l2-sp": {"training.optimizer.l2_sp": 0.01},
    "sgd": {"training.optimizer.method": "sgd", "training.optimizer.weight_decay": 0, RATE: 1e-2, HEAD_RATE: 1e-2},
    "gradual": {"tuning": {"gradual": {"every_epochs": 0.2}}},
    "last blocks": {"tuning": {"last_blocks": 2}},
    "heads": {"tuning": "heads", HEAD_RATE: 1e-2},
    "biases": {"tuning": "biases", RATE: 1e-3},
    "lora": {"tuning": {"lora": {"rank": 8, "alpha": 16, "targets": ["all-linear"]}}, RATE: 1e-3},
    "adapter": {"tuning": {"adapter": {"size": 64}}, RATE: 1e-3},
    "prompt": {"tuning": {"prompt": {"tokens": 20}}, RATE: 1e-2},
    "prefix": {"tuning": {"prefix": {"tokens": 10}}, RATE: 1e-2},
}


def ways_of(args, known):
    """What --ways names."""
    if unknown := [way for way in args.ways if way not in known]:
        raise DemoError(f"there is no way {unknown[0]}; there is {', '.join(known)}")
    return args.ways


def main():
    parser = arguments(__doc__)
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(WAYS), help="which of: " + ", ".join(WAYS))
    args = parser.parse_args()
    ways = ways_of(args, WAYS)
    link_data(*FILES)
    build()
    shutil.rmtree(DEMO, ignore_errors=True)
    found, numbers = Found(), {}
    with Cluster(DEMO) as cluster:
        for seed in args.seeds:
            for way in ways:
                name = f"{way.replace(' ', '-')}-{seed}"
                fields = {field: value if isinstance(value, str) else json.dumps(value) for field, value in WAYS[way].items()}
                job = cluster.train(HERE / "job.yaml", name, DEMO / name, seed=seed, **fields, **fields_of(args))
                found.add(way, seed, 100 * test_scores(job)["question"]["metrics"]["accuracy"], job["seconds"])
                # A block of the plan ends at its length; a frozen one has no ends.
                numbers[way] = sum(block["ends"][-1] for block in job["plan"]["blocks"] if block.get("ends"))
    found.show("accuracy on test, %")
    print("\nnumbers that learn, with the head's: " + ", ".join(f"{way} {count:,}" for way, count in numbers.items()))
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

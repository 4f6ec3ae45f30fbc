#!/usr/bin/env python3
"""What caching the features of a frozen backbone saves: the first epoch, which computes them, and later ones.

    ESPALIER_DATA=/path/to/data python3 tests/bench/cached.py                   # the head alone learns
    ESPALIER_DATA=/path/to/data python3 tests/bench/cached.py --last-blocks 2   # and the last two of six blocks

Topics of news (AG News, 3,200 training samples), all-MiniLM-L6-v2, two workers of one rank each. An epoch is
the difference between jobs of more and of fewer epochs, so that starting and exporting don't count; the first one is
a later one and what rank 0 says that computing the features took.
"""

import json
import re
import shutil
import statistics
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "recipes"))

from cluster import SETS, Cluster, DemoError, arguments, build, link_data, run

FOLDER = REPO / ".espalier/bench/cached"


def job_file(folder, last_blocks):
    """Heads, and as many of the last blocks, on what those below make of the news."""
    job = {
        "name": "cached",
        "backbone": {"path": str(REPO / ".espalier/models/all-MiniLM-L6-v2"), "max_tokens": 64},
        "tuning": {"last_blocks": last_blocks} if last_blocks else "heads",
        "tasks": [{"name": "topic", "head": "single_label",
                   "data": {"train": str(SETS / "ag_news/train.parquet"), "max_train_samples": 3200}}],
        "training": {"epochs": 1, "batch_size": 32, "optimizer": {"head_learning_rate": 1.0e-3}},
    }
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    return file


def computing(cluster, name):
    """Seconds that computing the features took, as rank 0 logs them."""
    said = cluster.espalier("logs", name, quiet=True).stdout
    found = re.search(r"what the frozen blocks make of the samples is computed.*?seconds=([\d.]+)", said)
    found = found or re.search(r"seconds=([\d.]+).*?what the frozen blocks make", said)
    if not found:
        raise DemoError(f"no rank of {name} says how long the features took:\n{said[-2000:]}")
    return float(found[1])


def main():
    parser = arguments(__doc__, seeds=(1, 2, 3))
    parser.add_argument("--last-blocks", type=int, default=0, metavar="N", help="blocks that learn; default: none")
    args = parser.parse_args()
    # Heads' epochs are too short to be told from few of them.
    many = 4 if args.last_blocks else 41
    link_data("ag_news/train.parquet")
    build()
    shutil.rmtree(FOLDER, ignore_errors=True)
    rows = []
    with Cluster(FOLDER) as cluster:
        file = job_file(FOLDER, args.last_blocks)

        def seconds(name, epochs, **fields):
            return cluster.train(file, name, FOLDER / name, training__epochs=epochs, **fields)["seconds"]

        for seed in args.seeds:
            some = seconds(f"some-{seed}", 1, seed=seed)
            later = (seconds(f"many-{seed}", many, seed=seed) - some) / (many - 1)
            first = computing(cluster, f"many-{seed}") + later
            without = {"backbone__cache_features": "false", "seed": seed}
            plain = seconds(f"plain-2-{seed}", 2, **without) - seconds(f"plain-1-{seed}", 1, **without)
            rows.append((first, later, plain))
    first, later, plain = (statistics.median(column) for column in zip(*rows))
    print(f"\n{'medians of ' + str(len(rows)) + ' turns':<32}{'seconds':>9}")
    for name, value in [("first epoch", first), ("later epochs", later), ("epoch without cache", plain)]:
        print(f"{name:<32}{value:>9.2f}")
    print(f"later epochs are {first / later:.1f} times as fast as the first, {plain / later:.1f} times as fast as without")


if __name__ == "__main__":
    run(main)

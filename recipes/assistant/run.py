#!/usr/bin/env python3
"""Trains intent and slots of SNIPS together, over a few seeds, and prints what came out on the test set.

    ESPALIER_DATA=/path/to/data python3 recipes/assistant/run.py --seeds 1,2,3

The folder must hold snips/{train,validation,test}.parquet with the columns tokens, tags and intent.
"""

import argparse
import os
import shutil
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, Cluster, DemoError, build, run, test_scores

DEMO = REPO / ".espalier/demo/assistant"
SETS = REPO / ".espalier/data/sets"
FIGURES = [("intent", "accuracy"), ("slots", "span_f1"), ("slots", "exact")]
SENTENCES = ["play some jazz by miles davis", "book a table for four in boston tomorrow night",
             "will it rain in paris this weekend", "rate this novel five stars"]


def link():
    """Makes the data sets known where the job file looks for them."""
    source = Path(os.environ.get("ESPALIER_DATA", REPO.parent / "shared/data")).resolve()
    if not (source / "snips/train.parquet").is_file():
        raise DemoError(f"no snips/train.parquet in {source}: set ESPALIER_DATA to the folder of the data sets")
    SETS.parent.mkdir(parents=True, exist_ok=True)
    SETS.unlink(missing_ok=True)
    SETS.symlink_to(source)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1])
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the job")
    args = parser.parse_args()
    build()
    link()
    shutil.rmtree(DEMO, ignore_errors=True)
    fields = dict(one.split("=", 1) for one in args.set)
    found = {figure: [] for figure in FIGURES}
    with Cluster(DEMO) as cluster:
        for seed in args.seeds:
            job = cluster.train(HERE / "job.yaml", f"assistant-{seed}", DEMO / f"export-{seed}", seed=seed, **fields)
            scores = test_scores(job)
            for task, metric in FIGURES:
                found[task, metric].append(100 * scores[task]["metrics"][metric])
            print(f"seed {seed}: {job['seconds']:.0f} s")
        print("\nWhat the model makes of sentences that it never saw:\n")
        cluster.espalier("predict", "--model", DEMO / f"export-{args.seeds[-1]}", text="".join(f"{one}\n" for one in SENTENCES))
    print(f"\n{'on the test set, %':<24}{'mean':>8}{'sd':>8}")
    for (task, metric), values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{task + ' ' + metric:<24}{statistics.mean(values):>8.2f}{spread:>8.2f}")


if __name__ == "__main__":
    run(main)

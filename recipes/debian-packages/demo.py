#!/usr/bin/env python3
"""Builds the data, trains five tasks on a local cluster, compares, and predicts what a person typed.

DEMO_FAST=1 makes it short: fewer steps, the same tables.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import FAST, REPO, Cluster, build, run, test_scores

DATA = REPO / ".espalier/data/debian-packages"
DEMO = REPO / ".espalier/demo/debian-packages"
STEPS = {"heads": 80 if FAST else 150, "all": 60 if FAST else 200}
METRICS = {"single_label": "accuracy", "multi_label": "macro_f1"}


def table(meta, heads, tuned):
    print("\nScores on the test split (source packages that no training text came from)\n")
    print(f"{'task':<12}{'score':<10}{'classes':>8}{'majority':>11}{'heads only':>12}{'fine-tuned':>12}")
    for task, summary in meta["tasks"].items():
        metric = METRICS[summary["kind"]]
        scores = [summary["majority"][metric], heads[task]["metrics"][metric], tuned[task]["metrics"][metric]]
        cells = "".join(f"{100 * score:>{width}.1f}" for score, width in zip(scores, (11, 12, 12)))
        print(f"{task:<12}{metric:<10}{len(summary['labels']):>8}{cells}")


def main():
    begin = time.monotonic()
    build()
    built = time.monotonic()
    subprocess.run([sys.executable, HERE / "build.py"], check=True)
    meta = json.loads((DATA / "meta.json").read_text())
    shutil.rmtree(DEMO, ignore_errors=True)
    with Cluster(DEMO) as cluster:
        print("\nHeads only: the backbone is frozen", flush=True)
        heads = cluster.train(HERE / "job.yaml", "packages-heads", DEMO / "heads", tuning="heads",
                              training__steps=STEPS["heads"], training__optimizer__head_learning_rate=2e-2)
        print("\nFine-tuned: the whole backbone learns from all five tasks", flush=True)
        tuned = cluster.train(HERE / "job.yaml", "packages", DEMO / "export", training__steps=STEPS["all"])
        table(meta, test_scores(heads), test_scores(tuned))
        print("\nespalier predict on sentences that a person might type:\n", flush=True)
        cluster.espalier("predict", "--model", DEMO / "export", "--file", HERE / "sentences.txt")
    print(f"\nbuild {(built - begin) / 60:.1f} min, training {(heads['seconds'] + tuned['seconds']) / 60:.1f} min, "
          f"in all {(time.monotonic() - begin) / 60:.1f} min. The model: {DEMO / 'export'}")


if __name__ == "__main__":
    run(main)

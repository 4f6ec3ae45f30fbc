#!/usr/bin/env python3
"""Images: train a small vision backbone on one task, transfer it to another with twenty images."""

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, Cluster, build, run, test_scores

DEMO = REPO / ".espalier/demo/digits"
# What the transferred jobs are compared with: the same few images, but a backbone that starts at random.
SCRATCH = {"backbone__path": HERE / "vit", "backbone__init": "random", "tuning": "all",
           "training__optimizer__learning_rate": 1e-3, "training__optimizer__head_learning_rate": 1e-3}
ALL = {"tuning": "all", "training__optimizer__learning_rate": 3e-4, "training__optimizer__head_learning_rate": 3e-3}


def main():
    build()
    subprocess.run([sys.executable, HERE / "build.py"], check=True)
    shutil.rmtree(DEMO, ignore_errors=True)
    with Cluster(DEMO) as cluster:
        digit = cluster.train(HERE / "digit.yaml", "digits", DEMO / "digit")
        scratch = cluster.train(HERE / "parity.yaml", "parity-scratch", DEMO / "scratch", **SCRATCH)
        heads = cluster.train(HERE / "parity.yaml", "parity-heads", DEMO / "heads")
        tuned = cluster.train(HERE / "parity.yaml", "parity-all", DEMO / "all", **ALL)
    scores = test_scores(scratch)["parity"]
    rows = [("which digit, 1,097 images", test_scores(digit)["digit"]["metrics"]),
            ("even or odd, 20 images: majority", scores["baseline"]),
            ("even or odd, 20 images: from nothing", scores["metrics"]),
            ("even or odd, 20 images: transferred, heads only", test_scores(heads)["parity"]["metrics"]),
            ("even or odd, 20 images: transferred, all", test_scores(tuned)["parity"]["metrics"])]
    print(f"\n{'task':<50}accuracy on test")
    for name, metrics in rows:
        print(f"{name:<50}{100 * metrics['accuracy']:>8.1f} %")


if __name__ == "__main__":
    run(main)

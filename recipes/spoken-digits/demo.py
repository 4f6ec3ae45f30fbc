#!/usr/bin/env python3
"""Sounds: train a small network on spoken digits with a few seeds, with and without masks, and predict.

ESPALIER_DATA is the folder that holds fsdd/{train,test}.parquet; DEMO_FAST=1 trains one seed.
"""

import json
import math
import shutil
import statistics
import struct
import sys
import wave
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import FAST, REPO, Cluster, build, link_data, run, test_scores

DEMO = REPO / ".espalier/demo/spoken-digits"
SEEDS = [1] if FAST else [1, 2, 3]
NO_MASKS = {f"tasks__digit__data__augment__{mask}": 0 for mask in ("time_mask", "frequency_mask")}


def train(cluster, seed, name, **fields):
    """Accuracy on test, in percent, and minutes."""
    job = cluster.train(HERE / "job.yaml", f"{name}-{seed}", DEMO / f"{name}-{seed}", seed=seed, **fields)
    return 100 * test_scores(job)["digit"]["metrics"]["accuracy"], job["seconds"] / 60


def hum(path):
    """A second of a falling tone: no digit, but a sound that the model has an answer for."""
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        tone = (12000 * math.sin(6.283 * (400 - i / 50) * i / 8000) for i in range(8000))
        out.writeframes(b"".join(struct.pack("<h", int(sample)) for sample in tone))


def main():
    link_data("fsdd/train.parquet", "fsdd/test.parquet")
    build()
    shutil.rmtree(DEMO, ignore_errors=True)
    with Cluster(DEMO) as cluster:
        masked = [train(cluster, seed, "masks") for seed in SEEDS]
        plain = [train(cluster, seed, "plain", **NO_MASKS) for seed in SEEDS]
        print(f"\n{'masks':<8}{'accuracy on test, % (seeds ' + ', '.join(map(str, SEEDS)) + ')':<44}{'mean':>6}{'minutes':>9}")
        for name, runs in (("yes", masked), ("no", plain)):
            scores, minutes = zip(*runs)
            each = ", ".join(f"{score:.1f}" for score in scores)
            print(f"{name:<8}{each:<44}{statistics.mean(scores):>6.1f}{statistics.mean(minutes):>9.1f}")
        hum(DEMO / "hum.wav")
        print("\nespalier predict on a sound that is no digit:\n", flush=True)
        question = json.dumps({"audio": str(DEMO / "hum.wav")})
        cluster.espalier("predict", "--model", DEMO / f"masks-{SEEDS[0]}", text=question)


if __name__ == "__main__":
    run(main)

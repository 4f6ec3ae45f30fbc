#!/usr/bin/env python3
"""Sounds: train a small network on spoken digits with a few seeds, with and without masks, and predict.

    ESPALIER_DATA=/path/to/data python3 recipes/spoken-digits/demo.py --seeds 1,2,3

The folder must hold fsdd/{train,test}.parquet; DEMO_FAST=1 trains one seed.
"""

import json
import math
import shutil
import struct
import sys
import wave
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import FAST, REPO, Cluster, DemoError, Found, arguments, build, fields_of, link_data, run, test_scores

DEMO = REPO / ".espalier/demo/spoken-digits"
SEEDS = [1] if FAST else [1, 2, 3]
# With random masks, without, and (not by itself) with masks an audio spectrogram transformer from nothing.
WAYS = {
    "masks": {},
    "plain": {f"tasks__digit__data__augment__{mask}": 0 for mask in ("time_mask", "frequency_mask")},
    "transformer": {"backbone__path": HERE / "transformer", "training__steps": 1500,
                    "training__optimizer__learning_rate": 1e-3, "training__optimizer__head_learning_rate": 1e-3},
}
USUAL = ["masks", "plain"]


def hum(path):
    """A second of a falling tone: no digit, but a sound that the model has an answer for."""
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        tone = (12000 * math.sin(6.283 * (400 - i / 50) * i / 8000) for i in range(8000))
        out.writeframes(b"".join(struct.pack("<h", int(sample)) for sample in tone))


def main():
    parser = arguments(__doc__, SEEDS)
    parser.add_argument("--ways", default=",".join(USUAL), metavar="A,B", help="which of: " + ", ".join(WAYS))
    args = parser.parse_args()
    found, ways = Found(), args.ways.split(",")
    for name in ways:
        if name not in WAYS:
            raise DemoError(f"{name!r} is none of: " + ", ".join(WAYS))
    link_data("fsdd/train.parquet", "fsdd/test.parquet")
    build()
    shutil.rmtree(DEMO, ignore_errors=True)
    with Cluster(DEMO) as cluster:
        for seed in args.seeds:
            for way in ways:
                name = f"{way}-{seed}"
                job = cluster.train(HERE / "job.yaml", name, DEMO / name, seed=seed, **WAYS[way], **fields_of(args))
                found.add(way, seed, 100 * test_scores(job)["digit"]["metrics"]["accuracy"], job["seconds"])
        found.show("accuracy on test, %")
        found.keep(args.json)
        hum(DEMO / "hum.wav")
        print("\nespalier predict on a sound that is no digit:\n", flush=True)
        question = json.dumps({"audio": str(DEMO / "hum.wav")})
        cluster.espalier("predict", "--model", DEMO / f"{ways[0]}-{args.seeds[0]}", text=question)


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Trains a small GPT-2 on Shakespeare letter by letter from nothing, and lets it go on with a line.

    ESPALIER_DATA=/path/to/data python3 recipes/shakespeare/run.py --seeds 1,2,3

The folder must hold tiny_shakespeare/{train,validation}.parquet with the column text.
"""

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, Cluster, DemoError, Found, arguments, build, fields_of, link_data, run

DEMO = REPO / ".espalier/demo/shakespeare"
PROMPT = "First Citizen:"


def validation_loss(job):
    """Nats a character over all of the validation text, of the last model."""
    for evaluation in job.get("evaluations", []):
        if evaluation["split"] == "validation":
            return evaluation["tasks"]["language"]["loss"]
    raise DemoError(f"job {job['name']} brought no evaluation on its validation files")


def main():
    parser = arguments(__doc__)
    parser.add_argument("--temperature", default="0.8")
    parser.add_argument("--tokens", default="400", help="characters of the sample")
    args = parser.parse_args()
    link_data("tiny_shakespeare/train.parquet", "tiny_shakespeare/validation.parquet")
    build()
    shutil.rmtree(DEMO, ignore_errors=True)
    found = Found(digits=4)
    with Cluster(DEMO) as cluster:
        for seed in args.seeds:
            job = cluster.train(HERE / "job.yaml", f"shakespeare-{seed}", DEMO / f"export-{seed}", seed=seed, **fields_of(args))
            found.add("loss", seed, validation_loss(job), job["seconds"])
        words = ("--temperature", args.temperature, "--max-new-tokens", args.tokens, "--seed", "1", "-o", "json")
        done = cluster.espalier("predict", "--model", DEMO / f"export-{args.seeds[-1]}", *words, quiet=True, text=PROMPT + "\n")
        if done.returncode != 0:
            raise DemoError(f"predict failed: {done.stderr}")
        answer = json.loads(done.stdout)["predictions"]["language"]
        print(f"\n{PROMPT}{answer['completion']}\n[{answer['tokens']} characters, ended by {answer['stop']}]")
    found.show("on the validation text, nats a character")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Trains intent and slots of SNIPS together, over a few seeds, and prints what came out on the test set.

    ESPALIER_DATA=/path/to/data python3 recipes/assistant/run.py --seeds 1,2,3

The folder must hold snips/{train,validation,test}.parquet with the columns tokens, tags and intent.
"""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, Cluster, arguments, build, fields_of, link_data, run, spread, test_scores

DEMO = REPO / ".espalier/demo/assistant"
FIGURES = [("intent", "accuracy"), ("slots", "span_f1"), ("slots", "exact")]
SENTENCES = ["play some jazz by miles davis", "book a table for four in boston tomorrow night",
             "will it rain in paris this weekend", "rate this novel five stars"]


def main():
    args = arguments(__doc__).parse_args()
    link_data(*(f"snips/{split}.parquet" for split in ("train", "validation", "test")))
    build()
    shutil.rmtree(DEMO, ignore_errors=True)
    found = {figure: [] for figure in FIGURES}
    with Cluster(DEMO) as cluster:
        for seed in args.seeds:
            job = cluster.train(HERE / "job.yaml", f"assistant-{seed}", DEMO / f"export-{seed}", seed=seed, **fields_of(args))
            scores = test_scores(job)
            for task, metric in FIGURES:
                found[task, metric].append(100 * scores[task]["metrics"][metric])
            print(f"seed {seed}: {job['seconds']:.0f} s")
        print("\nWhat the model makes of sentences that it never saw:\n")
        cluster.espalier("predict", "--model", DEMO / f"export-{args.seeds[-1]}", text="".join(f"{one}\n" for one in SENTENCES))
    print(f"\n{'on the test set, %':<24}{'mean':>8}{'sd':>8}")
    for (task, metric), values in found.items():
        print(f"{task + ' ' + metric:<24}{spread(values)}")


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Trains heads that no other recipe has, each on real data, and prints their figures beside those of guessing.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pyrecipes python3 recipes/heads/run.py --seeds 1,2,3

The folder must hold {snips,trec6,fsdd}/{train,test}.parquet; the packages come from Debian's archive.
"""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from build import SOURCES, make

from cluster import REPO, Cluster, DemoError, Found, arguments, build, fields_of, link_data, run, test_scores

DEMO = REPO / ".espalier/demo/heads"
JOBS = ["packages", "slots", "questions", "spoken"]


def main():
    parser = arguments(__doc__)
    parser.add_argument("--jobs", type=lambda text: text.split(","), default=JOBS, help="which of: " + ", ".join(JOBS))
    args = parser.parse_args()
    if unknown := [job for job in args.jobs if job not in JOBS]:
        raise DemoError(f"there is no job {unknown[0]}; there is {', '.join(JOBS)}")
    link_data(*SOURCES)
    build()
    make()
    shutil.rmtree(DEMO, ignore_errors=True)
    found = Found(digits=3)
    with Cluster(DEMO) as cluster:
        for seed in args.seeds:
            for name in args.jobs:
                job = cluster.train(HERE / f"{name}.yaml", f"{name}-{seed}", DEMO / f"{name}-{seed}", seed=seed, **fields_of(args))
                for task, scores in test_scores(job).items():
                    for metric, value in scores["metrics"].items():
                        found.add(f"{task}, {metric}", seed, value, job["seconds"])
                        if (guess := scores.get("baseline", {}).get(metric)) is not None:
                            found.add(f"{task}, {metric}, guessed", seed, guess, 0)
    found.show("on the test set")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

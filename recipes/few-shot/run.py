#!/usr/bin/env python3
"""Topics of news from a few examples of each (AG News), over several drawings of the examples.

    ESPALIER_DATA=/path/to/data python3 recipes/few-shot/run.py --seeds 1,2,3,4,5,6,7,8,9,10

The folder must hold ag_news/{train,test}.parquet with the columns text and label. A seed draws the
examples, too. Beside it the same without contrast, and the frozen backbone with a trained head alone.
"""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, Cluster, Found, arguments, build, fields_of, link_data, run, test_scores

DEMO = REPO / ".espalier/demo/few-shot"
WAYS = {
    "contrast": {},
    "plain": {"tasks__topic__loss": "{}"},
    "head alone": {"tasks__topic__loss": "{}", "tuning": "heads", "training__steps": 200},
}


def main():
    parser = arguments(__doc__, seeds=range(1, 4))
    parser.add_argument("--ways", default=",".join(WAYS), help="which of: %(default)s")
    args = parser.parse_args()
    link_data("ag_news/train.parquet", "ag_news/test.parquet")
    build()
    shutil.rmtree(DEMO, ignore_errors=True)
    ways = args.ways.split(",")
    found = Found()
    with Cluster(DEMO) as cluster:
        for seed in args.seeds:
            for way in ways:
                name = f"{way.replace(' ', '-')}-{seed}"
                job = cluster.train(HERE / "job.yaml", name, DEMO / name, seed=seed, **WAYS[way], **fields_of(args))
                found.add(way, seed, 100 * test_scores(job)["topic"]["metrics"]["accuracy"], job["seconds"])
    found.show("accuracy on test, %")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

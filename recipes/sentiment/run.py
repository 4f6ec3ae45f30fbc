#!/usr/bin/env python3
"""Sentiment of sentences about films and of product reviews, together and alone, over a few seeds.

    ESPALIER_DATA=/path/to/data python3 recipes/sentiment/run.py --seeds 1,2,3

The folder must hold sst2/{train,validation,test}.parquet and amazon_{books,dvd,electronics,kitchen}/{train,test}.parquet
with the columns text and label.
"""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, Cluster, arguments, build, link_data, run, together_and_alone

DEMO = REPO / ".espalier/demo/sentiment"
SHOPS = ["books", "dvd", "electronics", "kitchen"]
SENTENCES = ["two hours that i will never get back", "a small , warm film that earns its tears",
             "it broke after a week and nobody answered the phone", "it makes perfect coffee every morning"]


def main():
    parser = arguments(__doc__)
    parser.add_argument("--ways", default="together,alone", help="which of: %(default)s")
    args = parser.parse_args()
    link_data(*(f"sst2/{split}.parquet" for split in ("train", "validation", "test")),
              *(f"amazon_{shop}/{split}.parquet" for shop in SHOPS for split in ("train", "test")))
    build()
    shutil.rmtree(DEMO, ignore_errors=True)
    with Cluster(DEMO) as cluster:
        together_and_alone(cluster, HERE / "job.yaml", DEMO, args, [["films"], ["reviews"]])
        if "together" in args.ways.split(","):
            print("\nWhat the model makes of sentences that it never saw:\n", flush=True)
            text = "".join(f"{one}\n" for one in SENTENCES)
            cluster.espalier("predict", "--model", DEMO / f"together-{args.seeds[-1]}", text=text)


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Topics of news and kinds of questions, together and alone, over a few seeds.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/topics/run.py --seeds 1,2,3

The folder must hold ag_news/{train,test}.parquet and trec50/{train,test}.parquet with the columns text and
label; labels of trec50 are like HUM:ind, where HUM is the coarse one. Needs pyarrow ('make parity' brings it).
"""

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, SETS, Cluster, DemoError, arguments, build, link_data, run, together_and_alone

DEMO = REPO / ".espalier/demo/topics"
SENTENCES = ["who wrote the opera carmen ?", "how far is it from here to the moon ?",
             "shares of the chip maker fell after it cut its forecast", "the home side won on penalties"]


def write_questions(split):
    """Questions with both their labels, one row each."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise DemoError("no pyarrow: set PYTHONPATH=.espalier/pysite after 'make parity', or install it") from None
    table = parquet.read_table(SETS / f"trec50/{split}.parquet", columns=["text", "label"]).to_pydict()
    rows = zip(table["text"], table["label"])
    lines = (json.dumps({"text": text, "coarse": fine.split(":")[0], "fine": fine}) + "\n" for text, fine in rows)
    (DEMO / f"questions.{split}.jsonl").write_text("".join(lines))


def main():
    parser = arguments(__doc__)
    parser.add_argument("--ways", default="together,alone", help="which of: %(default)s")
    args = parser.parse_args()
    link_data(*(f"{name}/{split}.parquet" for name in ("ag_news", "trec50") for split in ("train", "test")))
    build()
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir(parents=True)
    for split in ("train", "test"):
        write_questions(split)
    with Cluster(DEMO) as cluster:
        together_and_alone(cluster, HERE / "job.yaml", DEMO, args, [["news"], ["coarse"], ["fine"]])
        if "together" in args.ways.split(","):
            print("\nWhat the model makes of sentences that it never saw:\n", flush=True)
            text = "".join(f"{one}\n" for one in SENTENCES)
            cluster.espalier("predict", "--model", DEMO / f"together-{args.seeds[-1]}", text=text)


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Trains intent and slots of SNIPS together, over a few seeds, and prints what came out on the test set.

    ESPALIER_DATA=/path/to/data python3 recipes/assistant/run.py --seeds 1,2,3

The folder must hold snips/{train,validation,test}.parquet with the columns tokens, tags and intent. A sentence is
right as a whole where its intent and every slot are: counted from what `espalier predict` says of the test file,
which needs pyarrow ('make parity' brings it: PYTHONPATH=.espalier/pysite); without it that row is left out.
"""

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, SETS, Cluster, DemoError, Found, arguments, build, fields_of, link_data, run, test_scores

DEMO = REPO / ".espalier/demo/assistant"
FIGURES = [("intent", "accuracy"), ("slots", "span_f1"), ("slots", "exact")]
SENTENCES = ["play some jazz by miles davis", "book a table for four in boston tomorrow night",
             "will it rain in paris this weekend", "rate this novel five stars"]


def sentences():
    """[(words, tags, intent)] of the test file; nothing without pyarrow."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        return []
    table = parquet.read_table(SETS / "snips/test.parquet", columns=["tokens", "tags", "intent"]).to_pydict()
    return list(zip(table["tokens"], table["tags"], table["intent"]))


def whole_sentences(cluster, export, asked):
    """Share of sentences with the right intent and every slot right; the share with every slot right alone."""
    lines = "".join(json.dumps({"text": " ".join(words)}) + "\n" for words, _, _ in asked)
    done = cluster.espalier("predict", "--model", export, "-o", "json", quiet=True, text=lines)
    if done.returncode != 0:
        raise DemoError(f"predict failed: {done.stderr}")
    answers = [json.loads(line)["predictions"] for line in done.stdout.splitlines()]
    if len(answers) != len(asked):
        raise DemoError(f"{len(asked)} sentences went into predict, {len(answers)} answers came out")
    whole = slots = 0
    for answer, (_, tags, intent) in zip(answers, asked):
        right = [tag and tag["label"] for tag in answer["slots"]["tags"]] == tags
        slots += right
        whole += right and answer["intent"]["label"] == intent
    return whole / len(asked), slots / len(asked)


def main():
    args = arguments(__doc__).parse_args()
    link_data(*(f"snips/{split}.parquet" for split in ("train", "validation", "test")))
    build()
    shutil.rmtree(DEMO, ignore_errors=True)
    found, asked = Found(), sentences()
    with Cluster(DEMO) as cluster:
        for seed in args.seeds:
            job = cluster.train(HERE / "job.yaml", f"assistant-{seed}", DEMO / f"export-{seed}", seed=seed, **fields_of(args))
            scores = test_scores(job)
            for task, metric in FIGURES:
                found.add(f"{task} {metric}", seed, 100 * scores[task]["metrics"][metric], job["seconds"])
            if asked:
                whole, slots = whole_sentences(cluster, DEMO / f"export-{seed}", asked)
                if abs(slots - scores["slots"]["metrics"]["exact"]) > 0.005:
                    print(f"seed {seed}: predict has {slots:.4f} of the sentences' slots right, but the job's own evaluation "
                          f"{scores['slots']['metrics']['exact']:.4f}: whole sentences are not to be trusted", file=sys.stderr)
                found.add("whole sentence", seed, 100 * whole, job["seconds"])
        print("\nWhat the model makes of sentences that it never saw:\n")
        cluster.espalier("predict", "--model", DEMO / f"export-{args.seeds[-1]}", text="".join(f"{one}\n" for one in SENTENCES))
    found.show("on the test set, %")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

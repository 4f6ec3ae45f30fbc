#!/usr/bin/env python3
"""The same training in PyTorch and transformers, as JointBERT has it: what this recipe is to be measured against.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/assistant/peer.py --seeds 1,2,3

One forward pass for intent and slots, the sum of both losses (Chen et al. 2019, arXiv 1902.10909); but the intent is
read from the mean over the tokens, as in job.yaml, whose numbers all others are. Batches are padded.
"""

import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import Found, link_data, run
from peers import Job, arguments, begin
from peers_text import Reader, Task, evaluate, fit


def whole_sentences(tasks, answers):
    """Share of sentences with the right intent and every slot right."""
    right = [[found == truth for found, truth in zip(answers[task.name], task.targets["test"])] for task in tasks]
    return sum(map(all, zip(*right))) / len(right[0])


def main():
    args = arguments(__doc__).parse_args()
    link_data(*(f"snips/{split}.parquet" for split in ("train", "validation", "test")))
    job, found = Job(HERE / "job.yaml", args), Found()
    reader = Reader(job)
    tasks = [Task(job, spec, reader, args.limit) for spec in job.tasks]
    for seed in args.seeds:
        began = begin(args, seed)
        net = fit(job, tasks, seed)
        answers, scores = evaluate(net, tasks, "test", job.evaluation["batch_size"])
        rows = {f"{task} {metric}": value for task, own in scores.items() for metric, value in own.items()}
        rows["whole sentence"] = whole_sentences(tasks, answers)
        for row, value in rows.items():
            found.add(row, seed, 100 * value, time.monotonic() - began)
    found.show("PyTorch, on the test set, %")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""The same few examples through SetFit: what this recipe is to be measured against.

    pip install setfit pyarrow
    ESPALIER_DATA=/path/to/data python3 recipes/few-shot/peer.py --model .espalier/models/all-MiniLM-L6-v2 --seeds 1,2,3

Takes the examples that a job with the same seed takes. SetFit with its default settings: one epoch over
pairs of examples, then a logistic head.
"""

import argparse
import os
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy
import pyarrow.parquet as parquet
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

WORD = (1 << 64) - 1


def mix(value):
    """The finaliser of SplitMix64, as in worker/src/data/mix.rs."""
    z = (value + 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def drawn(labels, most, seed, task):
    """Rows of at most `most` samples of each class: those that the job takes."""
    key = mix(seed ^ len(task))
    for byte in task.encode():
        key = mix(key ^ byte)
    left, rows = Counter(), []
    for _, row in sorted((mix(key ^ mix(row)), row) for row in range(len(labels))):
        left[labels[row]] += 1
        if left[labels[row]] <= most:
            rows.append(row)
    return sorted(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--per-class", type=int, default=8)
    args = parser.parse_args()
    folder = Path(os.environ["ESPALIER_DATA"]) / "ag_news"
    train, test = (parquet.read_table(folder / f"{split}.parquet").to_pydict() for split in ("train", "test"))
    names = sorted(set(train["label"]))
    scores = []
    for seed in args.seeds:
        rows = drawn(train["label"], args.per_class, seed, "topic")
        few = Dataset.from_dict({"text": [train["text"][row] for row in rows], "label": [names.index(train["label"][row]) for row in rows]})
        begin = time.monotonic()
        model = SetFitModel.from_pretrained(args.model)
        model.model_body.max_seq_length = 128
        trainer = Trainer(model=model, args=TrainingArguments(seed=seed, report_to="none", save_strategy="no"), train_dataset=few)
        trainer.train()
        found = numpy.asarray(model.predict(test["text"]))
        truth = numpy.asarray([names.index(label) for label in test["label"]])
        scores.append(100 * float((found == truth).mean()))
        print(f"seed {seed}: {scores[-1]:.2f} % in {time.monotonic() - begin:.0f} s", flush=True)
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    print(f"SetFit, {args.per_class} per class: {statistics.mean(scores):.2f} ± {deviation:.2f} over {len(scores)} seeds")


if __name__ == "__main__":
    main()

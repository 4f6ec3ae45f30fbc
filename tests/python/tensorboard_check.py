#!/usr/bin/env python3
"""Reads a job's event files with TensorBoard's own reader, as TensorBoard does: tensorboard_check.py FOLDER.

FOLDER is `tensorboard` in the job's directory. Beside it lies metrics.jsonl with the same numbers, which
are compared. Needs .espalier/pyobserve (deploy/setup/setup.py observe) on PYTHONPATH.
"""

import json
import math
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


class Failure(Exception):
    """An event file does not hold what it should."""


def as_float(number):
    """The number as the four bytes of an event file have it."""
    return struct.unpack("<f", struct.pack("<f", number))[0]


def written(file):
    """{(tag, step): number} of metrics.jsonl; of steps that came twice the later line."""
    numbers = {}
    for line in file.read_text().splitlines():
        entry = json.loads(line)
        if progress := entry.get("progress"):
            step = progress["step"]
            numbers["train/learning_rate", step] = progress["learning_rate"]
            numbers["speed/samples_per_second", step] = progress["samples_per_second"]
            for task, loss in progress["losses"].items():
                numbers[f"loss/{task}", step] = loss
        if evaluation := entry.get("evaluation"):
            split, step = evaluation["split"], evaluation["step"]
            numbers[f"{split}/selection", step] = evaluation["selection"]
            for task, scores in evaluation["tasks"].items():
                for metric, value in scores["metrics"].items():
                    numbers[f"{split}/{task}/{metric}", step] = value
    return numbers


def check(folder):
    """Compares; returns how many numbers were, and of how many tags."""
    folder = Path(folder)
    if not list(folder.glob("events.out.tfevents.*")):
        raise Failure(f"no event files in {folder}")
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    tags = reader.Tags()["scalars"]
    found = {(tag, event.step): event.value for tag in tags for event in reader.Scalars(tag)}
    expected = written(folder.parent / "metrics.jsonl")
    # What a recovery made void is in metrics.jsonl still.
    both = found.keys() & expected.keys()
    if not both or not any(tag.startswith("loss/") for tag, _ in both):
        raise Failure(f"TensorBoard reads {sorted(tags)}, and no loss among what metrics.jsonl holds")
    for key in both:
        if not math.isclose(found[key], as_float(expected[key]), rel_tol=1e-6, abs_tol=1e-12):
            raise Failure(f"{key[0]} of step {key[1]} is {found[key]}, metrics.jsonl says {expected[key]}")
    compared = {tag for tag, _ in expected}
    odd = sorted(key for key in found.keys() - expected.keys() if key[0] in compared)
    if odd:
        raise Failure(f"TensorBoard reads what metrics.jsonl does not hold: {odd[:5]}")
    for tag in tags:
        steps = [event.step for event in reader.Scalars(tag)]
        if steps != sorted(set(steps)):
            raise Failure(f"the steps of {tag} come twice or out of order: {steps}")
    return len(both), len(tags)


if __name__ == "__main__":
    try:
        numbers, tags = check(sys.argv[1])
        print(f"tensorboard_check.py: {numbers} numbers of {tags} tags agree")
    except (Failure, OSError, IndexError) as error:
        sys.exit(f"tensorboard_check.py: failed: {error}")

"""The data sets of `real_tasks.py`: where their files are, as jobs name them.

A job reads Parquet as it is. Written anew, as JSON Lines in the bench's own folder, are the training
set whose texts come as lists of words, and the test sets, cut to as many samples as evaluation shall take.
"""

import json
import random
import sys

# {task: its folder}; columns of the source where they are not `text` and `label`.
TASKS = ["sst2", "ag_news", "trec6", "snips"]
COLUMNS = {"snips": ("tokens", "intent")}
SHUFFLE = 20  # seed of the order in which test sets are cut; not that of any job


def prepare(source, folder, test):
    """{task: {"train": file, "test": file}}; files that are there already are kept."""
    missing = [task for task in TASKS for split in ("train", "test") if not (source / task / f"{split}.parquet").is_file()]
    if missing:
        sys.exit(f"real_tasks: error: no train.parquet and test.parquet in {source / missing[0]}: set ESPALIER_DATA")
    files = {}
    for task in TASKS:
        train = source / task / "train.parquet"
        if task in COLUMNS:
            train = once(folder / f"{task}.train.jsonl", lambda: rows(source, task, "train"))
        cut = once(folder / f"{task}.test-{test}.jsonl", lambda: capped(rows(source, task, "test"), test))
        files[task] = {"train": str(train), "test": str(cut)}
    return files


def rows(source, task, split):
    """[{"text", "label"}] of a Parquet file, in its order; lists of words joined with spaces."""
    try:
        import pyarrow.parquet
    except ImportError:
        sys.exit("real_tasks: error: no pyarrow: run 'make bench-tasks', which brings it along")
    text, label = COLUMNS.get(task, ("text", "label"))
    table = pyarrow.parquet.read_table(source / task / f"{split}.parquet", columns=[text, label]).to_pydict()
    join = lambda value: value if isinstance(value, str) else " ".join(value)
    return [{"text": join(one), "label": other} for one, other in zip(table[text], table[label])]


def capped(samples, count):
    """At most `count` of the samples: the first ones after a seeded shuffle."""
    samples = list(samples)
    random.Random(SHUFFLE).shuffle(samples)
    return samples[:count]


def once(path, make):
    """The file, written whole or not at all if it is not there yet."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".new")
        aside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in make()))
        aside.rename(path)
    return path

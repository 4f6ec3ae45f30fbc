#!/usr/bin/env python3
"""Writes what the jobs of this folder are trained on, into .espalier/data/heads.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pyrecipes python3 recipes/heads/build.py

    packages.*.jsonl    text, size, bulk, short, long: Debian's packages, from the index of its archive
    slots.*.jsonl       question, context, answers: of SNIPS's slots, one that a sentence has and one that it lacks
    questions.*.jsonl   text, label: TREC, without the kinds that are never trained (train), and all (test)
    spoken.*.parquet    audio, word: FSDD with the digits' names

The same data gives the same bytes. Packages with near-identical descriptions are on one side (as in
recipes/debian-packages).
"""

import argparse
import importlib.util
import json
import math
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "debian-packages"), str(HERE.parents[1] / "deploy/setup")]

from fetch import SetupError

from cluster import REPO, SETS, DemoError, link_data, run

OUT = REPO / ".espalier/data/heads"
PACKAGES_SCRIPT = HERE.parent / "debian-packages/build.py"
SOURCES = [f"{name}/{split}.parquet" for name in ("snips", "trec6", "fsdd") for split in ("train", "test")]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
BULKS = ["tiny", "small", "middling", "large", "huge"]
NEVER_TRAINED = ["LOC", "NUM"]
PACKAGES = {"train": 9600, "test": 1000}
QUESTIONS = {"train": 12000, "test": 1000}
# Words of a long description: about as many tokens as a job takes.
WORDS = 40


def parquet():
    try:
        import pyarrow.parquet
    except ImportError:
        raise DemoError("no pyarrow: python3 deploy/setup/setup.py recipes; export PYTHONPATH=.espalier/pyrecipes") from None
    return pyarrow.parquet


def write(name, rows):
    with open(OUT / f"{name}.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{len(rows):>6} rows -> {OUT}/{name}.jsonl")


def debian():
    """The other recipe's script, whose name this one has, too."""
    spec = importlib.util.spec_from_file_location("debian_packages", PACKAGES_SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def packages():
    debian_packages = debian()
    sizes = {stanza["Package"]: int(stanza.get("Installed-Size", 0)) for stanza, _ in debian_packages.packages()}
    rows = [row for row in debian_packages.read_rows() if row["long"] and sizes[row["id"]]]
    # Copies of a description would be wrong answers that are right.
    first = {row["short"].lower(): row["id"] for row in reversed(rows)}
    whole = {row["long"].lower(): row["id"] for row in reversed(rows)}
    rows = [row for row in rows if first[row["short"].lower()] == whole[row["long"].lower()] == row["id"]]
    rows.sort(key=lambda row: debian_packages.digest("heads", row["id"]))
    for split, count in PACKAGES.items():
        chosen = [row for row in rows if row["split"] == split][:count]
        if split == "train":
            ordered = sorted(sizes[row["id"]] for row in chosen)
            bounds = [ordered[len(ordered) * place // len(BULKS)] for place in range(1, len(BULKS))]
        write(f"packages.{split}", [{
            "text": f"{row['id']}: {row['short']}", "size": round(math.log10(sizes[row["id"]]), 3),
            "bulk": BULKS[sum(sizes[row["id"]] >= bound for bound in bounds)],
            "short": row["short"], "long": " ".join(row["long"].split()[:WORDS])} for row in chosen])


def spans(tokens, tags):
    """{slot: (text, its first character in the sentence)} of the slots that a sentence has once."""
    found, place = {}, 0
    for token, tag in zip(tokens, tags):
        if tag.startswith("B-"):
            found.setdefault(tag[2:], []).append([token, place])
        elif tag.startswith("I-"):
            found[tag[2:]][-1][0] += f" {token}"
        place += len(token) + 1
    return {slot: tuple(one[0]) for slot, one in found.items() if len(one) == 1}


def slots():
    names = set()
    for split, count in QUESTIONS.items():
        table = parquet().read_table(SETS / f"snips/{split}.parquet").to_pylist()
        names |= {tag[2:] for row in table for tag in row["tags"] if tag != "O"} if split == "train" else set()
        draw, rows = random.Random(1), []
        draw.shuffle(table)
        for row in table:
            here, every = spans(row["tokens"], row["tags"]), {tag[2:] for tag in row["tags"] if tag != "O"}
            ask = lambda slot: f"what is the {slot.replace('_', ' ')}?"
            context = " ".join(row["tokens"])
            if here:
                slot = draw.choice(sorted(here))
                text, start = here[slot]
                rows.append({"question": ask(slot), "context": context, "answers": {"text": [text], "answer_start": [start]}})
            slot = draw.choice(sorted(names - every))
            rows.append({"question": ask(slot), "context": context, "answers": {"text": [], "answer_start": []}})
        write(f"slots.{split}", rows[:count])


def questions():
    for split in ("train", "test"):
        rows = parquet().read_table(SETS / f"trec6/{split}.parquet").to_pylist()
        write(f"questions.{split}", [{"text": row["text"], "label": row["label"]} for row in rows
                                     if split == "test" or row["label"] not in NEVER_TRAINED])


def spoken():
    import pyarrow

    for split in ("train", "test"):
        table = parquet().read_table(SETS / f"fsdd/{split}.parquet", columns=["audio", "label"])
        words = [DIGITS[int(label)] for label in table["label"].to_pylist()]
        table = table.drop_columns(["label"]).append_column("word", pyarrow.array(words))
        parquet().write_table(table, OUT / f"spoken.{split}.parquet")
        print(f"{len(words):>6} rows -> {OUT}/spoken.{split}.parquet")


def make():
    """Writes all of it; `link_data(*SOURCES)` must have been called."""
    OUT.mkdir(parents=True, exist_ok=True)
    try:
        packages()
    except SetupError as error:
        raise DemoError(f"the index of Debian's packages: {error}") from None
    slots()
    questions()
    spoken()


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    link_data(*SOURCES)
    make()


if __name__ == "__main__":
    run(main)

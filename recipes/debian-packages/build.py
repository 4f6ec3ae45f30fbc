#!/usr/bin/env python3
"""Builds the five tasks from Debian's package index: JSON Lines per task and split, and meta.json.

Train, validation and test are apart by source package, and packages whose descriptions are the same
but for numbers and names stay together too. The same index gives the same bytes.
"""

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "deploy/setup"))

import debian
from fetch import SetupError
from tasks import TASKS, facets, label

SPLITS = ("train", "validation", "test")
# Rows kept per task at most: what two cores can learn from and score in a few minutes.
CAPS = {"train": 10_000, "validation": 200, "test": 500}
# Words of a text, its name aside: about 32 word pieces with it.
WORDS = 18


def packages():
    """Every package of the release once, with its long description where the index has it, by name."""
    targets = debian.index_targets()
    longs = {}
    for kind, file in targets:
        if kind == "Translations":
            for stanza in debian.stanzas(debian.read_index(file)):
                text = stanza.get("Description-en", "")
                longs.setdefault((stanza.get("Package"), stanza.get("Description-md5")), text)
    found = {}
    for kind, file in targets:
        if kind == "Packages":
            for stanza in debian.stanzas(debian.read_index(file)):
                key = (stanza["Package"], stanza.get("Description-md5"))
                text = longs.get(key) or stanza.get("Description", "")
                found.setdefault(stanza["Package"], (stanza, text))
    if not longs:
        print("note: the index holds no long descriptions, texts are short ones only", flush=True)
    return [found[name] for name in sorted(found)]


def describe(text):
    """(short, long) of a Description field, as running text; of the long one its first paragraph."""
    short, _, rest = text.partition("\n")
    # A line with a single dot parts paragraphs; only the first says what the package is.
    paragraph = re.split(r"\n \.\s*(?:\n|$)", "\n" + rest)[0]
    return short.strip(), " ".join(paragraph.split())


def digest(*parts):
    """A number in [0, 1) that depends on the parts alone: the only randomness here."""
    data = "\0".join(parts).encode()
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2**64


def words_of(text):
    """The words of a text without what tells siblings apart: numbers, punctuation and brackets."""
    return re.findall(r"[a-z]+", re.sub(r"\([^)]*\)", " ", text.lower()))


def kinship(name, short, long):
    """Keys that two packages share where their descriptions are near-identical."""
    own = set(words_of(name))
    nameless = [word for word in words_of(short) if word not in own]
    # Descriptions of one family ("Maven is a software project management ...") open alike.
    texts = [nameless, words_of(short), words_of(long)[:12]]
    # A very short text ("perl module") says nothing about kinship.
    return [" ".join(words) for words in texts if len(words) >= 4]


class Groups:
    """Union-find over keys: whatever was joined must be in one split."""

    def __init__(self):
        self.parent = {}

    def root(self, key):
        self.parent.setdefault(key, key)
        while self.parent[key] != key:
            self.parent[key] = self.parent[self.parent[key]]
            key = self.parent[key]
        return key

    def join(self, one, other):
        # The smaller key stays on top, so that a group's name doesn't depend on the order of joins.
        low, high = sorted((self.root(one), self.root(other)))
        self.parent[high] = low


def read_rows():
    rows, groups = [], Groups()
    for stanza, text in packages():
        name = stanza["Package"]
        short, long = describe(text)
        if not short:
            continue
        source = "source " + stanza.get("Source", name).split()[0]
        for key in kinship(name, short, long):
            groups.join(source, "text " + key)
        found = facets(stanza)
        labels = {task: value for task in TASKS if (value := label(task, found))}
        rows.append({"id": name, "short": short, "long": long, "group": source, "labels": labels})
    for row in rows:
        row["group"] = groups.root(row["group"])
        share = digest("split", row["group"])
        row["split"] = "test" if share < 0.12 else "validation" if share < 0.18 else "train"
    return rows


def text_of(row):
    words = f"{row['short']}. {row['long']}".split() if row["long"] else row["short"].split()
    text = " ".join(words[:WORDS])
    # One training text in three goes without its name, as a person would type it.
    if row["split"] == "train" and digest("name", row["id"]) < 1 / 3:
        return text
    return f"{row['id']}: {text}"


def pick(rows, task, split):
    """The rows of a task and split, in an order that says nothing, cut to the cap."""
    chosen = [row for row in rows if row["split"] == split and task in row["labels"]]
    chosen.sort(key=lambda row: digest("order", task, row["id"]))
    return chosen[: CAPS[split]]


def write_task(rows, task, folder):
    several = TASKS[task][2]
    summary = {"kind": "multi_label" if several else "single_label", "rows": {}, "distribution": {}}
    picked = {split: pick(rows, task, split) for split in SPLITS}
    for split, chosen in picked.items():
        with open(folder / f"{task}.{split}.jsonl", "w", encoding="utf-8") as file:
            for row in chosen:
                line = {"id": row["id"], "text": text_of(row), "label": row["labels"][task]}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        summary["rows"][split] = len(chosen)
        counts = Counter(name for row in chosen for name in labels_of(row, task))
        summary["distribution"][split] = dict(sorted(counts.items()))
    summary["labels"] = sorted(summary["distribution"]["train"])
    summary["majority"] = majority(picked, task, summary["labels"])
    return summary


def labels_of(row, task):
    value = row["labels"][task]
    return value if isinstance(value, list) else [value]


def majority(picked, task, classes):
    """Scores on test of always giving the answer most frequent in train."""
    answers = Counter(tuple(labels_of(row, task)) for row in picked["train"])
    answer = set(max(sorted(answers), key=answers.get))
    hits, rows = Counter(), picked["test"]
    exact = sum(set(labels_of(row, task)) == answer for row in rows)
    wrong = missed = 0
    for row in rows:
        truth = set(labels_of(row, task))
        hits.update(truth & answer)
        wrong += len(answer - truth)
        missed += len(truth - answer)
    f1 = {name: 2 * hits[name] / (hits[name] + len(rows) * (name in answer) + total(rows, task, name) - hits[name])
          for name in answer if hits[name]}
    return {
        "answer": sorted(answer),
        "accuracy": round(exact / max(1, len(rows)), 4),
        "macro_f1": round(sum(f1.values()) / len(classes), 4),
        "micro_f1": round(2 * sum(hits.values()) / max(1, 2 * sum(hits.values()) + wrong + missed), 4),
    }


def total(rows, task, name):
    return sum(name in labels_of(row, task) for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPO / ".espalier/data/debian-packages")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = read_rows()
    meta = {"packages": len(rows), "tasks": {task: write_task(rows, task, args.out) for task in TASKS}}
    (args.out / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(rows)} packages -> {args.out}")
    print(f"{'task':<12}{'classes':>8}" + "".join(f"{split:>12}" for split in SPLITS) + "  most frequent answer on test")
    for task, summary in meta["tasks"].items():
        counts = "".join(f"{summary['rows'][split]:>12}" for split in SPLITS)
        guess = summary["majority"]
        print(f"{task:<12}{len(summary['labels']):>8}{counts}  {100 * guess['accuracy']:.1f} % ({', '.join(guess['answer'])})")


if __name__ == "__main__":
    try:
        main()
    except (SetupError, OSError) as error:
        sys.exit(f"build.py: error: {error}")

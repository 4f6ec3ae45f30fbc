#!/usr/bin/env python3
"""UCI's handwritten digits (1,797 real 8x8 images, out of scikit-learn's wheel) as JSON Lines.

Two tasks: the digits 0 to 4 with all their training images, and 5 to 9 with only a few, for transfer.
"""

import argparse
import csv
import gzip
import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "deploy/setup"))

import fetch

MEMBER = "sklearn/datasets/data/digits.csv.gz"
FEW = 10


def images():
    """[(64 numbers from 0 to 1, row by row, and the digit)] in an order that says nothing."""
    with zipfile.ZipFile(fetch.wheel("scikit-learn")) as wheel:
        text = gzip.decompress(wheel.read(MEMBER)).decode()
    rows = []
    for index, row in enumerate(csv.reader(io.StringIO(text))):
        *pixels, digit = map(float, row)
        order = hashlib.sha256(f"digits {index}".encode()).hexdigest()
        # Sixteenths, so exact in any float.
        rows.append((order, [pixel / 16 for pixel in pixels], str(int(digit))))
    return [(image, digit) for _, image, digit in sorted(rows)]


def write(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        for image, digit in rows:
            file.write(json.dumps({"image": image, "label": digit}) + "\n")
    return len(rows)


def few(rows, count):
    """The first `count` rows of every digit."""
    seen, chosen = {}, []
    for row in rows:
        seen[row[1]] = seen.get(row[1], 0) + 1
        if seen[row[1]] <= count:
            chosen.append(row)
    return chosen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPO / ".espalier/data/digits")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = images()
    counts = {}
    for task, digits in {"low": "01234", "high": "56789"}.items():
        mine = [row for row in rows if row[1] in digits]
        test, validation, train = mine[:250], mine[250:350], mine[350:]
        if task == "high":
            train = few(train, FEW)
        for split, chosen in {"train": train, "validation": validation, "test": test}.items():
            counts[f"{task}.{split}"] = write(args.out / f"{task}.{split}.jsonl", chosen)
    (args.out / "meta.json").write_text(json.dumps({"images": len(rows), "rows": counts}, indent=1) + "\n")
    print(f"{len(rows)} images -> {args.out}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


if __name__ == "__main__":
    try:
        main()
    except (fetch.SetupError, OSError) as error:
        sys.exit(f"build.py: error: {error}")

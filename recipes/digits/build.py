#!/usr/bin/env python3
"""UCI's handwritten digits (1,797 real 8x8 images, out of scikit-learn's wheel) as JSON Lines.

Two tasks: which digit it is, with all training images; and whether it is even or odd, with only two
images of each digit, which is where transfer has to help. No image is in two splits or tasks, but that
both are tested on the same ones.
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
FEW = 2


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


def parity(rows):
    return [(image, "odd" if int(digit) % 2 else "even") for image, digit in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPO / ".espalier/data/digits")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = images()
    test, pool, validation, train = rows[:450], rows[450:600], rows[600:700], rows[700:]
    files = {
        "digit.train": train,
        "digit.validation": validation,
        "digit.test": test,
        "parity.train": parity(few(pool, FEW)),
        "parity.test": parity(test),
    }
    counts = {name: write(args.out / f"{name}.jsonl", chosen) for name, chosen in files.items()}
    (args.out / "meta.json").write_text(json.dumps({"images": len(rows), "rows": counts}, indent=1) + "\n")
    print(f"{len(rows)} images -> {args.out}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


if __name__ == "__main__":
    try:
        main()
    except (fetch.SetupError, OSError) as error:
        sys.exit(f"build.py: error: {error}")

#!/usr/bin/env python3
"""Pictures of digits on noise, and masks that say which pixels are of which digit, as PNG and JSON Lines.

The digits are UCI's (1,797 real 8x8 images, out of scikit-learn's wheel), twice as large, three in a picture,
each in a quarter of its own. A mask's value is 0 for the ground and 1 more than the digit for its pixels. No
digit is in the pictures of two splits.
"""

import argparse
import csv
import gzip
import hashlib
import io
import json
import random
import struct
import sys
import zipfile
import zlib
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "deploy/setup"))

import fetch

MEMBER = "sklearn/datasets/data/digits.csv.gz"
# Side of a picture, and of a digit in it.
SIDE, DIGIT = 64, 16
DIGITS = 3
# Of 16: what is paler is ground.
INK = 4
# Pictures of a split, and which of the digits they are made of.
SPLITS = {"train": (1500, slice(600, None)), "validation": (100, slice(450, 600)), "test": (300, slice(0, 450))}


def digits():
    """[(8 rows of 8 numbers from 0 to 16, and the digit)] in an order that says nothing."""
    with zipfile.ZipFile(fetch.wheel("scikit-learn")) as wheel:
        text = gzip.decompress(wheel.read(MEMBER)).decode()
    found = []
    for index, row in enumerate(csv.reader(io.StringIO(text))):
        *pixels, digit = (int(float(number)) for number in row)
        order = hashlib.sha256(f"digits {index}".encode()).hexdigest()
        found.append((order, [pixels[start : start + 8] for start in range(0, 64, 8)], digit))
    return [(rows, digit) for _, rows, digit in sorted(found)]


def picture(source, pool):
    """Rows of grey levels and rows of classes: noise, and digits of `pool` in quarters of their own."""
    image = [[source.randrange(96) for _ in range(SIDE)] for _ in range(SIDE)]
    mask = [[0] * SIDE for _ in range(SIDE)]
    half = SIDE // 2
    for quarter in source.sample(range(4), DIGITS):
        rows, digit = pool[source.randrange(len(pool))]
        top = quarter // 2 * half + source.randrange(half - DIGIT + 1)
        left = quarter % 2 * half + source.randrange(half - DIGIT + 1)
        for y in range(DIGIT):
            for x in range(DIGIT):
                ink = rows[y // 2][x // 2]
                if ink > INK:
                    image[top + y][left + x] = min(255, 96 + 10 * ink)
                    mask[top + y][left + x] = digit + 1
    return image, mask


def png(rows):
    """A PNG of 8-bit grey levels."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    lines = b"".join(b"\0" + bytes(row) for row in rows)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def write(out, split, pool, count):
    source = random.Random(f"segmentation {split}")
    folder = out / split
    folder.mkdir(exist_ok=True)
    with open(out / f"{split}.jsonl", "w", encoding="utf-8") as file:
        for number in range(count):
            row = {}
            for name, rows in zip(("image", "mask"), picture(source, pool)):
                (folder / f"{number}.{name}.png").write_bytes(png(rows))
                row[name] = f"{split}/{number}.{name}.png"
            file.write(json.dumps(row) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPO / ".espalier/data/segmentation")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    known = digits()
    for split, (count, which) in SPLITS.items():
        write(args.out, split, known[which], count)
    counts = ", ".join(f"{split} {count}" for split, (count, _) in SPLITS.items())
    print(f"{len(known)} digits -> {args.out}: {counts} pictures")


if __name__ == "__main__":
    try:
        main()
    except (fetch.SetupError, OSError) as error:
        sys.exit(f"build.py: error: {error}")

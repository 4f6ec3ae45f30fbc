#!/usr/bin/env python3
"""Vectors of classes for zero_shot.vectors: what a language model makes of their names.

    python3 recipes/zero-shot-images/vectors.py --out new.jsonl cat truck 'hot-air balloon'

The name stands in several sentences; each sentence's vector, the mean over its tokens, is brought to length 1, and the
mean of those is the class's. Needs no Python package: espalier-worker runs the model.
"""

import argparse
import json
import math
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, TARGET, DemoError, build, run

MODEL = REPO / ".espalier/models/all-MiniLM-L6-v2"
TEMPLATES = ["a photo of a {}.", "a small picture of a {}.", "a close-up photo of the {}.", "a photo of one {} from the side."]


def tensor(file, name):
    """Numbers of a 32-bit tensor of a safetensors file, row by row: [[number]]; one row of one axis."""
    data = Path(file).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    about = json.loads(data[8:8 + length])[name]
    start, end = (8 + length + place for place in about["data_offsets"])
    numbers, width = struct.unpack(f"<{(end - start) // 4}f", data[start:end]), about["shape"][-1]
    return [numbers[row:row + width] for row in range(0, len(numbers), width)]


def unit(vector):
    norm = math.sqrt(sum(x * x for x in vector)) or 1.0
    return [x / norm for x in vector]


def sentences(names):
    """Every name in every template, name by name."""
    return [template.replace("{}", name) for name in names for template in TEMPLATES]


def write_vectors(names, out, model=MODEL):
    """Writes a line with `label` and `vector` for each of `names` to the file `out`."""
    if not (model / "config.json").is_file():
        raise DemoError(f"there is no model in {model}: 'make setup' brings it, or name another with --model")
    with tempfile.TemporaryDirectory() as folder:
        texts, found = Path(folder) / "texts", Path(folder) / "features.safetensors"
        texts.write_text("".join(f"{one}\n" for one in sentences(names)))
        command = [TARGET / "debug/espalier-worker", "forward", "--model", model, "--pooling", "mean", "--texts", texts, "--out", found]
        if subprocess.run([str(word) for word in command]).returncode != 0:
            raise DemoError("espalier-worker made no vectors of the classes, see its message above")
        each = [unit(row) for row in tensor(found, "features")]
    rows = []
    for place, name in enumerate(names):
        own = each[place * len(TEMPLATES):(place + 1) * len(TEMPLATES)]
        rows.append({"label": name, "vector": unit([sum(column) for column in zip(*own)])})
    Path(out).write_text("".join(json.dumps(row) + "\n" for row in rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="CLASS", help="names of classes")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="file to write")
    parser.add_argument("--model", type=Path, default=MODEL, metavar="DIR", help="default: %(default)s")
    args = parser.parse_args()
    build()
    write_vectors(args.names, args.out, args.model)


if __name__ == "__main__":
    run(main)

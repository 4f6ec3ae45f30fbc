#!/usr/bin/env python3
"""Lets an exported model draw: prompts, image tokens, and a PNG with a row of pictures for each digit.

    python3 recipes/draw/draw.py --model .espalier/demo/draw/text-first-1 --out digits.png --temperature 0.9

Needs Pillow ('make draw' brings it) and what build.py wrote. Every picture is 49 tokens that begin with <i.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from build import DIGITS, OUT, PATCH, SIDE, TOKENS, caption, packages

from cluster import ESPALIER, DemoError, run

TASK = "draw"
TOKEN = re.compile(r"<i(\d+)>")
GAP = 2


def codes(text):
    """The numbers of a text's image tokens; a text that is not one picture is an error."""
    found = [int(number) for number in TOKEN.findall(text)]
    if len(found) != TOKENS or TOKEN.sub("", text):
        raise DemoError(f"expected {TOKENS} image tokens and nothing else, found {len(found)} in {text!r}")
    return found


def picture(numbers, codebook):
    """The 28 x 28 pixels of 49 codes, as an image."""
    _, Image, _ = packages()
    image = Image.new("L", (SIDE, SIDE))
    for place, code in enumerate(numbers):
        if code >= len(codebook):
            raise DemoError(f"no code {code} in a codebook of {len(codebook)}: was build.py run with other --codes?")
        patch = Image.frombytes("L", (PATCH, PATCH), bytes(codebook[code]))
        image.paste(patch, (place % (SIDE // PATCH) * PATCH, place // (SIDE // PATCH) * PATCH))
    return image


def grid(rows, scale=2):
    """Rows of images as one image, bright strokes on black with grey lines between."""
    _, Image, _ = packages()
    step = SIDE + GAP
    whole = Image.new("L", (max(map(len, rows)) * step + GAP, len(rows) * step + GAP), 96)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            whole.paste(image, (x * step + GAP, y * step + GAP))
    return whole.resize((whole.width * scale, whole.height * scale), Image.NEAREST)


def read_codebook(data=OUT):
    path = Path(data) / "codebook.json"
    if not path.is_file():
        raise DemoError(f"no {path}: run recipes/draw/build.py")
    return json.loads(path.read_text())


def sample(model, each, temperature, top_k=None, seed=1):
    """Codes of `each` pictures of every digit: [10][each][49], drawn by the task `draw` of an export."""
    words = ["--task", TASK, "--max-new-tokens", TOKENS, "--temperature", temperature, "--seed", seed]
    words += ["--only-tokens", "<i", "-o", "json"]
    if top_k:
        words += ["--top-k", top_k]
    prompts = "".join(f"{caption(digit)}\n" * each for digit in range(10))
    command = [ESPALIER, "predict", "--model", str(model), *map(str, words)]
    done = subprocess.run(command, text=True, input=prompts, capture_output=True)
    if done.returncode != 0:
        raise DemoError(f"predict failed: {done.stderr}")
    answers = [json.loads(line)["predictions"][TASK] for line in done.stdout.splitlines()]
    drawn = [codes(answer["completion"]) for answer in answers]
    return [drawn[digit * each : (digit + 1) * each] for digit in range(10)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="directory of an export with the task draw")
    parser.add_argument("--data", type=Path, default=OUT, help="what build.py wrote; default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("draw.png"))
    parser.add_argument("--each", type=int, default=10, help="pictures of each digit")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.each < 1:
        parser.error(f"--each is {args.each}; expected at least 1")
    codebook = read_codebook(args.data)
    drawn = sample(args.model, args.each, args.temperature, args.top_k, args.seed)
    rows = [[picture(numbers, codebook) for numbers in row] for row in drawn]
    grid(rows).save(args.out)
    print(f"{args.out}: {args.each} pictures in each of the rows {', '.join(DIGITS)}")


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Pictures as texts: MNIST (ESPALIER_DATA) in image tokens behind a caption, and the tokenizer that reads them.

A picture of 28 x 28 is 49 patches of 4 x 4, row by row; k-means over the patches of the training pictures
makes a codebook, and a patch is the number of the nearest code: <i000> (the darkest) and so on. Writes into
--out (.espalier/data/draw):

    codebook.json                 the codes, each 16 numbers of 0 to 255
    {train,validation}.jsonl      text: "a picture of a seven:<i000><i017>...", label, image (its number)
    text/                         a small GPT-2 that knows letters alone: config.json and its tokenizer
    pictures/                     tokenizer.json with the image tokens behind the letters
    meta.json                     sizes, and bits per image token for what knows only how frequent codes are

The first 9,000 rows of train.parquet are for training, the others for validation.
"""

import argparse
import io
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, SETS, DemoError, run

OUT = REPO / ".espalier/data/draw"
LETTERS = REPO / "recipes/shakespeare/model"
# What the pictures, and the text before or beside them, are made of.
SOURCES = ["mnist/train.parquet", "mnist/test.parquet", "tiny_shakespeare/train.parquet", "tiny_shakespeare/validation.parquet"]
# How a decoder may come to its pictures: from text, from random weights, with text beside them.
WAYS = ["text-first", "nothing", "together"]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SIDE, PATCH, TOKENS = 28, 4, 49
TRAIN = 9000
# The longest caption and its 49 tokens; windows of text are as long, so that every position is trained.
POSITIONS = 80
ROUNDS = 25


def caption(digit):
    return f"a picture of a {DIGITS[digit]}:"


def token(code):
    return f"<i{code:03}>"


def packages():
    """numpy, Pillow's Image and pyarrow.parquet; what is missing is said once, with what to do."""
    try:
        import numpy
        import pyarrow.parquet as parquet
        from PIL import Image
    except ImportError as error:
        raise DemoError(f"no {error.name}: 'make draw' brings it; by hand: "
                        "python3 deploy/setup/setup.py recipes; export PYTHONPATH=.espalier/pyrecipes") from None
    return numpy, Image, parquet


def pictures(file):
    """Pixels [n, 28, 28] of 0 to 255, and digits."""
    numpy, Image, parquet = packages()
    if not file.is_file():
        raise DemoError(f"no {file}: set ESPALIER_DATA to the folder of the data sets")
    table = parquet.read_table(file, columns=["image", "label"]).to_pydict()
    pixels = numpy.empty((len(table["label"]), SIDE, SIDE), dtype=numpy.uint8)
    for row, image in enumerate(table["image"]):
        with Image.open(io.BytesIO(image["bytes"])) as opened:
            if opened.size != (SIDE, SIDE):
                raise DemoError(f"{file}, row {row + 1}: a picture of {opened.size}, expected {SIDE} x {SIDE}")
            pixels[row] = numpy.asarray(opened.convert("L"))
    return pixels, [int(label) for label in table["label"]]


def patches(pixels):
    """[n, 49, 16] as whole numbers in 64-bit floats: all sums of products of them are exact."""
    numpy, *_ = packages()
    count, across = len(pixels), SIDE // PATCH
    cut = pixels.reshape(count, across, PATCH, across, PATCH).swapaxes(2, 3)
    return cut.reshape(count, TOKENS, PATCH * PATCH).astype(numpy.float64)


def nearest(points, codes):
    """The nearest code [n] of each point [n, 16], the first of equal ones, and its squared distance."""
    numpy, *_ = packages()
    squares = (codes * codes).sum(1)
    found, far = numpy.empty(len(points), dtype=numpy.int64), numpy.empty(len(points))
    for start in range(0, len(points), 65536):
        part = points[start : start + 65536]
        distances = squares - 2 * part @ codes.T
        best = distances.argmin(1)
        found[start : start + len(part)] = best
        far[start : start + len(part)] = distances[numpy.arange(len(part)), best] + (part * part).sum(1)
    return found, far


def codebook(points, count, seed):
    """k-means (Lloyd 1982) with codes of whole numbers, so that it gives the same everywhere.

    It begins with patches that differ, drawn by the seed; a code that nothing is near to moves to the patch
    that is furthest from its own.
    """
    numpy, *_ = packages()
    kinds, times = numpy.unique(points, axis=0, return_counts=True)
    if len(kinds) < count:
        raise DemoError(f"only {len(kinds)} different patches for {count} codes: give fewer --codes")
    codes = kinds[numpy.random.RandomState(seed).permutation(len(kinds))[:count]]
    for _ in range(ROUNDS):
        own, far = nearest(kinds, codes)
        weights = numpy.bincount(own, times, count)
        sums = numpy.stack([numpy.bincount(own, times * kinds[:, k], count) for k in range(kinds.shape[1])], 1)
        moved = numpy.rint(sums / numpy.maximum(weights, 1)[:, None])
        empty = numpy.flatnonzero(weights == 0)
        moved[empty] = kinds[numpy.argsort(-far, kind="stable")[: len(empty)]]
        if (moved == codes).all():
            break
        codes = moved
    order = numpy.lexsort((*codes.T[::-1], codes.sum(1)))
    return codes[order]


def frequencies(train, validation, count):
    """Bits per image token for what knows how frequent codes are: all over, and at each of the 49 places."""
    numpy, *_ = packages()

    def bits(own, others):
        share = (numpy.bincount(own, minlength=count) + 1) / (len(own) + count)
        return -numpy.log2(share)[others].mean()

    places = [bits(train[:, place], validation[:, place]) for place in range(TOKENS)]
    return {"anywhere": bits(train.ravel(), validation.ravel()), "at_each_place": sum(places) / TOKENS}


def write_tokenizers(out, count):
    """text/: the letters of recipes/shakespeare and a GPT-2 with room for a picture; pictures/: both kinds."""
    letters = json.loads((LETTERS / "tokenizer.json").read_text())
    config = json.loads((LETTERS / "config.json").read_text())
    config["n_positions"] = POSITIONS
    known = letters["model"]["vocab"]
    unknown = sorted(set("".join(map(caption, range(10)))) - set(known))
    if unknown:
        raise DemoError(f"{LETTERS}/tokenizer.json has no {unknown}, which captions need")
    first = max(known.values()) + 1
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    added = [{"id": first + code, "content": token(code), **plain} for code in range(count)]
    named = json.loads((LETTERS / "tokenizer_config.json").read_text())
    named["model_max_length"] = POSITIONS
    for name, tokenizer in (("text", letters), ("pictures", {**letters, "added_tokens": added})):
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / name / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1) + "\n")
        (out / name / "tokenizer_config.json").write_text(json.dumps(named, indent=1) + "\n")
    (out / "text/config.json").write_text(json.dumps(config, indent=1) + "\n")
    return first


def make(count):
    """Runs this script as a program, on the data that `link_data` found."""
    command = [sys.executable, __file__, "--codes", str(count)]
    if subprocess.run(command, env={**os.environ, "ESPALIER_DATA": str(SETS.resolve())}).returncode != 0:
        raise DemoError("the pictures could not be made, see the message above")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--codes", type=int, default=128, help="size of the codebook, 2 to 1000")
    parser.add_argument("--seed", type=int, default=1, help="of the patches that k-means begins with")
    args = parser.parse_args()
    if not 2 <= args.codes <= 1000:
        parser.error(f"--codes is {args.codes}; expected 2 to 1000")
    numpy, *_ = packages()
    data = Path(os.environ.get("ESPALIER_DATA", REPO.parent / "shared/data"))
    pixels, digits = pictures(data / "mnist/train.parquet")
    if len(pixels) <= TRAIN:
        raise DemoError(f"{data}/mnist/train.parquet has {len(pixels)} rows, expected more than {TRAIN}")
    cut = patches(pixels)
    codes = codebook(cut[:TRAIN].reshape(-1, PATCH * PATCH), args.codes, args.seed)
    found, far = nearest(cut.reshape(-1, PATCH * PATCH), codes)
    tokens = found.reshape(-1, TOKENS)
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    for name, rows in (("train", range(TRAIN)), ("validation", range(TRAIN, len(pixels)))):
        with open(args.out / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for row in rows:
                text = caption(digits[row]) + "".join(map(token, tokens[row]))
                file.write(json.dumps({"text": text, "label": str(digits[row]), "image": row}) + "\n")
    (args.out / "codebook.json").write_text(json.dumps(codes.astype(int).tolist()) + "\n")
    meta = {
        "codes": args.codes,
        "first_token": write_tokenizers(args.out, args.codes),
        "train": TRAIN,
        "validation": len(pixels) - TRAIN,
        "pixel_error": math.sqrt(far[TRAIN * TOKENS :].mean() / PATCH**2),
        "bits_by_frequency": frequencies(tokens[:TRAIN], tokens[TRAIN:], args.codes),
    }
    (args.out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    frequency = meta["bits_by_frequency"]
    print(f"{len(pixels)} pictures in {args.codes} codes -> {args.out}: a pixel is off by {meta['pixel_error']:.1f} of 255 "
          f"(root mean square); bits per image token by frequency: {frequency['anywhere']:.3f}, by frequency at its "
          f"place: {frequency['at_each_place']:.3f}")


if __name__ == "__main__":
    run(main)

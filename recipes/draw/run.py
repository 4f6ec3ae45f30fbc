#!/usr/bin/env python3
"""Image tokens from a text decoder: text first and then pictures, pictures from nothing, and both together.

    ESPALIER_DATA=/path/to/data make draw
    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pyrecipes python3 recipes/draw/run.py --seeds 1,2,3

The folder must hold mnist/{train,test}.parquet (image, label) and tiny_shakespeare/{train,validation}.parquet
(text). Prints bits per image token on pictures that nobody trained on, and how many drawn pictures a network
takes for the digit that was asked for; the drawings are PNG files in .espalier/demo/draw. DEMO_FAST=1 is short.
"""

import json
import shutil
import struct
import subprocess
from pathlib import Path

from build import HERE, OUT, SOURCES, TOKENS, WAYS, make, packages, token
from draw import TASK, codes, grid, picture, read_codebook, sample

from cluster import FAST, REPO, SETS, TARGET, Cluster, DemoError, Found, arguments, build, fields_of, link_data, run, test_scores

DEMO = REPO / ".espalier/demo/draw"
TEXT_FIRST, NOTHING, TOGETHER = WAYS
BITS, RIGHT, COPIES = "bits per image token", "digits asked for, %", "copies of training, %"
SHOWN = 10  # pictures of each digit in a PNG


def start(export, target):
    """A model's directory with the text model's weights and the tokenizer that knows image tokens, too."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(export / name, target / name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(OUT / "pictures" / name, target / name)
    return target


def rows(split):
    """[(caption, its codes, its digit)] of what build.py wrote."""
    found = []
    with open(OUT / f"{split}.jsonl", encoding="utf-8") as file:
        for row in map(json.loads, file):
            place = row["text"].index("<i")
            found.append((row["text"][:place], codes(row["text"][place:]), int(row["label"])))
    return found


def tensor(path, name):
    """A 32-bit matrix out of a safetensors file."""
    numpy, *_ = packages()
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    info = json.loads(data[8 : 8 + length]).get(name)
    if info is None or info["dtype"] != "F32":
        raise DemoError(f"{path} has no 32-bit tensor {name}")
    begin, end = (8 + length + offset for offset in info["data_offsets"])
    return numpy.frombuffer(data[begin:end], dtype="<f4").reshape(info["shape"])


def image_bits(model, pictures):
    """Mean bits per image token, each told from the caption and the tokens before it; captions do not count."""
    numpy, *_ = packages()
    first = json.loads((OUT / "meta.json").read_text())["first_token"]
    texts, out = model.with_suffix(".txt"), model.with_suffix(".safetensors")
    lines = (caption + "".join(map(token, found)) for caption, found, _ in pictures)
    texts.write_text("".join(f"{line}\n" for line in lines))
    worker = [TARGET / "debug/espalier-worker", "forward", "--model", model, "--texts", texts, "--out", out, "--hidden"]
    done = subprocess.run(list(map(str, worker)), capture_output=True, text=True)
    if done.returncode != 0:
        raise DemoError(f"espalier-worker forward failed: {done.stderr}")
    hidden, matrix = tensor(out, "hidden"), tensor(model / "heads.safetensors", f"heads.{TASK}.weight")
    # A caption is a token for each of its letters; what stands before a token tells it.
    lengths = [len(caption) for caption, *_ in pictures]
    ends = numpy.cumsum([length + TOKENS for length in lengths])
    if len(hidden) != ends[-1]:
        raise DemoError(f"{out} has {len(hidden)} rows, expected one for each of {ends[-1]} tokens")
    places = (ends[:, None] - TOKENS - 1 + numpy.arange(TOKENS)).ravel()
    logits = (hidden[places] @ matrix.T).astype(numpy.float64)
    wanted = first + numpy.array([found for _, found, _ in pictures]).ravel()
    most = logits.max(1)
    all_of_them = most + numpy.log(numpy.exp(logits - most[:, None]).sum(1))
    losses = all_of_them - logits[numpy.arange(len(wanted)), wanted]
    out.unlink()
    return losses.mean() / numpy.log(2)


def judged(cluster, judge, images, digits, folder):
    """Share of images, in percent, that the judge takes for the digit that they are to be."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    questions = []
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
        questions.append(json.dumps({"image": str(folder / f"{number}.png")}) + "\n")
    done = cluster.espalier("predict", "--model", judge, "-o", "json", quiet=True, text="".join(questions))
    if done.returncode != 0:
        raise DemoError(f"predict failed: {done.stderr}")
    answers = [json.loads(line)["predictions"]["digit"]["label"] for line in done.stdout.splitlines()]
    right = sum(int(answer) == digit for answer, digit in zip(answers, digits, strict=True))
    return 100 * right / len(digits)


def judge_of(cluster, validation, codebook):
    """The judge's export; says how good it is on real pictures and on what the codebook leaves of them."""
    steps = {"training__steps": 200} if FAST else {}
    job = cluster.train(HERE / "digit.yaml", "draw-judge", DEMO / "judge", **steps)
    accuracy = 100 * test_scores(job)["digit"]["metrics"]["accuracy"]
    images = [picture(found, codebook) for _, found, _ in validation]
    digits = [digit for *_, digit in validation]
    coded = judged(cluster, DEMO / "judge", images, digits, DEMO / "judged/real")
    of_digit = [[image for image, own in zip(images, digits) if own == digit][:SHOWN] for digit in range(10)]
    grid(of_digit).save(DEMO / "real.png")
    print(f"the judge: {accuracy:.1f} % right on MNIST's test pictures, {coded:.1f} % on {len(images)} others in codes")
    return DEMO / "judge"


def trained(cluster, way, seed, text, args):
    """The export of one way, and the seconds it took."""
    fields = {"seed": seed, "backbone__path": text, **({"training__steps": 300} if FAST else {}), **fields_of(args)}
    if way == NOTHING:
        fields["backbone__init"] = "random"
    job_file = HERE / ("together.yaml" if way == TOGETHER else "job.yaml")
    export = DEMO / f"{way}-{seed}"
    return export, cluster.train(job_file, f"draw-{way}-{seed}", export, **fields)["seconds"]


def main():
    parser = arguments(__doc__)
    parser.add_argument("--ways", default=",".join(WAYS[:2] if FAST else WAYS), help="which of: " + ", ".join(WAYS))
    parser.add_argument("--text-steps", type=int, default=200 if FAST else 1000, help="of the text before pictures")
    parser.add_argument("--codes", type=int, default=128, help="size of the codebook")
    parser.add_argument("--each", type=int, default=5 if FAST else 20, help="pictures drawn of each digit")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int)
    args = parser.parse_args()
    ways = args.ways.split(",")
    unknown = [way for way in ways if way not in WAYS]
    if unknown or args.each < 1:
        parser.error(f"no way {unknown[0]!r}: choose from {', '.join(WAYS)}" if unknown else "--each must be at least 1")
    packages()
    link_data(*SOURCES)
    build()
    make(args.codes)
    shutil.rmtree(DEMO, ignore_errors=True)
    codebook, validation = read_codebook(), rows("validation")
    known = {tuple(found) for _, found, _ in rows("train")}
    table = Found(digits=3)
    with Cluster(DEMO) as cluster:
        judge = judge_of(cluster, validation, codebook)
        for seed in args.seeds:
            steps = {"seed": seed, "training__steps": args.text_steps}
            cluster.train(HERE / "text.yaml", f"draw-text-{seed}", DEMO / f"text-{seed}", **steps)
            text = start(DEMO / f"text-{seed}", DEMO / f"start-{seed}")
            for way in ways:
                export, seconds = trained(cluster, way, seed, text, args)
                bits = image_bits(export, validation)
                drawn = sample(export, args.each, args.temperature, args.top_k, seed)
                images = [[picture(found, codebook) for found in row] for row in drawn]
                grid([row[:SHOWN] for row in images]).save(DEMO / f"{way}-{seed}.png")
                flat = [image for row in images for image in row]
                digits = [digit for digit in range(10) for _ in range(args.each)]
                right = judged(cluster, judge, flat, digits, DEMO / f"judged/{way}-{seed}")
                copies = 100 * sum(tuple(found) in known for row in drawn for found in row) / len(flat)
                for name, value in ((BITS, bits), (RIGHT, right), (COPIES, copies)):
                    table.add(f"{way}, {name}", seed, value, seconds)
                print(f"{way}, seed {seed}: {bits:.3f} bits per image token, {right:.1f} % of the digits asked for")
    frequency = json.loads((OUT / "meta.json").read_text())["bits_by_frequency"]
    table.show("pictures that nobody trained on, drawings")
    table.keep(args.json)
    print(f"by frequency alone: {frequency['anywhere']:.3f} bits, by frequency at the token's place: "
          f"{frequency['at_each_place']:.3f}\ndrawings: {DEMO}/<way>-<seed>.png, a row for each digit; real ones: {DEMO}/real.png")


if __name__ == "__main__":
    run(main)

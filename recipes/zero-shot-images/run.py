#!/usr/bin/env python3
"""Photographs of classes that nobody trained (CIFAR-10), by the vector of each class's name, over a few seeds.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/zero-shot-images/run.py --seeds 1,2,3

The folder must hold cifar10_sample/{train,test}.parquet with the columns image and label. Needs pyarrow ('make parity'
brings it). Each seed leaves out another pair of the ten classes.

What is taken from the cosines of trained classes is chosen without the unseen ones: a first job leaves out
two of the eight trained classes, too, and takes what is best for those on rows that it did not train on.
"""

import json
import random
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, SETS, Cluster, DemoError, Found, arguments, build, fields_of, link_data, run, test_scores
from vectors import tensor, write_vectors

DEMO = REPO / ".espalier/demo/zero-shot-images"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# Of the first, second and third seed (then again): the unseen classes, and those that the first job leaves out, too.
SPLITS = [(["cat", "truck"], ["horse", "ship"]), (["deer", "ship"], ["frog", "truck"]), (["bird", "dog"], ["cat", "frog"])]
FIGURES = ["zero_shot_accuracy", "seen_accuracy", "unseen_accuracy", "harmonic_mean"]
SHOWN = 2  # images of each unseen class, at the end


def split_of(seed):
    """Unseen classes, and those left out to choose the calibration."""
    return SPLITS[(seed - 1) % len(SPLITS)]


def table(split):
    """A split's rows as an Arrow table."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise DemoError("no pyarrow: set PYTHONPATH=.espalier/pysite after 'make parity', or install it") from None
    return parquet.read_table(SETS / f"cifar10_sample/{split}.parquet", columns=["image", "label"])


def write_files(unseen, left_out):
    """Samples to train on, and those of the job that chooses a calibration: {name: file}."""
    folder = DEMO / "-".join(unseen)
    folder.mkdir(parents=True, exist_ok=True)
    all_rows = table("train")
    labels = all_rows["label"].to_pylist()
    seen = [row for row, label in enumerate(labels) if label not in unseen]
    random.Random(1).shuffle(seen)
    tenth = len(seen) // 10
    parts = {"train": seen, "fewer": [row for row in seen[tenth:] if labels[row] not in left_out], "held-out": seen[:tenth]}
    import pyarrow.parquet as parquet  # 'table' has looked for it

    files = {name: folder / f"{name}.parquet" for name in parts}
    for name, file in files.items():
        parquet.write_table(all_rows.take(parts[name]), file)
    return files


def calibration(export):
    """What the job chose: the tensor heads.object.calibration."""
    return tensor(export / "heads.safetensors", "heads.object.calibration")[0][0]


def show(cluster, model, unseen):
    """Answers for a few test images of the unseen classes, which alone it may choose from."""
    rows, lines = table("test").to_pylist(), []
    for name in unseen:
        for place, row in enumerate([row for row in rows if row["label"] == name][:SHOWN]):
            file = DEMO / f"{name}-{place + 1}.png"
            file.write_bytes(row["image"]["bytes"])
            lines.append(json.dumps({"image": str(file)}) + "\n")
    (DEMO / "images.jsonl").write_text("".join(lines))
    print(f"\nespalier predict: {SHOWN} images of each of {' and '.join(unseen)}, in this order:\n", flush=True)
    how = ["--labels-vectors", DEMO / "classes.jsonl", "--labels", ",".join(unseen)]
    cluster.espalier("predict", "--model", model, *how, "--file", DEMO / "images.jsonl")


def main():
    parser = arguments(__doc__)
    parser.add_argument("--ways", default="trained,calibrated", help="which of: %(default)s")
    args = parser.parse_args()
    link_data(*(f"cifar10_sample/{name}.parquet" for name in ("train", "test")))
    build()
    shutil.rmtree(DEMO, ignore_errors=True)
    # The job file names those of the first split.
    for unseen, left_out in SPLITS:
        write_files(unseen, left_out)
    write_vectors(CLASSES, DEMO / "classes.jsonl")
    job, ways, found = HERE / "job.yaml", args.ways.split(","), Found()
    with Cluster(DEMO) as cluster:
        tasks = cluster.tasks(job)
        for seed in args.seeds:
            unseen, left_out = split_of(seed)
            files = DEMO / "-".join(unseen)
            common = {"seed": seed, **fields_of(args)}
            split = {"tasks__object__data__train": files / "train.parquet", "tasks__object__zero_shot__unseen": json.dumps(unseen)}
            fields = {"trained": {}}
            if "calibrated" in ways:
                name = f"calibrate-{seed}"
                first = [{**tasks[0], "data": {key: value for key, value in tasks[0]["data"].items() if key != "test"}}]
                fewer = {"tasks__object__data__train": files / "fewer.parquet", "tasks__object__data__validation": files / "held-out.parquet",
                         "tasks__object__zero_shot__unseen": json.dumps(left_out)}
                cluster.train(job, name, DEMO / name, tasks=json.dumps(first), **fewer, **common)
                chosen = calibration(DEMO / name)
                print(f"seed {seed}: calibration {chosen:.3f}")
                fields["calibrated"] = {"tasks__object__zero_shot__calibration": chosen}
            for way in ways:
                trained = cluster.train(job, f"{way}-{seed}", DEMO / f"{way}-{seed}", **split, **fields[way], **common)
                scores = test_scores(trained)["object"]["metrics"]
                for figure in FIGURES:
                    found.add(f"{way}, {figure}", seed, 100 * scores[figure], trained["seconds"])
        last = args.seeds[-1]
        show(cluster, DEMO / f"{ways[0]}-{last}", split_of(last)[0])
    found.show("on the test set, %")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

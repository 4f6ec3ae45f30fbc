#!/usr/bin/env python3
"""Topics that nobody trained (DBpedia), by their description, over a few seeds.

    ESPALIER_DATA=/path/to/data PYTHONPATH=.espalier/pysite python3 recipes/zero-shot-topics/run.py --seeds 1,2,3

The folder must hold dbpedia14/{train,test}.parquet with the columns text and label, and labels.parquet with
label and description. Needs pyarrow ('make parity' brings it).

What is taken from the cosines of trained classes is chosen without the unseen ones: a first job leaves out
three of the ten trained classes, too, and takes what is best for those on rows that it did not train on.
"""

import json
import random
import shutil
import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, SETS, Cluster, DemoError, Found, arguments, build, fields_of, link_data, run, test_scores

DEMO = REPO / ".espalier/demo/zero-shot-topics"
UNSEEN = ["Athlete", "MeanOfTransportation", "Plant", "Film"]
LEFT_OUT = ["OfficeHolder", "Animal", "Album"]  # by the first job, which chooses the calibration
FIGURES = ["zero_shot_accuracy", "seen_accuracy", "unseen_accuracy", "harmonic_mean"]
UNTRAINED = {"training__steps": 1, "training__optimizer__learning_rate": 1e-12, "training__optimizer__head_learning_rate": 1e-12}
SENTENCES = ["a two-door sports car built in turin between 1968 and 1973", "she won the 800 metres at the national championships",
             "a silent comedy directed by and starring buster keaton", "a spiny shrub of dry hillsides with yellow flowers"]


def rows(split):
    """[{"text", "label"}] of a split."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise DemoError("no pyarrow: set PYTHONPATH=.espalier/pysite after 'make parity', or install it") from None
    table = parquet.read_table(SETS / f"dbpedia14/{split}.parquet", columns=["text", "label"]).to_pydict()
    return [{"text": text, "label": label} for text, label in zip(table["text"], table["label"])]


def write(folder, name, samples):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in samples))
    return path


def write_files(folder):
    """Samples to train on, to test on, and those of the job that chooses a calibration: {name: file in `folder`}."""
    folder.mkdir(parents=True, exist_ok=True)
    seen = [row for row in rows("train") if row["label"] not in UNSEEN]
    random.Random(1).shuffle(seen)
    tenth = len(seen) // 10
    fewer = [row for row in seen[tenth:] if row["label"] not in LEFT_OUT]
    return {"train": write(folder, "train", seen), "test": write(folder, "test", rows("test")),
            "fewer": write(folder, "fewer", fewer), "held-out": write(folder, "held-out", seen[:tenth])}


def calibration(export):
    """What the job chose: the tensor heads.topic.calibration."""
    data = (export / "heads.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    start, _ = json.loads(data[8:8 + length])["heads.topic.calibration"]["data_offsets"]
    return struct.unpack_from("<f", data, 8 + length + start)[0]


def main():
    parser = arguments(__doc__)
    parser.add_argument("--ways", default="untrained,trained,calibrated", help="which of: %(default)s")
    args = parser.parse_args()
    link_data(*(f"dbpedia14/{name}.parquet" for name in ("train", "test", "labels")))
    build()
    shutil.rmtree(DEMO, ignore_errors=True)
    files = write_files(DEMO)
    job = HERE / "job.yaml"
    left_out = {"tasks__topic__data__train": files["fewer"], "tasks__topic__data__validation": files["held-out"],
                "tasks__topic__zero_shot__unseen": json.dumps(LEFT_OUT)}
    found = Found()
    with Cluster(DEMO) as cluster:
        tasks = cluster.tasks(job)
        for seed in args.seeds:
            common = {"seed": seed, **fields_of(args)}
            ways = {"untrained": UNTRAINED, "trained": {}}
            if "calibrated" in args.ways.split(","):
                first = [{**tasks[0], "data": {key: value for key, value in tasks[0]["data"].items() if key != "test"}}]
                cluster.train(job, f"calibrate-{seed}", DEMO / f"calibrate-{seed}", tasks=json.dumps(first), **left_out, **common)
                chosen = calibration(DEMO / f"calibrate-{seed}")
                print(f"seed {seed}: calibration {chosen:.3f}")
                ways["calibrated"] = {"tasks__topic__zero_shot__calibration": chosen}
                # Decisions are cosines of what the backbone makes of two texts: what was trained need not be trained again.
                if "trained" in args.ways.split(","):
                    ways["calibrated"] |= {**UNTRAINED, "backbone__path": DEMO / f"trained-{seed}"}
            for way in args.ways.split(","):
                trained = cluster.train(job, f"{way}-{seed}", DEMO / f"{way}-{seed}", **{**common, **ways[way]})
                scores = test_scores(trained)["topic"]["metrics"]
                for figure in FIGURES:
                    found.add(f"{way}, {figure}", seed, 100 * scores[figure], trained["seconds"])
        if "trained" in args.ways.split(","):
            print("\nThe unseen classes, and two that exist nowhere in the data:\n", flush=True)
            labels = ",".join([*UNSEEN, "recipe", "law"])
            text = "".join(f"{one}\n" for one in SENTENCES)
            cluster.espalier("predict", "--model", DEMO / f"trained-{args.seeds[-1]}", "--labels", labels, text=text)
    found.show("on the test set, %")
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

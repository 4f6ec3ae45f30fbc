#!/usr/bin/env python3
"""Sentiment of reviews across products: labels of one kind, texts alone of another, tested on the other.

    ESPALIER_DATA=/path/to/data python3 recipes/reviews-adaptation/run.py --seeds 1,2,3

The folder must hold amazon_{books,dvd,electronics,kitchen}/{train,test}.parquet and
sst2/{train,validation,test}.parquet with the columns text and label. First all-MiniLM-L6-v2 learns from sentences about
films. Then each pair of products and each method is a task of one job, with an adapter and a head of its own; all read
the features of that encoder, which stays as it is, so they are computed once.
"""

import json
import shutil
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from cluster import REPO, SETS, Cluster, DemoError, Found, arguments, build, fields_of, link_data, run, test_scores

DEMO = REPO / ".espalier/demo/reviews-adaptation"
FILMS = [f"sst2/{split}.parquet" for split in ("train", "validation", "test")]
DOMAINS = ["books", "dvd", "electronics", "kitchen"]
ALL_PAIRS = [f"{source}-{target}" for source in DOMAINS for target in DOMAINS if source != target]
SOURCE_ONLY = "source"
METHODS = [SOURCE_ONLY, "dann", "cdan", "mmd", "jan", "coral", "mcc", "mdd", "entropy", "self_training", "bsp", "afn",
           "information_maximisation"]
# What differs from a method's defaults; mdd's is one, said here for peer.py.
SETTINGS = {"cdan": {"weight": 0.3}, "coral": {"weight": 10}, "mdd": {"weight": 0.1},
            "bsp": {"weight": 0.3, "params": {"penalty": 1e-5}}}


def task_of(task, pair, method):
    """A task for a pair of products and a method, made of the job file's."""
    source, target = pair.split("-")
    file = lambda domain, split: str(SETS / f"amazon_{domain}/{split}.parquet")
    data = {**task["data"], "train": file(source, "train"), "test": file(target, "test")}
    made = {**task, "name": f"{pair}-{method}", "data": data}
    if method != SOURCE_ONLY:
        made["adaptation"] = {"method": method, "target": {"train": file(target, "train")}, **SETTINGS.get(method, {})}
    return made


def whole_job(cluster, pairs, methods):
    """A job file with a task for each pair and method, whose batch has as many samples of each as job.yaml says."""
    done = cluster.espalier("validate", HERE / "job.yaml", "-o", "json", quiet=True)
    if done.returncode != 0:
        raise DemoError(f"{HERE}/job.yaml is not valid:\n{done.stderr}")
    job = json.loads(done.stdout)
    job["tasks"] = [task_of(job["tasks"][0], pair, method) for pair in pairs for method in methods]
    job["training"]["batch_size"] *= len(job["tasks"])
    # JSON is YAML, too.
    file = cluster.folder / "job.yaml"
    file.write_text(json.dumps(job, indent=1) + "\n")
    return file


def main():
    parser = arguments(__doc__)
    parser.add_argument("--pairs", default="all", help="all, or some of: " + ", ".join(ALL_PAIRS))
    parser.add_argument("--methods", default=",".join(METHODS), help="default: %(default)s")
    args = parser.parse_args()
    pairs = ALL_PAIRS if args.pairs == "all" else args.pairs.split(",")
    methods = args.methods.split(",")
    for what, given, known in (("pair", pairs, ALL_PAIRS), ("method", methods, METHODS)):
        for name in given:
            if name not in known:
                raise DemoError(f"there is no {what} {name}; expected some of {', '.join(known)}")
    link_data(*FILMS, *(f"amazon_{domain}/{split}.parquet" for domain in DOMAINS for split in ("train", "test")))
    build()
    shutil.rmtree(DEMO, ignore_errors=True)
    found, means = Found(), Found()
    with Cluster(DEMO) as cluster:
        file = whole_job(cluster, pairs, methods)
        for seed in args.seeds:
            films = DEMO / f"films-{seed}"
            cluster.train(HERE / "films.yaml", f"films-{seed}", films, seed=seed)
            job = cluster.train(file, f"reviews-{seed}", DEMO / f"reviews-{seed}", seed=seed, backbone__path=films, **fields_of(args))
            scores = test_scores(job)
            for method in methods:
                own = {pair: 100 * scores[f"{pair}-{method}"]["metrics"]["accuracy"] for pair in pairs}
                for pair, score in own.items():
                    found.add(f"{pair}, {method}", seed, score, job["seconds"] / len(scores))
                means.add(f"mean, {method}", seed, statistics.mean(own.values()), job["seconds"] / len(methods))
    found.show("accuracy on the target, %")
    means.show(f"mean over {len(pairs)} pairs, %")
    found.rows.update(means.rows)
    found.keep(args.json)


if __name__ == "__main__":
    run(main)

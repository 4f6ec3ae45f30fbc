#!/usr/bin/env python3
"""Compares the balancers on four real data sets: SST-2, AG News, TREC, SNIPS intents.

Every method and seed is one job that trains all four tasks on a local cluster of two workers with one
rank each; beside them each task is trained alone, on the same samples in the same order. Ended jobs
are kept in a JSON Lines file and not run again, so a run can be stopped at any time and goes on later.

  real_tasks.py --plan     how many jobs are left, and about how long they take
  real_tasks.py            runs them, seed by seed, and prints the tables
  real_tasks.py --table    prints the tables and appends them to RESULTS.md (--dry: prints only)
"""

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import ours
import real_data
import real_table

REPO = ours.REPO
HOME = REPO / ".espalier/bench-tasks"
TASKS = real_data.TASKS
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
# Seconds of a job before any has been measured: what it takes beside its steps, and per step.
GUESS = {"multi": (35, 1.0), "single": (15, 0.8)}


class ClusterLost(Exception):
    """The cluster did not answer; the job is no worse for it."""


def methods():
    """All methods that training supports, in the order of `espalier balance --list`: [(name, class)]."""
    command = [ours.BIN / "espalier", "balance", "--list", "-o", "json"]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return [(one["name"], one["class"]) for one in listed if one["class"] != "representation"]


def params(steps):
    """Parameters of methods that count in epochs, which runs this short have none of."""
    return {"dwa": {"window": max(1, steps // 8)}, "stch": {"warmup": 0}}


def settings(args):
    """What has to be alike for results to be compared."""
    return {"steps": args.steps, "batch_size": args.batch, "max_tokens": args.max_tokens,
            "learning_rate": args.lr, "test": args.test}


def jobs(args, listed):
    """All jobs in the order in which they run: whole seeds, single tasks before methods."""
    chosen = args.methods.split(",") if args.methods else [name for name, _ in listed]
    classes = dict(listed)
    unknown = [name for name in chosen if name not in classes]
    if unknown:
        sys.exit(f"real_tasks: error: training knows no method {unknown[0]}; it knows {', '.join(classes)}")
    for seed in args.seeds:
        for task in TASKS:
            yield {"kind": "single", "method": "mean", "seed": seed, "tasks": [task]}
        for name in chosen:
            yield {"kind": "multi", "method": name, "class": classes[name], "seed": seed, "tasks": TASKS,
                   "params": params(args.steps).get(name, {})}
            # Its times are not those of `equal`: gradients travel apart to be compared.
            if name == "equal":
                yield {"kind": "affinity", "method": name, "class": classes[name], "seed": seed, "tasks": TASKS}


def identity(row):
    """What makes a job the same one; rows of the results carry the settings, too."""
    return json.dumps([row["settings"], row["kind"], row["method"], row["seed"], row["tasks"], row.get("params") or {}], sort_keys=True)


def name_of(job):
    words = [job["tasks"][0] if job["kind"] == "single" else job["method"], job["kind"], f"seed-{job['seed']}"]
    return "t-" + "-".join(words).replace("_", "-")


def spec(job, files, args, folder):
    """The job file."""
    steps = args.steps if len(job["tasks"]) > 1 else max(1, args.steps // len(TASKS))
    balancer = {"method": job["method"]}
    if job.get("params"):
        balancer["params"] = job["params"]
    return {
        "name": name_of(job), "seed": job["seed"],
        "backbone": {"path": str(args.model), "max_tokens": args.max_tokens},
        "tasks": [{"name": task, "head": "single_label", "data": files[task]} for task in job["tasks"]],
        "sampler": "uniform", "balancer": balancer,
        "training": {"steps": steps, "batch_size": args.batch, "schedule": {"kind": "linear"},
                     "optimizer": {"learning_rate": args.lr}},
        "exchange": {"affinity": "on" if job["kind"] == "affinity" else "auto"},
        "checkpoint": {"every_steps": 0, "keep": 1},
        "output": str(folder / "export"),
    }


def answer(cluster, *words):
    return json.loads(cluster(*words, "-o", "json"))


def one(found, key):
    """The one job of an answer, whether it is a list, a page or the job itself."""
    found = found.get(key, found) if isinstance(found, dict) else found
    return found[0] if isinstance(found, list) else found


def follow(cluster, name):
    """Watches a job to its end: [(arrival, step)] of its progress, and its last progress."""
    seen, last = [], {}
    command = [ours.BIN / "espalier", "watch", name, "-o", "json"]
    with subprocess.Popen(command, env=cluster.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as watch:
        try:
            for line in watch.stdout:
                progress = json.loads(line).get("progress")
                if progress:
                    last = progress
                    seen.append((time.time(), int(progress["step"])))
        except BaseException:
            watch.kill()
            raise
    return seen, last


def ended(cluster, name):
    """Follows a job until it has ended; the job, and what `follow` saw of it."""
    seen, last = [], {}
    for _ in range(5):
        more, newest = follow(cluster, name)
        seen, last = seen + more, newest or last
        with contextlib.suppress(RuntimeError):
            job = one(answer(cluster, "get", name), "jobs")
            if job["state"] in ENDED:
                return job, seen, last
        time.sleep(3)
    raise ClusterLost(f"{name} could not be followed to its end; logs are in {cluster.folder}/logs")


def seconds(begin, end):
    return (datetime.fromisoformat(end.replace("Z", "+00:00")) - datetime.fromisoformat(begin.replace("Z", "+00:00"))).total_seconds()


def run(cluster, job, files, args):
    """Runs one job; its figures, or why there are none."""
    name, folder = name_of(job), cluster.folder / "work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "job.yaml").write_text(json.dumps(spec(job, files, args, folder)))
    begin, load = time.time(), os.getloadavg()[0]
    try:
        cluster("submit", folder / "job.yaml")
    except RuntimeError as error:
        try:
            cluster("workers")
        except RuntimeError:
            raise ClusterLost(str(error)) from error
        return {"state": "REFUSED", "reason": str(error)}
    late = threading.Event()
    timer = threading.Timer(args.patience, lambda: (late.set(), subprocess.run(
        [ours.BIN / "espalier", "cancel", name], env=cluster.env, capture_output=True)))
    timer.start()
    try:
        done, seen, last = ended(cluster, name)
        row = {"state": done["state"], "load": round(load, 2), "seconds_wall": round(time.time() - begin, 1)}
        if done["state"] == "SUCCEEDED":
            row.update(figures(done, seen, last))
        else:
            failure = done.get("failure") or {}
            reason = f"took longer than {args.patience:.0f} s" if late.is_set() else failure.get("message") or done.get("state_reason")
            row.update(code=failure.get("code"), reason=reason or "no reason given")
        if job["kind"] == "affinity" and done["state"] == "SUCCEEDED":
            try:
                row["affinity"] = answer(cluster, "affinity", name)
            except RuntimeError as error:
                row.update(state="FAILED", reason=f"trained, but told no affinity: {error}")
        return row
    finally:
        timer.cancel()
        clean(cluster, name, folder)


def figures(done, seen, last):
    """Test scores and times of a job that succeeded."""
    row = {}
    test = next((found for found in done.get("evaluations", []) if found["split"] == "test"), None)
    if test is None:
        return {"state": "FAILED", "reason": "it brought no evaluation on its test files"}
    for field, key in (("accuracy", "metrics"), ("majority", "baseline")):
        row[field] = {task: scores[key]["accuracy"] for task, scores in test["tasks"].items()}
    row["test_samples"] = {task: int(scores["samples"]) for task, scores in test["tasks"].items()}
    row["test_loss"] = {task: scores["loss"] for task, scores in test["tasks"].items()}
    if done.get("start_time") and done.get("end_time"):
        row["seconds_job"] = round(seconds(done["start_time"], done["end_time"]), 2)
    # Steps alone, without loading, evaluation and export; the first steps seen are the zero point.
    if len(seen) > 1 and seen[-1][1] > seen[0][1]:
        (from_time, from_step), (to_time, to_step) = seen[0], next(found for found in seen if found[1] == seen[-1][1])
        row["seconds_per_step"] = round((to_time - from_time) / (to_step - from_step), 4)
    exchange = last.get("exchange") or {}
    row["fallbacks"], row["skipped_tasks"] = int(exchange.get("fallbacks") or 0), int(exchange.get("skipped_tasks") or 0)
    if exchange.get("last_fallback"):
        row["last_fallback"] = exchange["last_fallback"]
    return row


def clean(cluster, name, folder):
    """Checkpoints and exports of ended jobs are not kept: they take a few hundred megabytes each."""
    with contextlib.suppress(RuntimeError):
        cluster("delete", name)
    shutil.rmtree(folder, ignore_errors=True)
    for path in cluster.folder.glob("**/step-*"):
        shutil.rmtree(path, ignore_errors=True)


def read(path):
    """Rows of the results so far; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def append(path, row):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        file.seek(0)
        text = file.read()
        file.write(("\n" if text and not text.endswith("\n") else "") + json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def left(args, listed, rows):
    """Jobs that are still to run; with --again, failed ones are, too."""
    there = {identity(row) for row in rows if row["state"] == "SUCCEEDED" or not args.again}
    return [job for job in jobs(args, listed) if identity({**job, "settings": settings(args)}) not in there]


def estimate(todo, rows, args):
    """Seconds that these jobs take, by the median of those alike that ended well."""
    def kind_of(job):
        return "single" if job["kind"] == "single" else "multi"

    def cost(job):
        alike = [row["seconds_wall"] for row in rows if row["state"] == "SUCCEEDED" and row["settings"] == settings(args)
                 and kind_of(row) == kind_of(job)]
        fixed, step = GUESS[kind_of(job)]
        return statistics.median(alike) if alike else fixed + step * args.steps / (len(TASKS) if kind_of(job) == "single" else 1)

    return sum(cost(job) for job in todo)


def duration(amount):
    return f"{amount / 3600:.1f} h" if amount >= 5400 else f"{amount / 60:.0f} min"


def commit():
    word = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPO, capture_output=True, text=True).stdout.strip()
    return word or "no commit"


@contextlib.contextmanager
def cluster_in(folder):
    """A new local cluster; one that an earlier run left behind is stopped first."""
    if folder.is_dir():
        subprocess.run([ours.BIN / "espalier", "down", "--dir", folder], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
    with ours.Cluster(folder, 2) as cluster:
        yield cluster


def train(args, todo, total):
    """Runs what is left; a cluster that is lost is replaced, and the job tried once more."""
    files = real_data.prepare(args.data, HOME / "data", args.test)
    queue, failures, lost = list(todo), 0, set()
    while queue:
        try:
            with cluster_in(HOME / "cluster") as cluster:
                failures = 0
                work(cluster, queue, lost, files, args, total)
        except RuntimeError as error:
            failures += 1
            print(f"local cluster: {error}", flush=True)
            if failures == 3:
                sys.exit("real_tasks: error: the local cluster does not come up, see above; what has ended is kept")


def work(cluster, queue, lost, files, args, total):
    """Runs jobs until none is left or the cluster is lost; a job that was under way then for the
    second time has failed."""
    while queue:
        job = queue[0]
        try:
            row = run(cluster, job, files, args)
        except (ClusterLost, RuntimeError) as error:
            print(f"the cluster was lost under {name_of(job)}: {error}", flush=True)
            if name_of(job) not in lost:
                lost.add(name_of(job))
                return
            row = {"state": "FAILED", "code": "cluster_lost", "reason": str(error)}
        del queue[0]
        record(args, job, row, total - len(queue), total, queue)
        if row.get("code") == "cluster_lost":
            return


def record(args, job, row, number, total, queue):
    """Keeps a row and says so in one line."""
    if row.get("reason"):
        # Tables name no folders of this machine.
        for folder, word in ((args.data, "DATA"), (args.model, "MODEL"), (REPO, ".")):
            row["reason"] = row["reason"].replace(str(folder), word)
    append(args.results, {"settings": settings(args), **job, **row, "commit": commit(), "time": datetime.now().isoformat(timespec="seconds")})
    label = job["tasks"][0] + " alone" if job["kind"] == "single" else job["method"] + (" with affinity" if job["kind"] == "affinity" else "")
    if row["state"] == "SUCCEEDED":
        scores = " ".join(f"{task} {100 * row['accuracy'][task]:.1f}" for task in job["tasks"])
        told = f"{row['seconds_wall']:.0f} s, {scores}"
    else:
        told = f"{row['state']}: {row.get('reason')}"
    rest = f"about {duration(estimate(queue, read(args.results), args))} left" if queue else "done"
    print(f"[{number}/{total}] seed {job['seed']}, {label}: {told}; {rest}", flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=240, help="steps of a job with all tasks (240)")
    parser.add_argument("--batch", type=int, default=32, help="samples of a step, all tasks together (32)")
    parser.add_argument("--max-tokens", type=int, default=64, help="longest input (64)")
    parser.add_argument("--lr", type=float, default=2e-4, help="learning rate of the backbone; heads ten times that (2e-4)")
    parser.add_argument("--test", type=int, default=1000, help="at most so many test samples of a task (1000)")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (0,1,2)")
    parser.add_argument("--methods", help="comma-separated; default: all that training supports")
    parser.add_argument("--results", type=Path, default=HOME / "results.jsonl", help="the JSON Lines file")
    parser.add_argument("--patience", type=float, default=3600, help="seconds after which a job is cancelled (3600)")
    parser.add_argument("--again", action="store_true", help="run failed jobs again")
    parser.add_argument("--plan", action="store_true", help="tell what is left and run nothing")
    parser.add_argument("--table", action="store_true", help="print the tables, append them to RESULTS.md, run nothing")
    parser.add_argument("--dry", action="store_true", help="with --table: print only")
    args = parser.parse_args()
    try:
        args.seeds = [int(seed) for seed in args.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds is {args.seeds}: whole numbers separated by commas are expected")
    args.data = (REPO / os.environ.get("ESPALIER_DATA", "../shared/data")).resolve()
    args.model = Path(os.environ.get("ESPALIER_MINILM") or REPO / ".espalier/models/all-MiniLM-L6-v2").resolve()
    return args


def main():
    args = arguments()
    rows = read(args.results)
    if args.table:
        real_table.show(rows, None if args.dry else REPO / "tests/bench/RESULTS.md")
        return
    if not (ours.BIN / "espalier").is_file():
        sys.exit(f"real_tasks: error: no espalier in {ours.BIN}: run 'make build'")
    listed = methods()
    todo, total = left(args, listed, rows), len(list(jobs(args, listed)))
    if args.plan:
        print(f"{total} jobs ({len(args.seeds)} seeds), {len(todo)} left: about {duration(estimate(todo, rows, args))}")
        return
    if not (args.model / "model.safetensors").is_file():
        sys.exit(f"real_tasks: error: no model in {args.model}: run 'make setup', or set ESPALIER_MINILM")
    HOME.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with open(HOME / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("real_tasks: error: another run is under way here")
        train(args, todo, total)
    real_table.show(read(args.results), None)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"real_tasks: error: {error}; what has ended is kept")
    except KeyboardInterrupt:
        sys.exit(130)

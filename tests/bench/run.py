#!/usr/bin/env python3
"""Runs Espalier and its peers in turns on this machine, prints one table, appends it to RESULTS.md.

Peers: PyTorch DDP over Gloo as one usually writes it (padding to the longest of the batch), the same
with length grouping, and Gloo's all-reduce. Each round runs all of them; a figure is the median.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ours
import real_data

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
MODEL = REPO / ".espalier/models/all-MiniLM-L6-v2"
DATA = REPO / ".espalier/data/debian-packages/section.train.jsonl"
BYTES = 88_000_000


def peer(script, *words):
    env = {**os.environ, "ESPALIER_BENCH_BEGIN": str(time.time())}
    # The peer must find PyTorch's own libraries, not those that our binaries use.
    env.pop("LD_LIBRARY_PATH", None)
    command = [sys.executable, HERE / script, *map(str, words)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{script} failed: {done.stderr.strip()[-1500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def contestants(args, folder):
    """{name: () -> figures} in the order in which a round runs them."""
    ddp = ["--model", MODEL, "--data", args.data, "--steps", args.steps, "--warmup", args.warmup]
    return {
        "espalier": lambda turn: ours.train(folder / f"espalier-{turn}", args.data, args.steps, args.warmup),
        "espalier, snapshots": lambda turn: ours.train(folder / f"snapshots-{turn}", args.data, args.steps, args.warmup, snapshots=True),
        "DDP": lambda turn: peer("ddp_peer.py", *ddp),
        "DDP, length grouping": lambda turn: peer("ddp_peer.py", *ddp, "--group-by-length"),
        "all-reduce of espalier": lambda turn: ours.all_reduce(BYTES),
        "all-reduce of Gloo": lambda turn: {"tcp": peer("gloo_allreduce.py", "--bytes", BYTES)},
    }


def data(text):
    """A file of JSON Lines: of a Parquet file its texts and labels, written anew beside the demo's data."""
    path = Path(text).resolve()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no file {path}")
    if path.suffix != ".parquet":
        return path
    return real_data.once(REPO / f".espalier/data/bench/{path.parent.name}.{path.stem}.jsonl",
                          lambda: real_data.rows(path.parent.parent, path.parent.name, path.stem))


def middle(results, field):
    values = [result[field] for result in results if field in result]
    return statistics.median(max(value) if isinstance(value, list) else value for value in values) if values else None


def cell(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"


def table(found):
    """Markdown lines: training first, then the all-reduce; ratios are espalier over the peer."""
    fields = ["samples_per_second", "peak_rss_mb", "seconds_to_first_step", "seconds_to_first_step_warm", "padding"]
    lines = []
    training = {name: results for name, results in found.items() if "padding" in results[0]}
    if training:
        lines += ["| training, global batch 32, 2 ranks x 1 thread | samples/s | peak memory per rank, MB "
                  "| command to first step, s | the same on a cluster that is up | padding |",
                  "| --- | --- | --- | --- | --- | --- |"]
    for name, results in training.items():
        lines.append(f"| {name} | " + " | ".join(cell(middle(results, field)) for field in fields) + " |")
    for name, results in training.items():
        if name != "espalier" and "espalier" in training:
            ratios = [middle(training["espalier"], field) / middle(results, field) for field in fields[:3]]
            lines.append(f"| **espalier / {name}** | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " | | |")
    gloo = statistics.median(result["tcp"]["median_ms"] for result in found["all-reduce of Gloo"]) if "all-reduce of Gloo" in found else None
    reduces = {name: results for name, results in found.items() if "padding" not in results[0]}
    if reduces:
        lines += ["", f"| all-reduce of {BYTES / 1e6:.0f} MB, 2 processes | median ms | Gloo over this |", "| --- | --- | --- |"]
    for name, results in reduces.items():
        for transport in (way for way in ("shm", "tcp") if way in results[0]):
            median = statistics.median(result[transport]["median_ms"] for result in results)
            lines.append(f"| {name}, {transport} | {median:.1f} | {cell(gloo / median if gloo else None)} |")
    return lines


def title():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPO, capture_output=True, text=True).stdout.strip()
    return f"## {datetime.date.today().isoformat()}, {commit or 'no commit'}: {model}, {os.cpu_count()} CPUs"


def keep(lines, dry=False):
    """Prints the lines of a part and, unless `dry`, appends them to RESULTS.md."""
    print("\n" + "\n".join(lines), flush=True)
    if not dry:
        with open(HERE / "RESULTS.md", "a") as file:
            file.write("\n" + "\n".join(lines) + "\n")


def heading(args):
    return [title(), "", f"`make bench` = `python3 tests/bench/run.py --rounds {args.rounds} --steps {args.steps} --warmup {args.warmup}{'' if args.data == DATA else f' --data {args.data.name}'}`; "
            f"median of {args.rounds} rounds, contestants in turns.", ""]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="measured steps")
    parser.add_argument("--warmup", type=int, default=10, help="steps before them")
    parser.add_argument("--only", help="contestants to run, by how their names begin, comma-separated")
    parser.add_argument("--data", type=data, default=DATA, help="JSON Lines or Parquet with text and label (default: the demo's task section)")
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md as it is")
    args = parser.parse_args()
    if args.data == DATA and not DATA.is_file():
        subprocess.run([sys.executable, REPO / "recipes/debian-packages/build.py"], check=True)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        runs = contestants(args, Path(name))
        chosen = [run for run in runs if not args.only or any(run.startswith(part) for part in args.only.split(","))]
        for turn in range(args.rounds):
            for run in chosen:
                print(f"round {turn + 1} of {args.rounds}: {run}", flush=True)
                found.setdefault(run, []).append(runs[run](turn))
    keep(heading(args) + table(found), args.dry)


if __name__ == "__main__":
    main()

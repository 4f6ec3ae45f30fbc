#!/usr/bin/env python3
"""What being able to lose a machine costs: snapshots in memory as a share of the steps, and how long a checkpoint stops training.

    python3 tests/bench/durable.py

Two workers of one rank and one thread each train recipes/digits/digit.yaml (a small transformer of images) and
tests/bench/job.yaml (all-MiniLM-L6-v2, 22 million parameters), with the snapshots that a job has which does not say
otherwise and a checkpoint every so many steps; what they count of themselves is read from /metrics. Every figure is the
worse one of the two workers.
"""

import argparse
import socket
import sys
import tempfile
import urllib.request
from pathlib import Path

import ours
import secure
from ours import REPO

DIGITS = ["--set", "training.steps=1500", "--set", "checkpoint.every_steps=100", "--set", "evaluation.every_steps=1500"]
MINILM = ["--set", "training.steps=100", "--set", "checkpoint.every_steps=10", "--set", "recovery={}"]
JOBS = {"digits": (secure.JOB, DIGITS), "MiniLM": (ours.JOB, MINILM)}


class Watched(secure.Cluster):
    """A cluster in plain text whose workers show their counts."""

    def __init__(self, folder):
        super().__init__(folder, tls=False)
        self.ports = []

    def start(self, name, program, *words):
        if program == "espalier-worker":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.ports.append(free.getsockname()[1])
            words = [*words, "--status-listen", f"127.0.0.1:{self.ports[-1]}"]
        super().start(name, program, *words)

    def counts(self):
        """{series without the prefix: value} of each worker."""
        return [self.read(port) for port in self.ports]

    @staticmethod
    def read(port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("espalier_worker_"))
        return {name.removeprefix("espalier_worker_"): float(value) for name, value in pairs}


def longest(counts, series):
    """Upper bound of the bucket that the longest of a histogram's times is in, seconds."""
    count = counts[f"{series}_count"]
    bounds = [(float(name.split('le="')[1].rstrip('"}')), value) for name, value in counts.items() if name.startswith(f"{series}_bucket")]
    return min(bound for bound, value in bounds if value == count)


def measure(folder, job, more):
    with Watched(folder) as cluster:
        cluster.espalier("submit", job, "--name", "durable", "--set", f"output={folder}/export", *more)
        cluster.espalier("watch", "durable")
        found = cluster.counts()
    if not all(counts.get("steps_total") for counts in found):
        steps = [counts.get("steps_total") for counts in found]
        raise RuntimeError(f"workers count {steps} steps; logs are in {folder}")
    return found


def row(name, found):
    snapshot, pause, step = "snapshot_duration_seconds", "checkpoint_pause_seconds", "step_duration_seconds"
    worst = lambda value: max(map(value, found))
    mean = lambda counts, series: counts[f"{series}_sum"] / max(counts[f"{series}_count"], 1)
    return [
        name,
        f"{found[0]['steps_total']:.0f}",
        f"{1000 * worst(lambda c: mean(c, step)):.0f}",
        f"{worst(lambda c: c[f'{snapshot}_count']):.0f}",
        f"{1000 * worst(lambda c: mean(c, snapshot)):.1f}",
        f"{100 * worst(lambda c: c[f'{snapshot}_sum'] / c[f'{step}_sum']):.2f}",
        f"{worst(lambda c: c[f'{pause}_count']):.0f}",
        f"{1000 * worst(lambda c: mean(c, pause)):.1f}",
        f"{1000 * worst(lambda c: longest(c, pause)):.0f}",
        f"{worst(lambda c: mean(c, pause) / mean(c, step)):.3f}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default=",".join(JOBS), help="which of: %(default)s")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    for file, how in ((REPO / ".espalier/data/digits/digit.train.jsonl", "recipes/digits/build.py"),
                      (REPO / ".espalier/data/debian-packages/section.train.jsonl", "recipes/debian-packages/build.py")):
        if not file.is_file():
            sys.exit(f"no {file}: python3 {how}")
    print("| job | steps | a step, ms | snapshots | one, ms | of the steps' time, % | checkpoints | training stood still, ms "
          "| not longer than, ms | in steps |\n" + "| --- " * 10 + "|")
    with tempfile.TemporaryDirectory(prefix="espalier-durable-") as folder:
        for turn in range(args.turns):
            for name in args.jobs.split(","):
                job, more = JOBS[name]
                found = measure(Path(folder) / f"{name}-{turn}", job, more)
                print("| " + " | ".join(row(name, found)) + " |", flush=True)


if __name__ == "__main__":
    main()

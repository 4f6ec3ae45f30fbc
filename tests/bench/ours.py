"""Espalier's side of the benchmark: the same figures as the peers print, through its own commands."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
BIN = Path(os.environ.get("ESPALIER_BIN_DIR") or TARGET / "debug")
ALL_REDUCE = Path(os.environ.get("ESPALIER_BENCH_ALLREDUCE") or TARGET / "debug/examples/bench_allreduce")
JOB = REPO / "tests/bench/job.yaml"


class Cluster:
    """`espalier up` with one worker per rank, in a folder of its own."""

    def __init__(self, folder, ranks):
        self.folder, self.ranks = folder, ranks

    def __enter__(self):
        self.env = {**os.environ, "ESPALIER_BIN_DIR": str(BIN)}
        self("up", "--dir", self.folder, "--workers", self.ranks, "--listen", "127.0.0.1:0", "--detach", "--quiet")
        up = json.loads((self.folder / "up.json").read_text())
        self.env["ESPALIER_SERVER"] = up["server"]
        self.workers = [one["pid"] for one in up["processes"] if one["name"].startswith("worker")]
        return self

    def __exit__(self, *_):
        self("down", "--dir", self.folder)

    def __call__(self, *words):
        done = subprocess.run([BIN / "espalier", *map(str, words)], env=self.env, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"espalier {words[0]} failed: {(done.stderr or done.stdout).strip()[-1500:]}")
        return done.stdout

    def run(self, name, data, steps, pooling, more=()):
        """(step, samples, seconds of training so far) per step seen, and the wall-clock time at
        which the first step had ended. A job's events carry the coordinator's time; progress does
        not, so that one's time is when it arrives here."""
        begin = time.time()
        self("submit", JOB, "--name", name, "--set", f"training.steps={steps}", "--set", f"backbone.pooling={pooling}",
             "--set", f"tasks[0].data.train={json.dumps([str(data)])}", *more)
        command = [BIN / "espalier", "watch", name, "-o", "json"]
        seen, last = [], ""
        with subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, text=True) as watch:
            for line in watch.stdout:
                update = json.loads(line)
                if update.get("progress"):
                    progress = update["progress"]
                    seen.append((time.time(), int(progress["step"]), int(progress["samples"])))
                elif update.get("event"):
                    last = update["event"].get("message", "")
                    if update["event"]["state"] == "QUEUED" and seen:
                        raise RuntimeError(f"the job was started anew while it was measured: {last}")
        if watch.returncode != 0 or not seen:
            raise RuntimeError(f"job {name} did not succeed: {last}; logs are in {self.folder}/logs")
        return begin, seen


def train(folder, data, steps, warmup, ranks=2, pooling="pooler", snapshots=False):
    """Trains tests/bench/job.yaml on the file `data`, on a fresh local cluster of `ranks` workers with one thread each,
    after a job of a single step, which tells how fast a job begins on a cluster that is up. With `snapshots`
    ranks hold snapshots for each other, as jobs do that do not say otherwise."""
    more = ["--set", "recovery={}"] if snapshots else []
    begin = time.time()
    with Cluster(folder, ranks) as cluster:
        _, progress = cluster.run("bench", data, steps + warmup, pooling, more)
        memory = [peak_rss_mb(pid) for pid in cluster.workers]
        from_nothing = progress[0][0] - begin
        submitted, short = cluster.run("short", data, 1, pooling)
        threads = logged_threads(folder)
    # Steps that are over at the same moment are one in the watch: what counts is samples by time.
    moments = [one for one in progress if one[1] >= warmup]
    (from_time, from_step, from_samples), (to_time, to_step, to_samples) = moments[0], moments[-1]
    return {
        "samples_per_second": round((to_samples - from_samples) / (to_time - from_time), 2),
        "peak_rss_mb": [round(value, 1) for value in memory],
        "seconds_to_first_step": round(from_nothing, 2),
        "seconds_to_first_step_warm": round(short[0][0] - submitted, 2),
        "padding": 1.0,
        "steps": to_step - from_step,
        "threads": threads,
    }


def logged_threads(folder):
    """Compute threads per rank, as the workers said when they started."""
    text = "".join(path.read_text(errors="replace") for path in sorted((folder / "logs").glob("worker*")))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return sorted({int(number) for number in re.findall(r"threads_per_rank=(\d+)", plain)})


def all_reduce(size, turns=20):
    """Median milliseconds of an all-reduce of `size` bytes between two processes of this host, over
    shared memory and over TCP."""
    command = [ALL_REDUCE, "--json", "--bytes", str(size), "--rounds", str(turns)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_rss_mb(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

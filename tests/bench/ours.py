"""Espalier's side of the benchmark: the same figures as the peers print, through its own commands."""

import json
import os
import subprocess
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "release"
JOB = REPO / "tests/bench/job.yaml"


def train(folder, steps, warmup, ranks=2):
    """Trains tests/bench/job.yaml on a fresh local cluster of `ranks` workers with one thread each."""
    folder.mkdir(parents=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    begin = time.time()
    with open(folder / "up.log", "w") as log:
        up = subprocess.Popen([BIN / "espalier", "up", "--workers", str(ranks)], cwd=folder, env=env, stdout=log, stderr=log)
    try:
        _submit(folder, env, steps + warmup)
        progress = list(_watch(folder, env))
        memory = [peak_rss_mb(pid) for pid in descendants(up.pid) if name_of(pid) == "espalier-worker"]
    finally:
        up.terminate()
        up.wait(timeout=20)
    moments = [(seen, step) for seen, step in progress if step >= warmup]
    (from_time, from_step), (to_time, to_step) = moments[0], moments[-1]
    return {
        "samples_per_second": round((to_step - from_step) * 32 / (to_time - from_time), 2),
        "peak_rss_mb": [round(value, 1) for value in memory],
        "seconds_to_first_step": round(next(seen for seen, step in progress if step >= 1) - begin, 2),
        "padding": 1.0,
        "steps": to_step - from_step,
    }


def _submit(folder, env, steps):
    command = [BIN / "espalier", "submit", JOB, "--set", f"training.steps={steps}"]
    deadline = time.time() + 60
    while subprocess.run(command, cwd=folder, env=env, capture_output=True).returncode != 0:
        if time.time() > deadline:
            raise RuntimeError(f"the job could not be submitted, see {folder}/up.log")
        time.sleep(0.02)


def _watch(folder, env):
    """(time seen, steps done) for each progress that the watch shows, until the job ends."""
    command = [BIN / "espalier", "watch", "bench", "-o", "json"]
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as watch:
        for line in watch.stdout:
            progress = json.loads(line).get("progress")
            if progress:
                yield time.time(), int(progress.get("step", 0))


def all_reduce(transport, size, turns=20):
    """Median milliseconds of an all-reduce of `size` bytes between two processes of this host."""
    command = [BIN / "espalier-worker", "bench", "all-reduce", "--transport", transport, "--bytes", str(size), "--turns", str(turns)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def descendants(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid] + [deeper for child in children for deeper in descendants(int(child))]


def name_of(pid):
    return Path(os.readlink(f"/proc/{pid}/exe")).name


def peak_rss_mb(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

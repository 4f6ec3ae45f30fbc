#!/usr/bin/env python3
"""What TLS costs a job's steps, and encryption an exchange between hosts; prints tables for RESULTS.md.

    python3 tests/bench/secure.py --turns 5

In turns, on this machine: recipes/digits/digit.yaml on a coordinator and two workers that speak plain text, and on the
same with TLS, a certificate for each, and a coordinator that lets in nobody without one. Beside the time of a step stand
the processors' time of all its processes and the coordinator's part of that. Then an all-reduce of 88 MB between two
processes over TCP, in plain text and sealed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ours import ALL_REDUCE, BIN, REPO

JOB = REPO / "recipes/digits/digit.yaml"
WARM = 100


class Cluster:
    """A coordinator and two workers of one thread each, with certificates or in plain text."""

    def __init__(self, folder, tls):
        self.folder, self.tls, self.running = folder, tls, []
        folder.mkdir()

    def __enter__(self):
        self.env = {**os.environ}
        if self.tls:
            self.espalier("certs", "ca")
            self.espalier("certs", "coordinator", "c", "--host", "127.0.0.1")
            self.espalier("certs", "admin", "ada")
            for name in ("one", "two"):
                self.espalier("certs", "worker", name)
        try:
            self.start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start_all(self):
        ready = self.folder / "ready"
        who = self.shown("coordinator-c", "--tls-client-ca") if self.tls else []
        self.start("coordinator", "espalier-coordinator", "--listen", "127.0.0.1:0", "--data-dir", "state", "--ready-file", ready, *who)
        deadline = time.monotonic() + 30
        while not ready.is_file() or not ready.read_text().strip():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the coordinator did not start: {self.folder}/coordinator.log")
            time.sleep(0.05)
        server = f"{'https' if self.tls else 'http'}://{ready.read_text().strip()}"
        self.env["ESPALIER_SERVER"] = server
        if self.tls:
            for name, file in (("CA", "ca.crt"), ("CERT", "tls.crt"), ("KEY", "tls.key")):
                self.env[f"ESPALIER_TLS_{name}"] = str(self.folder / "certs/admin-ada" / file)
        for name in ("one", "two"):
            who = self.shown(f"worker-{name}", "--tls-ca") if self.tls else []
            self.start(name, "espalier-worker", "run", "--coordinator", server, "--name", name, "--ranks", "1", "--threads", "1",
                       "--data-dir", "data", *who)

        # A job takes the workers that are there when it is placed.
        while self.ready() < 2:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the workers did not join: {self.folder}/one.log")
            time.sleep(0.05)

    def ready(self):
        workers = json.loads(self.espalier("workers", "-o", "json"))
        workers = workers.get("workers", []) if isinstance(workers, dict) else workers
        return sum(worker.get("state") == "READY" for worker in workers)

    def shown(self, holder, ca):
        folder = self.folder / "certs" / holder
        return ["--tls-cert", folder / "tls.crt", "--tls-key", folder / "tls.key", ca, folder / "ca.crt"]

    def start(self, name, program, *words):
        log = open(self.folder / f"{name}.log", "w")
        # What the client shows is not what a worker shows.
        env = {key: value for key, value in self.env.items() if not key.startswith("ESPALIER_TLS")}
        self.running.append(subprocess.Popen([str(BIN / program), *map(str, words)], cwd=self.folder, env=env, stdout=log, stderr=log))

    def espalier(self, *words):
        done = subprocess.run([BIN / "espalier", *map(str, words)], cwd=self.folder, env=self.env, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"espalier {words[0]} failed: {(done.stderr or done.stdout).strip()[-1500:]}")
        return done.stdout

    def __exit__(self, *_):
        for process in reversed(self.running):
            process.terminate()
        for process in self.running:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()

    def processor_seconds(self):
        """What coordinator and workers have used, user and system, and the coordinator's of it."""
        parents, used = {}, {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                # The name in brackets may hold spaces.
                fields = stat.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            pid = int(stat.parent.name)
            parents[pid], used[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
        family = {process.pid for process in self.running}
        while more := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= more
        ticks = os.sysconf("SC_CLK_TCK")
        return sum(used.get(pid, 0) for pid in family) / ticks, used.get(self.running[0].pid, 0) / ticks

    def milliseconds(self, steps):
        """Mean time of a step after the first ones, by when the watch hears of them, and the processors' time for it."""
        self.espalier("submit", JOB, "--name", "secure", "--set", f"training.steps={steps}", "--set", f"output={self.folder}/export",
                      "--set", f"evaluation.every_steps={steps}", "--set", "checkpoint.every_steps=0")
        seen = []
        command = [BIN / "espalier", "watch", "secure", "-o", "json"]
        with subprocess.Popen(command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, text=True) as watch:
            for line in watch.stdout:
                progress = json.loads(line).get("progress")
                if progress and int(progress["step"]) >= WARM:
                    seen.append((int(progress["step"]), (time.monotonic(), *self.processor_seconds())))
        if watch.returncode != 0 or len(seen) < 2:
            raise RuntimeError(f"the job did not succeed; logs are in {self.folder}")
        (first, before), (last, after) = seen[0], seen[-1]
        return [1000 * (late - early) / (last - first) for early, late in zip(before, after)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    if not ALL_REDUCE.is_file():
        sys.exit(f"no {ALL_REDUCE}: cargo build -p espalier-comm --example bench_allreduce")
    if not (REPO / ".espalier/data/digits/digit.train.jsonl").is_file():
        sys.exit("no data: python3 recipes/digits/build.py")
    found = {"plain": [], "tls": []}
    used = {"plain": [], "tls": []}
    leader = {"plain": [], "tls": []}
    sums = {"plain": [], "sealed": []}
    with tempfile.TemporaryDirectory(prefix="espalier-secure-") as folder:
        for turn in range(args.turns):
            # Who goes first changes: a machine that slows down favours nobody.
            for name in list(found)[:: 1 if turn % 2 == 0 else -1]:
                with Cluster(Path(folder) / f"{name}-{turn}", name == "tls") as cluster:
                    for into, value in zip((found, used, leader), cluster.milliseconds(args.steps)):
                        into[name].append(value)
                print(f"turn {turn}, {name}: {found[name][-1]:.2f} ms a step, {used[name][-1]:.2f} of the processors, "
                      f"{leader[name][-1]:.2f} the coordinator's", flush=True)
            for name in sums:
                command = [ALL_REDUCE, "--json", "--rounds", "20", *(["--encrypted"] if name == "sealed" else [])]
                done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
                sums[name].append(json.loads(done.stdout)["tcp"]["median_ms"])
                print(f"turn {turn}, all-reduce, {name}: {sums[name][-1]:.1f} ms", flush=True)
    for what, all_of in (("a step, ms", found), ("processors' time of a step, ms", used), ("the coordinator's of it", leader),
                         ("all-reduce of 88 MB over TCP, ms", sums)):
        base, other = all_of
        ratios = [b / a for a, b in zip(all_of[base], all_of[other])]
        print(f"\n| {what} | median | each |\n| --- | --- | --- |")
        for name, values in all_of.items():
            print(f"| {name} | {statistics.median(values):.2f} | {', '.join(f'{value:.2f}' for value in values)} |")
        print(f"| {other} over {base}, turn by turn | {statistics.median(ratios):.3f} | {', '.join(f'{ratio:.3f}' for ratio in ratios)} |")


if __name__ == "__main__":
    main()

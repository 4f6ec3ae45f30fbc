"""What the recipes' demo scripts share: a local cluster for as long as one runs, jobs, tables."""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
ESPALIER = str(TARGET / "debug/espalier")
SETS = REPO / ".espalier/data/sets"
FAST = os.environ.get("DEMO_FAST", "") not in ("", "0")


class DemoError(Exception):
    """A step of the demo failed; the message says which and what to do."""


def build():
    """Builds the binaries; cargo says what is wrong where that fails. ESPALIER_NO_BUILD=1 takes what is there."""
    if os.environ.get("ESPALIER_NO_BUILD", "") not in ("", "0"):
        return
    settings = REPO / ".espalier/env.sh"
    if not settings.is_file():
        raise DemoError(f"no {settings}: run 'make setup' first, which brings libtorch and the pretrained model")
    # Says where libtorch is; another place than the last time's would compile everything anew.
    command = ["bash", "-c", '. "$0"; exec cargo build --workspace --bins', settings]
    if subprocess.run(command, cwd=REPO).returncode != 0:
        raise DemoError("the binaries could not be built, see cargo's message above")


def link_data(*files):
    """Makes the folder ESPALIER_DATA known where job files look for it; `files` must be in it."""
    source = Path(os.environ.get("ESPALIER_DATA", REPO.parent / "shared/data")).resolve()
    for file in files:
        if not (source / file).is_file():
            raise DemoError(f"no {file} in {source}: set ESPALIER_DATA to the folder of the data sets")
    # Others may run beside this one, with the same link.
    if SETS.is_symlink() and SETS.resolve() == source:
        return
    SETS.parent.mkdir(parents=True, exist_ok=True)
    SETS.unlink(missing_ok=True)
    SETS.symlink_to(source)


def arguments(doc, seeds=(1,)):
    """A parser with what recipes on several seeds take: --seeds, --set and --json."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(seed) for seed in text.split(",")]
    parser.add_argument("--seeds", type=numbers, default=list(seeds), metavar="1,2,3", help="train once with each")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the job")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    return parser


def fields_of(args):
    """The fields that --set changes."""
    return dict(one.split("=", 1) for one in args.set)


def spread(values, digits=2):
    """Mean and standard deviation over seeds (of the sample, 0 of one alone) as text."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):>8.{digits}f}{deviation:>8.{digits}f}"


class Found:
    """What the runs of a recipe brought, by row of its table and by seed."""

    def __init__(self, digits=2):
        self.digits, self.rows = digits, {}

    def add(self, row, seed, value, seconds):
        """A figure, and how long the run took that it came of."""
        self.rows.setdefault(row, []).append({"seed": seed, "value": value, "minutes": seconds / 60})

    def show(self, heading):
        print(f"\n{heading:<44}{'mean':>8}{'sd':>8}{'minutes':>9}   each")
        for row, runs in self.rows.items():
            values = [run["value"] for run in runs]
            minutes = statistics.mean(run["minutes"] for run in runs)
            each = ", ".join(f"{value:.{self.digits}f}" for value in values)
            print(f"{row:<44}{spread(values, self.digits)}{minutes:>9.1f}   {each}", flush=True)

    def keep(self, file):
        """Writes all of it as JSON, where a file was named."""
        if file:
            file.write_text(json.dumps(self.rows, indent=1) + "\n")


class Cluster:
    """`espalier up` in a folder of its own, stopped at the end of the `with` block."""

    def __init__(self, folder, workers=2):
        self.folder, self.workers = Path(folder), workers

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = open(self.folder / "up.log", "w")
        # On any free port: the verbs find it in the cluster's folder, and several clusters may run at once.
        command = [ESPALIER, "up", "--workers", str(self.workers), "--listen", "127.0.0.1:0"]
        self.up = subprocess.Popen(command, cwd=self.folder, stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while self.ready_workers() < self.workers:
            if self.up.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                tail = (self.folder / "up.log").read_text()[-2000:]
                raise DemoError(f"the local cluster did not come up; {self.folder}/up.log ends with:\n{tail}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        self.up.terminate()
        try:
            self.up.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.up.kill()
        self.log.close()

    def ready_workers(self):
        done = self.espalier("workers", "-o", "json", quiet=True)
        if done.returncode != 0:
            return 0
        return sum(worker.get("state") == "READY" for worker in entries(json.loads(done.stdout), "workers"))

    def espalier(self, *words, quiet=False, text=None):
        """Runs one verb; `quiet` keeps its output for the caller instead of showing it."""
        keep = {"capture_output": True} if quiet else {}
        return subprocess.run([ESPALIER, *map(str, words)], cwd=self.folder, text=True, input=text, **keep)

    def tasks(self, job_file):
        """The tasks of a job file, with all defaults and whole paths."""
        done = self.espalier("validate", job_file, "-o", "json", quiet=True)
        if done.returncode != 0:
            raise DemoError(f"{job_file} is not valid:\n{done.stderr}")
        return json.loads(done.stdout)["tasks"]

    def train(self, job_file, name, output, **fields):
        """Submits a job with some fields set, shows its progress, returns it as the API describes it."""
        sets = {"name": name, "output": output, **fields}
        words = [word for field, value in sets.items() for word in ("--set", f"{field.replace('__', '.')}={value}")]
        begin = time.monotonic()
        if self.espalier("submit", job_file, *words, "--wait").returncode != 0:
            raise DemoError(f"job {name} did not succeed: 'espalier describe {name}' and {self.folder}/up.log say why")
        done = self.espalier("get", name, "-o", "json", quiet=True)
        job = entries(json.loads(done.stdout), "jobs")[0]
        job["seconds"] = time.monotonic() - begin
        return job


def entries(answer, key):
    """The things listed in an answer of `-o json`, whether it is a list, a page or a single thing."""
    if isinstance(answer, list):
        return answer
    return answer[key] if key in answer else [answer]


def test_scores(job):
    """{task: its scores} of the job's newest evaluation on the test split."""
    for evaluation in job.get("evaluations", []):
        if evaluation["split"] == "test":
            return evaluation["tasks"]
    raise DemoError(f"job {job['name']} brought no evaluation on its test files")


def together_and_alone(cluster, job_file, folder, args, groups):
    """Trains a job's tasks together, and each of `groups` of their names alone, once with each of the seeds.

    The budget is the same: as many passes over each task's samples, in batches as large. Prints a table of
    each task's metric on test, in percent, with the mean over seeds and its standard deviation.
    """
    tasks = cluster.tasks(job_file)
    ways = {}
    if "together" in args.ways.split(","):
        ways["together"] = tasks
    if "alone" in args.ways.split(","):
        for names in groups:
            chosen = [dict(task) for task in tasks if task["name"] in names]
            if len(chosen) == 1:
                chosen[0].pop("input_group", None)
            ways["alone " + "+".join(names)] = chosen
    found = Found()
    for seed in args.seeds:
        for way, chosen in ways.items():
            name = f"{way.replace(' ', '-').replace('+', '-').replace('_', '-')}-{seed}"
            job = cluster.train(job_file, name, folder / name, seed=seed, tasks=json.dumps(chosen), **fields_of(args))
            for task in chosen:
                scores = test_scores(job)[task["name"]]["metrics"]
                row = f"{task['name']}, {way.split()[0]}"
                found.add(row, seed, 100 * scores[task.get("metric") or "accuracy"], job["seconds"])
    found.show("on the test set, %")
    found.keep(args.json)


def run(main):
    """Calls main, with the errors that a person can settle as one line; who ends it ends its cluster, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except (DemoError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

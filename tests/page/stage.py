"""Real clusters for the page's tests: `espalier up` with a toy job, or a coordinator that asks who calls."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from browser import REPO, free_port

BIN = Path(os.environ.get("ESPALIER_BIN_DIR") or Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "debug")
DIGITS = REPO / ".espalier/data/digits"


class StageError(Exception):
    """A cluster did not do what a test needs; the message says what, and where its log is."""


class Refused(Exception):
    """The gateway answered with an error."""

    def __init__(self, status, error):
        super().__init__(f"HTTP {status}: {error.get('code')}: {error.get('message')}")
        self.status, self.code = status, error.get("code")


def call(server, method, body=None, token=None, timeout=20):
    """One call through the JSON gateway, as any client may make it."""
    headers = {"content-type": "application/json"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{server}/api/{method}", data=json.dumps(body or {}).encode(), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        try:
            found = json.loads(text)["error"]
        except (ValueError, KeyError):
            found = {"code": "?", "message": text[:300]}
        raise Refused(error.code, found) from None


def wait(what, found, seconds=60):
    """Asks until the answer is truthy; errors of a server that starts count as no."""
    deadline, last = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            answer = found()
            if answer:
                return answer
        except (OSError, Refused) as error:
            last = error
        time.sleep(0.05)
    raise StageError(f"{what}: not within {seconds} s" + (f" ({last})" if last else ""))


class Cluster:
    """`espalier up` in a folder of its own; killed processes come back by themselves."""

    def __init__(self, folder, workers=2):
        self.folder, self.workers = Path(folder), workers
        self.port = free_port()
        self.server = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = open(self.folder / "up.log", "w")
        command = [BIN / "espalier", "up", "--workers", str(self.workers), "--listen", f"127.0.0.1:{self.port}",
                   "--dir", self.folder / "cluster", "--quiet"]
        self.up = subprocess.Popen(list(map(str, command)), cwd=self.folder, stdout=self.log, stderr=subprocess.STDOUT)
        try:
            wait(f"workers of {self.folder}/up.log", self.ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.up.terminate()
        try:
            self.up.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.up.kill()
            self.up.wait()
        self.log.close()

    def ready(self):
        if self.up.poll() is not None:
            raise StageError(f"espalier up ended: {(self.folder / 'up.log').read_text()[-1500:]}")
        workers = call(self.server, "ClusterService/ListWorkers").get("workers", [])
        return sum(worker.get("state") == "READY" for worker in workers) >= self.workers

    def kill(self, name):
        """SIGKILL to one of its processes, by the id that `up` wrote down."""
        processes = json.loads((self.folder / "cluster/up.json").read_text())["processes"]
        pid = next(process["pid"] for process in processes if process["name"] == name)
        os.kill(pid, signal.SIGKILL)

    def submit(self, spec):
        return call(self.server, "JobService/CreateJob", {"spec": spec})

    def job(self, name):
        return call(self.server, "JobService/GetJob", {"name": name})

    def until_step(self, name, step, seconds=90):
        """Waits until a job did so many steps."""
        def there():
            job = self.job(name)
            if job["state"] == "FAILED":
                raise StageError(f"job {name} failed: {job.get('failure')}")
            return int(job.get("progress", {}).get("step", 0)) >= step
        wait(f"step {step} of {name}", there, seconds)

    def pause(self, name):
        """Lets a job rest; waits until it does."""
        call(self.server, "JobService/PauseJob", {"name": name})
        wait(f"the rest of {name}", lambda: self.job(name)["state"] == "PAUSED")

    def cancel(self, name):
        """Ends a job, if it has not ended; waits until it has."""
        with contextlib.suppress(Refused):
            call(self.server, "JobService/CancelJob", {"name": name})
        wait(f"the end of {name}", lambda: self.job(name)["state"] in ("CANCELLED", "SUCCEEDED", "FAILED"))


class Guarded:
    """A coordinator alone that lets in bearers of tokens: `admin` and `viewer`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.port = free_port()
        self.server = f"http://127.0.0.1:{self.port}"
        self.tokens = {role: secrets.token_urlsafe(32) for role in ("admin", "viewer")}

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        # The hash of a token, never the token.
        entries = [f"- name: test-{role}\n  sha256: {hashlib.sha256(token.encode()).hexdigest()}\n  role: {role}\n"
                   for role, token in self.tokens.items()]
        file = self.folder / "tokens.yaml"
        file.write_text("".join(entries))
        file.chmod(0o600)
        self.log = open(self.folder / "coordinator.log", "w")
        command = [BIN / "espalier-coordinator", "--listen", f"127.0.0.1:{self.port}", "--data-dir", self.folder / "state",
                   "--token-file", file]
        self.process = subprocess.Popen(list(map(str, command)), cwd=self.folder, stdout=self.log, stderr=subprocess.STDOUT)
        try:
            wait(f"the coordinator of {self.folder}/coordinator.log", self.ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def ready(self):
        if self.process.poll() is not None:
            raise StageError(f"espalier-coordinator ended: {(self.folder / 'coordinator.log').read_text()[-1500:]}")
        return self.call("ClusterService/GetCluster")

    def call(self, method, body=None, role="admin"):
        return call(self.server, method, body, token=self.tokens[role])


def digits():
    """Data of recipes/digits, and whether each digit is even: two tasks on the same images."""
    if not (DIGITS / "digit.train.jsonl").is_file():
        subprocess.run([sys.executable, REPO / "recipes/digits/build.py"], check=True)
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in open(DIGITS / f"digit.{split}.jsonl", encoding="utf-8")]
        for row in rows:
            row["label"] = "odd" if int(row["label"]) % 2 else "even"
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (DIGITS / f"odd.{split}.jsonl").write_text(text, encoding="utf-8")


def spec(name, folder, steps, every=100):
    """A small vision transformer on two tasks and two ranks, with a map of their affinity."""
    def task(name, stem):
        files = {split: [str(DIGITS / f"{stem}.{split}.jsonl")] for split in ("train", "validation")}
        return {"name": name, "head": "SINGLE_LABEL", "data": files}

    return {
        "name": name, "seed": "1",
        "backbone": {"path": str(REPO / "recipes/digits/vit"), "init": "RANDOM", "pooling": "MEAN"},
        "tasks": [task("digit", "digit"), task("parity", "odd")],
        "training": {"steps": str(steps), "batchSize": 32, "schedule": {"kind": "CONSTANT", "warmupSteps": "50"},
                     "optimizer": {"learningRate": 1e-3, "headLearningRate": 1e-3}},
        "evaluation": {"everySteps": str(every)},
        "checkpoint": {"everySteps": "0"},
        "resources": {"ranks": 2},
        "balancer": {"method": "upgrad"},
        "exchange": {"affinity": "AFFINITY_ON"},
        "output": str(Path(folder) / f"{name}-export"),
    }


def fresh(folder):
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True)
    return Path(folder)

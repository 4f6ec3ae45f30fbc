"""A cluster on loopback for as long as a check runs: coordinator, workers, a log of each; and how fast its jobs go."""

import datetime
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

OVER = ("SUCCEEDED", "FAILED", "CANCELLED")
PROGRAMS = ("espalier", "espalier-coordinator", "espalier-worker")
# Rank 0 logs the moment of every step at this level; nothing else is asked for more.
LOG = "info,espalier_worker::engine::run=trace"
# Loopback is nobody else's business, whatever the environment says about proxies.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Failure(Exception):
    """Something is not as it must be; the message says what and where the logs are."""


class OutOfTime(Exception):
    """A check's time is over; the message says what was waited for."""


class Clock:
    """The time that a check has."""

    def __init__(self, seconds):
        self.seconds, self.end = seconds, time.monotonic() + seconds

    def left(self):
        return self.end - time.monotonic()

    def until(self, what, look, pause=0.02):
        """What `look` answers, as soon as that is true; asks again until then."""
        while True:
            found = look()
            if found:
                return found
            if self.left() <= 0:
                raise OutOfTime(f"waited for {what() if callable(what) else what}")
            time.sleep(pause)

    def run(self, command, **more):
        """A command that ends within the time that is left."""
        try:
            return subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, timeout=max(1, self.left()), **more)
        except subprocess.TimeoutExpired as error:
            raise OutOfTime(f"{Path(str(command[0])).name} did not end within {error.timeout:.0f} s") from None


class Process:
    """A program with its log; started again it goes on with the log."""

    def __init__(self, log, command, env=None):
        self.log, self.command = log, [str(word) for word in command]
        self.env = {**os.environ, **(env or {})}
        self.start()

    def start(self):
        with open(self.log, "a") as log:
            # A session of its own: ctrl-c reaches the script alone, which ends all in order.
            self.child = subprocess.Popen(self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def kill(self):
        self.child.kill()
        self.child.wait()

    def end(self):
        """SIGTERM, time to end, SIGKILL."""
        end([self])

    def tail(self):
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "nothing"


def end(processes, grace=4):
    """Ends all of them at once: SIGTERM, time to end for all together, SIGKILL."""
    alive = [process for process in processes if process.child.poll() is None]
    for process in alive:
        process.child.send_signal(signal.SIGTERM)
    clock = Clock(grace)
    for process in alive:
        try:
            process.child.wait(timeout=max(0.1, clock.left()))
        except subprocess.TimeoutExpired:
            process.kill()


class Stage:
    """`with Stage(folder, binaries, clock) as stage`: a coordinator; workers come when they are asked for.

    Logs, job files and metrics stay in `folder`. What jobs write else is large and goes with the stage.
    """

    def __init__(self, folder, binaries, clock):
        self.folder, self.binaries, self.clock = Path(folder), Path(binaries), clock
        self.workers, self.coordinator, self.server = {}, None, None

    def __enter__(self):
        # Steps are counted in logs: those of an earlier run would count, too.
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.scratch = Path(tempfile.mkdtemp(prefix="espalier-gpu-"))
        self.data = self.scratch / "data"
        # From here on `__exit__` is what clears up.
        try:
            ready = self.scratch / "ready"
            self.coordinator = Process(self.folder / "coordinator.log", [
                self.binaries / "espalier-coordinator", "--listen", "127.0.0.1:0", "--data-dir", self.scratch / "coordinator",
                "--ready-file", ready, "--heartbeat-interval", "200ms"])
            self.clock.until("the coordinator to serve", lambda: self.alive(self.coordinator) and ready.is_file() and ready.read_text().strip())
            self.server = f"http://{ready.read_text().strip()}"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # Nothing may be left of it, so a signal waits until this is over.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        try:
            # Workers first: a coordinator that goes first would only be missed.
            end(self.workers.values())
            end(filter(None, [self.coordinator]))
            for file in self.data.glob("jobs/*/metrics.jsonl"):
                shutil.copyfile(file, self.folder / f"{file.parent.name}.metrics.jsonl")
            shutil.rmtree(self.scratch, ignore_errors=True)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @staticmethod
    def alive(process):
        """True, as long as it runs."""
        if process.child.poll() is not None:
            raise Failure(f"{Path(process.command[0]).name} ended with {process.child.returncode}: {process.tail()}; its log is {process.log}")
        return True

    def worker(self, name, device, ranks=1):
        """Starts a worker, or starts it again, and waits until it is ready."""
        if name in self.workers:
            self.workers[name].start()
        else:
            self.workers[name] = Process(self.folder / f"{name}.log", self.worker_command(name, device, ranks), {"ESPALIER_LOG": LOG})
        self.clock.until(f"worker {name} to be ready", lambda: self.alive(self.workers[name]) and name in self.ready())
        return self.workers[name]

    def worker_command(self, name, device, ranks=1):
        server = self.server or "http://127.0.0.1:9"
        return [self.binaries / "espalier-worker", "run", "--coordinator", server, "--name", name, "--ranks", ranks, "--device", device,
                "--data-dir", self.data, "--log-format", "json"]

    def replace(self, name, device, ranks=1):
        """A new process in place of a worker, so that it begins with no memory and no caches of a device."""
        self.workers[name].end()
        return self.worker(name, device, ranks)

    def call(self, method, **fields):
        """A call of the API, as JSON; none if the coordinator does not answer."""
        request = urllib.request.Request(f"{self.server}/api/{method}", json.dumps(fields).encode(), {"content-type": "application/json"})
        try:
            with DIRECT.open(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Failure(f"{method} was refused: {error.read().decode(errors='replace')[:300]}") from None
        except OSError:
            self.alive(self.coordinator)
            return None

    def ready(self):
        answer = self.call("ClusterService/ListWorkers") or {}
        return [worker["name"] for worker in answer.get("workers", []) if worker["state"] == "READY"]

    def job(self, name):
        """The job, as the API tells it; empty if the coordinator does not answer."""
        return self.call("JobService/GetJob", name=name) or {}

    def submit(self, spec):
        """Hands a job over, as a job file (YAML reads JSON, too)."""
        file = self.folder / f"{spec['name']}.yaml"
        file.write_text(json.dumps(spec, indent=1) + "\n")
        done = self.clock.run([self.binaries / "espalier", "--server", self.server, "submit", file], capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"job {spec['name']} was refused: {(done.stderr or done.stdout).strip()[:400]}")
        return spec["name"]

    def settle(self, name):
        """Waits until the job is over, and returns it."""
        seen = {}

        def over():
            seen.update(self.job(name))
            return seen.get("state") in OVER

        self.clock.until(lambda: f"the end of job {name} (now {seen.get('state')}: {seen.get('stateReason')})", over, pause=0.05)
        return seen

    def finish(self, name):
        """Waits until the job has succeeded, and returns it."""
        job = self.settle(name)
        if job["state"] != "SUCCEEDED":
            why = (job.get("failure") or {}).get("message") or job.get("stateReason")
            raise Failure(f"job {name} ended as {job['state']}: {why}; logs are in {self.folder}")
        return job

    def cancel(self, name):
        self.call("JobService/CancelJob", name=name)
        self.settle(name)

    def steps(self, name):
        """(moment, step) of every step of the job, in order of time, as rank 0 logged them on whichever worker it was."""
        found = []
        for worker in self.workers.values():
            for line in worker.log.read_bytes().split(b"\n"):
                moment = step_of(line, name)
                if moment:
                    found.append(moment)
        return sorted(found)

    def going(self, name):
        """True; an error if the job has ended by one, since then it would never get further."""
        if self.job(name).get("state") in OVER:
            self.finish(name)
        return True

    def reach(self, name, step):
        """Waits until so many steps are done."""
        far = lambda: any(done >= step for _, done in self.steps(name))
        self.clock.until(f"step {step} of job {name}", lambda: self.going(name) and far(), pause=0.05)

    def pace(self, name, batch, seconds, warmup):
        """Trains a job that has no end in sight for so many seconds after its warm-up, and cancels it: how fast it went."""
        self.reach(name, warmup)
        begun = next(moment for moment, done in self.steps(name) if done >= warmup)
        end = time.monotonic() + seconds
        over = lambda: time.monotonic() >= end and len(self.steps(name)) >= warmup + 5
        self.clock.until(f"{seconds} s of job {name}", lambda: self.going(name) and over(), pause=0.1)
        measured = [one for one in self.steps(name) if one[0] >= begun]
        self.cancel(name)
        (first, low), (last, high) = measured[0], measured[-1]
        each = [late[0] - early[0] for early, late in zip(measured, measured[1:])]
        return {"steps": high - low, "samples_per_second": batch * (high - low) / (last - first), "step_ms": 1000 * statistics.median(each)}

    def metrics(self, name):
        """Lines of the job's metrics.jsonl."""
        files = list(self.data.glob(f"jobs/{name}-*/metrics.jsonl"))
        if len(files) != 1:
            raise Failure(f"job {name} has {len(files)} files metrics.jsonl in {self.data}/jobs")
        return [json.loads(line) for line in files[0].read_text().splitlines()]


def step_of(line, name):
    """(moment, step) if this line of a log tells that a step of the job was done."""
    if b'"step done"' not in line:
        return None
    try:
        entry = json.loads(line)
        if entry.get("job") != name:
            return None
        moment = datetime.datetime.fromisoformat(entry["timestamp"].replace("Z", "+00:00")).timestamp()
        return moment, int(entry["fields"]["step"])
    except (ValueError, KeyError):
        # A line that a kill cut off, or that is being written.
        return None


def logged(log, field):
    """The first value of a field in a log of JSON lines; none if no line has it."""
    for line in log.read_text(errors="replace").splitlines():
        try:
            value = json.loads(line).get("fields", {}).get(field)
        except ValueError:
            continue
        if value is not None:
            return value
    return None


def digest(folder):
    """{file: SHA-256} of all tensors of an export: the backbone's and the heads'."""
    found = sorted(Path(folder).rglob("*.safetensors"))
    if not found:
        raise Failure(f"the export {folder} holds no tensors")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def difference(ours, theirs):
    """The files of two exports that differ."""
    return [file for file in sorted(set(ours) | set(theirs)) if ours.get(file) != theirs.get(file)]

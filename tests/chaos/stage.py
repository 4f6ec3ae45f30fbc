"""The processes of a chaos run: started in their hosts, started again when they die, ended with the run."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "recipes"))

from cluster import entries  # noqa: E402

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
BIN = Path(os.environ.get("ESPALIER_BIN_DIR") or TARGET / "debug")
# Rank 0 logs the moment of every step at this level; nothing else is asked for more.
LOG = "info,espalier_worker::engine::run=trace"


class ChaosError(Exception):
    """A run that can't go on; the message says why and where the logs are."""


class Process:
    """One program on one host. A thread starts it again, `delay` seconds after its death."""

    def __init__(self, stage, name, host, command, delay, env=None):
        self.stage, self.name, self.host, self.delay = stage, name, host, delay
        self.command, self.env = [str(word) for word in command], {**os.environ, **(env or {})}
        self.log = stage.folder / f"{name}.log"
        self.wanted, self.starts, self.deaths = True, 0, 0
        self.lock = threading.Lock()
        self.child = None
        self.spawn()
        self.thread = threading.Thread(target=self.keep, daemon=True)
        self.thread.start()

    def spawn(self):
        with open(self.log, "a") as log:
            command = self.stage.net.wrap(self.host, self.command)
            # A session of its own: ctrl-c reaches this script alone, which ends all in order.
            self.child = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=log,
                                          stderr=subprocess.STDOUT, start_new_session=True)
        self.starts += 1

    def keep(self):
        while True:
            begun = time.monotonic()
            self.child.wait()
            if not self.wanted:
                return
            self.deaths += 1
            # One that can't even start must not spin.
            pause = self.delay if time.monotonic() - begun > 1 else max(self.delay, 0.2)
            if self.stage.over.wait(pause):
                return
            with self.lock:
                if not self.wanted:
                    return
                self.spawn()

    def send(self, number):
        """Sends a signal to the process as it is now; False if it does not run."""
        with self.lock:
            alive = self.child.poll() is None
            if alive:
                self.child.send_signal(number)
            return alive

    def end(self, grace=20):
        """SIGTERM, time to end, SIGKILL; it is not started again."""
        with self.lock:
            self.wanted = False
        if self.child.poll() is None:
            # It may have been stopped by a fault.
            for number in (signal.SIGCONT, signal.SIGTERM):
                self.child.send_signal(number)
            try:
                self.child.wait(timeout=grace)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait(timeout=10)

    def replace(self, grace=60):
        """SIGTERM, and a new one once it has ended; True if it ended by itself in time."""
        child = self.child
        self.send(signal.SIGTERM)
        try:
            child.wait(timeout=grace)
            return True
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            return False


def free_port(address="127.0.0.1"):
    with socket.socket() as listener:
        listener.bind((address, 0))
        return listener.getsockname()[1]


def etcd_binary():
    places = [os.environ.get("ETCD"), shutil.which("etcd"), REPO / ".espalier/etcd/usr/bin/etcd", REPO / ".espalier/apt/usr/bin/etcd"]
    found = next((Path(place) for place in places if place and Path(place).is_file()), None)
    if found is None:
        raise ChaosError("there is no etcd: install it (Debian: etcd-server), or set ETCD to its path")
    return found


class Stage:
    """Coordinators and workers of one run in a folder of its own, stopped at the end of the `with` block."""

    def __init__(self, net, folder, args, workers):
        self.net, self.folder, self.args = net, Path(folder), args
        self.over = threading.Event()
        self.names = [f"w{index}" for index in range(workers)]
        self.workers, self.coordinators, self.etcd = {}, {}, None
        self.ports = {f"c{index}": 7443 if net.apart else free_port() for index in range(args.coordinators)}
        self.data = self.folder / "data"
        self.mounted = []

    def __enter__(self):
        self.data.mkdir(parents=True, exist_ok=True)
        try:
            if self.args.disk:
                self.small_disk()
            if self.args.etcd:
                self.start_etcd()
            for index in range(self.args.coordinators):
                self.start_coordinator(f"c{index}")
            self.until("the coordinator to answer", lambda: self.try_json("workers") is not None, 60)
            for name in self.names:
                self.start_worker(name)
            self.until("all workers to be ready", lambda: self.ready() >= len(self.names), 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.over.set()
        # Workers first: a coordinator that goes first would only be missed.
        for process in [*self.workers.values(), *self.coordinators.values(), *filter(None, [self.etcd])]:
            process.end(grace=5)
        for path in self.mounted:
            subprocess.run(["umount", "-l", path], capture_output=True)

    def small_disk(self):
        """The data directory on a disk of its own that a fault can fill; needs root."""
        size = f"size={self.args.disk}m"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "chaos", self.data], capture_output=True, text=True)
        if done.returncode != 0:
            raise ChaosError(f"no disk of {self.args.disk} MB for fault `disk`: {done.stderr.strip()}; it needs root")
        self.mounted.append(self.data)

    def url(self, name):
        return f"http://{self.net.address(name)}:{self.ports[name]}"

    @property
    def servers(self):
        return ",".join(self.url(name) for name in self.coordinators)

    def start_etcd(self):
        host = "e0"
        address = self.net.address(host)
        self.etcd_url = f"http://{address}:{2379 if self.net.apart else free_port()}"
        peers = f"http://{address}:{2380 if self.net.apart else free_port()}"
        command = [etcd_binary(), "--name", "e0", "--data-dir", self.folder / "etcd", "--listen-client-urls", self.etcd_url,
                   "--advertise-client-urls", self.etcd_url, "--listen-peer-urls", peers,
                   "--initial-advertise-peer-urls", peers, "--initial-cluster", f"e0={peers}"]
        self.etcd = Process(self, "etcd", host, self.nice(command), self.args.restart_delay)

    def nice(self, command):
        return ["nice", "-n", str(self.args.nice), *command] if self.args.nice else command

    def start_coordinator(self, name):
        address = f"{self.net.address(name)}:{self.ports[name]}"
        command = [BIN / "espalier-coordinator", "--listen", address, "--data-dir", self.folder / name,
                   "--max-restarts", self.args.max_restarts, *(["--insecure"] if self.net.apart else [])]
        command += self.args.coordinator_flags.split()
        if self.args.etcd:
            # Word by word, {etcd} and {url} filled in.
            command += [word.format(etcd=self.etcd_url, url=self.url(name), name=name) for word in self.args.ha_flags.split()]
        self.coordinators[name] = Process(self, name, name, self.nice(command), self.args.restart_delay, {"ESPALIER_LOG_FORMAT": "json"})

    def start_worker(self, name, delay=None):
        command = [BIN / "espalier-worker", "run", "--coordinator", self.servers, "--name", name, "--ranks", self.args.ranks_per_worker,
                   "--threads", 1, "--data-dir", self.data, "--listen", f"{self.net.address(name)}:0", "--log-format", "json",
                   *self.args.worker_flags.split()]
        delay = self.args.restart_delay if delay is None else delay
        self.workers[name] = Process(self, name, name, command, delay, {"ESPALIER_LOG": LOG, "OMP_NUM_THREADS": "1"})

    def stop_worker(self, name):
        self.workers.pop(name).end()

    # The cluster through its own commands.

    def espalier(self, *words, timeout=120, server=None):
        env = {**os.environ, "ESPALIER_SERVER": server or self.servers}
        command = [BIN / "espalier", *map(str, words)]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)

    def try_json(self, *words, server=None):
        """What a verb answers with `-o json`; none if it fails, such as while the coordinator is away."""
        try:
            done = self.espalier(*words, "-o", "json", timeout=20, server=server)
        except subprocess.TimeoutExpired:
            return None
        return json.loads(done.stdout) if done.returncode == 0 else None

    def ready(self):
        answer = self.try_json("workers")
        return 0 if answer is None else sum(worker.get("state") == "READY" for worker in entries(answer, "workers"))

    def seated(self):
        """Names of the workers that host ranks."""
        answer = self.try_json("workers") or {}
        hosts = [worker["name"] for worker in entries(answer, "workers") if any("job" in device for device in worker["devices"])]
        return sorted(set(hosts) & set(self.workers))

    def serves(self, name):
        """Whether a coordinator leads, or sends callers to the one that does."""
        return self.try_json("workers", server=self.url(name)) is not None

    def job(self, name):
        answer = self.try_json("get", name)
        return None if answer is None else entries(answer, "jobs")[0]

    def until(self, what, look, seconds):
        """Asks until `look` is true; the run fails after `seconds`."""
        deadline = time.monotonic() + seconds
        while not look():
            if time.monotonic() > deadline:
                raise ChaosError(f"waited {seconds} s for {what}; logs are in {self.folder}")
            time.sleep(0.05)

    def led(self, name):
        """Whether some coordinator leads and knows a job: asked in this process, since a command a look would take the
        processors from those that are watched."""
        question = json.dumps({"name": name}).encode()
        for coordinator in self.coordinators:
            asked = urllib.request.Request(f"{self.url(coordinator)}/api/JobService/GetJob", question, {"content-type": "application/json"})
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(asked, timeout=2):
                    return True
        return False

    def submit(self, name, **fields):
        sets = {"output": self.folder / "exports" / name, **fields}
        words = [word for field, value in sets.items() for word in ("--set", f"{field.replace('__', '.')}={value}")]
        done = self.espalier("submit", self.args.job, "--name", name, *words)
        if done.returncode != 0:
            raise ChaosError(f"job {name} was refused: {(done.stderr or done.stdout).strip()}")

    def audit(self, name):
        """`espalier audit`: (clean, what it says); none where this build has no such verb."""
        where = next(iter(sorted(self.data.glob(f"jobs/{name}-*"))), self.data)
        try:
            done = self.espalier("audit", name, "--dir", where)
        except subprocess.TimeoutExpired:
            return False, "it took longer than 120 s"
        if done.returncode == 2 and "unrecognized subcommand" in done.stderr:
            return None, "this build has no `espalier audit`"
        said = (done.stdout or done.stderr).strip().splitlines()
        return done.returncode == 0, said[-1] if said else f"exit code {done.returncode}"

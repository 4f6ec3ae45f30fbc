#!/usr/bin/env python3
"""Watches a real cluster with a real Prometheus, TensorBoard's reader and an OTLP collector.

Starts a coordinator and three workers with status ports, a Prometheus over deploy/observability, and a job;
kills a worker of it with SIGKILL; then asks Prometheus what it has seen. Rules are checked and tested with
promtool, metrics linted, names in rules, dashboard and docs looked up in the scrapes, every query of the dashboard
asked, event files and spans read.

    PYTHONPATH=.espalier/pyobserve python3 tests/observability/check.py     (`make test-observability`)
"""

import concurrent.futures
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import grpc

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests/python"))

import tensorboard_check

BIN = Path(os.environ.get("ESPALIER_BIN_DIR") or Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "debug")
MODEL = Path(os.environ.get("ESPALIER_MINILM") or REPO / ".espalier/models/all-MiniLM-L6-v2")
HERE = REPO / "deploy/observability"
JOB = "observed"
WORKERS = 3
# Not a promise of speed: a machine that does much else at the same time is slow.
SECONDS = 900
COLOURS = ["red", "green", "blue", "yellow"]
# Of the dashboard's queries, those that nothing here gives an answer to: nobody is refused.
SILENT = ["sum by (reason) (rate(espalier_api_refused_total[5m]))"]
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

# What Prometheus must have seen, and what may have come of it.
SEEN = [
    ("sum(espalier_leader)", lambda v: v == 1),
    ("sum(espalier_build_info)", lambda v: v == 1),
    ('espalier_jobs{state="succeeded"}', lambda v: v == 1),
    ('espalier_workers{state="ready"}', lambda v: v == WORKERS - 1),
    (f'max_over_time(espalier_job_step{{job_name="{JOB}"}}[10m])', lambda v: v > 10),
    (f'max_over_time(espalier_job_samples_per_second{{job_name="{JOB}"}}[10m])', lambda v: v > 0),
    (f'max_over_time(espalier_job_loss{{job_name="{JOB}",task="colour"}}[10m])', lambda v: v > 0),
    (f'max_over_time(espalier_job_goodput_ratio{{job_name="{JOB}"}}[10m])', lambda v: 0 < v <= 1),
    (f'max_over_time(espalier_job_generation{{job_name="{JOB}"}}[10m])', lambda v: v >= 2),
    ("max_over_time(espalier_queue_depth[10m])", lambda v: v >= 0),
    ('espalier_recoveries_total{cause="failure"}', lambda v: v == 1),
    ('espalier_recovery_duration_seconds_count{phase="total"}', lambda v: v == 1),
    ('espalier_recovery_duration_seconds_sum{phase="total"}', lambda v: 0 < v < SECONDS),
    ('espalier_api_calls_total{method="CreateJob",code="OK"}', lambda v: v == 1),
    ("espalier_store_records_total", lambda v: v > 5),
    ("espalier_store_write_duration_seconds_count", lambda v: v > 0),
    ("sum(espalier_worker_steps_total)", lambda v: v > 50),
    ('sum(espalier_worker_stage_duration_seconds_sum{stage="forward"})', lambda v: v > 0),
    ('sum(espalier_worker_stage_duration_seconds_sum{stage="backward"})', lambda v: v > 0),
    ("sum(espalier_worker_exchange_sent_bytes_total)", lambda v: v > 0),
    ("sum(espalier_worker_snapshot_bytes_total)", lambda v: v > 0),
    ("sum(espalier_worker_checkpoint_bytes_total)", lambda v: v > 0),
    ("sum(espalier_worker_connected)", lambda v: v == WORKERS - 1),
    ('count(up{job="espalier-worker"} == 0)', lambda v: v == 1),
    ('process_resident_memory_bytes{job="espalier-coordinator"}', lambda v: v > 1 << 20),
    ('sum(increase(process_cpu_seconds_total{job="espalier-worker"}[10m]))', lambda v: v > 0),
]


class Failure(Exception):
    """Something was not seen as it should be."""


class Collector:
    """Takes spans as they come over the wire; their bytes are enough to look for names and ids."""

    def __init__(self):
        self.requests = []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers([self])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, details):
        """What grpc asks of a generic handler."""
        if details.method != EXPORT:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, _: self.requests.append(request) or b"")

    def holds(self, *parts):
        return any(all(part in request for part in parts) for request in self.requests)


class Cluster:
    """Coordinator, workers and Prometheus in a folder, ended with the `with` block."""

    def __init__(self, folder, collector):
        self.folder, self.collector, self.processes = folder, collector, {}
        self.status = {name: free_port() for name in ["coordinator", *self.names()]}

    @staticmethod
    def names():
        return [f"worker-{n}" for n in range(WORKERS)]

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        tells = lambda name: ["--status-listen", f"127.0.0.1:{self.status[name]}",
                              "--otlp-endpoint", f"http://127.0.0.1:{self.collector.port}", "--log-format", "json"]
        ready = self.folder / "ready"
        self.run("coordinator", [BIN / "espalier-coordinator", "--listen", "127.0.0.1:0", "--ready-file", ready,
                                 "--data-dir", self.folder / "coordinator", *tells("coordinator")])
        self.server = "http://" + wait("the coordinator", lambda: ready.is_file() and ready.read_text().strip())
        for name in self.names():
            self.run(name, [BIN / "espalier-worker", "run", "--coordinator", self.server, "--name", name,
                            "--threads", "1", "--data-dir", self.folder / "data", "--trace-every", "5", *tells(name)])
        for name, port in self.status.items():
            wait(f"/readyz of {name}", lambda port=port: get(port, "/readyz") is not None)
            if get(port, "/healthz") is None:
                raise Failure(f"{name} is ready, but not alive")

    def run(self, name, command):
        log = open(self.folder / f"{name}.log", "w")
        self.processes[name] = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, cwd=self.folder)

    def prometheus(self):
        """Starts one over the configuration that is shipped, with this cluster's addresses in it."""
        text = (HERE / "prometheus.yml").read_text().replace("15s", "1s")
        text = text.replace('"coordinator:7444"', f'"127.0.0.1:{self.status["coordinator"]}"')
        workers = ", ".join(f'"127.0.0.1:{self.status[name]}"' for name in self.names())
        text = text.replace('"worker-0:7444", "worker-1:7444"', workers)
        if ":7444" in text:
            raise Failure("deploy/observability/prometheus.yml has targets that this check does not know")
        shutil.copy(HERE / "alerts.yml", self.folder)
        file = self.folder / "prometheus.yml"
        file.write_text(text)
        promtool("check", "config", file)
        self.port = free_port()
        self.run("prometheus", ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={self.folder}/tsdb",
                                f"--web.listen-address=127.0.0.1:{self.port}"])
        wait("Prometheus", lambda: get(self.port, "/-/ready") is not None)

    def ask(self, expression):
        """The values that Prometheus answers."""
        path = "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        return [float(result["value"][1]) for result in json.loads(get(self.port, path))["data"]["result"]]

    def espalier(self, *words):
        env = {**os.environ, "ESPALIER_SERVER": self.server}
        done = subprocess.run([BIN / "espalier", *map(str, words)], capture_output=True, text=True, env=env)
        if done.returncode != 0:
            raise Failure(f"espalier {words[0]}: {done.stderr.strip()}")
        return done.stdout

    def job(self):
        found = json.loads(self.espalier("get", JOB, "-o", "json"))
        found = found["jobs"] if "jobs" in found else found
        return found[0] if isinstance(found, list) else found

    def __exit__(self, *_):
        # The coordinator last: workers say good-bye to it.
        for name in sorted(self.processes, key=lambda name: name == "coordinator"):
            self.processes[name].terminate()
            try:
                self.processes[name].wait(30)
            except subprocess.TimeoutExpired:
                self.processes[name].kill()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def get(port, path):
    """The text of an answer; none if there is none, or an error."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return None


def wait(what, look, seconds=SECONDS):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.2)
    raise Failure(f"{what}: not within {seconds} s")


def promtool(*words, text=None):
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, input=text, cwd=HERE)
    said = (done.stdout + done.stderr).strip()
    if done.returncode != 0:
        raise Failure(f"promtool {' '.join(map(str, words))}:\n{said}")
    return said


def submit(cluster):
    things = ["car", "small house", "sky in the evening", "flower", "old wooden door"]
    for name, rows in [("train", 256), ("test", 32)]:
        lines = [{"text": f"the {things[i % 5]} is {COLOURS[i % 4]}", "label": COLOURS[i % 4]} for i in range(rows)]
        (cluster.folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {split: str(cluster.folder / f"{name}.jsonl") for split, name in
            [("train", "train"), ("validation", "test"), ("test", "test")]}
    spec = {"name": JOB, "seed": 1, "backbone": {"path": str(MODEL.resolve()), "max_tokens": 32, "pooling": "mean"},
            "tasks": [{"name": "colour", "head": "single_label", "data": data}], "resources": {"ranks": 2},
            "training": {"steps": 300, "batch_size": 8}, "evaluation": {"every_steps": 50},
            "checkpoint": {"every_steps": 25}, "recovery": {"snapshot_every": 5}}
    # JSON is YAML.
    (cluster.folder / "job.yaml").write_text(json.dumps(spec))
    cluster.espalier("submit", cluster.folder / "job.yaml")


def lose_a_worker(cluster):
    """Kills a worker of the job in its midst; returns its name."""
    def far():
        job = cluster.job()
        if job.get("state") in ("FAILED", "SUCCEEDED"):
            raise Failure(f"the job ended before a worker could be killed: {job.get('state_reason')}")
        return job if int((job.get("progress") or {}).get("step", 0)) >= 40 else None
    seats = wait("step 40", far)["plan"]["seats"]
    name = seats[-1]["worker"]
    cluster.processes[name].send_signal(signal.SIGKILL)
    print(f"killed {name}")
    return name


def names_exist(scrapes):
    """Every metric that rules and dashboard speak of is in a scrape."""
    known = set()
    for text in scrapes:
        for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M):
            known |= {name + end for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    # No operator runs here, since it needs Kubernetes: its metrics are read out of its source.
    source = (REPO / "deploy/operator/src/health.rs").read_text()
    known |= {name + "_total" * (kind == "counter") for kind, name in re.findall(r'(gauge|counter)\(\s*"(\w+)"', source)}
    # What looks like a metric is one.
    for file in ["alerts.yml", "dashboard.json"]:
        used = set(re.findall(r"\b(?:espalier|process)_[a-z_]+", (HERE / file).read_text()))
        if missing := sorted(used - known):
            raise Failure(f"{file} speaks of {missing}, which no scrape holds")


def documented(scrapes):
    """Every metric is in the table of docs/observability.md, and the table names no other."""
    known = {name for text in scrapes for name in re.findall(r"^# TYPE (espalier_\w+) ", text, re.M)}
    named = set()
    for row in re.findall(r"^\| (`espalier_.*?) \|", (REPO / "docs/observability.md").read_text(), re.M):
        start = ""
        for name in re.findall(r"`([a-z_…]+)`", row):
            if name.endswith("…"):
                start = name.removesuffix("…")
            else:
                named.add(name if name.startswith("espalier_") else start + name)
    named = {name for name in named if name.startswith("espalier_")}
    if named != known:
        raise Failure(f"docs/observability.md leaves out {sorted(known - named)} and names {sorted(named - known)}, which no scrape holds")


def dashboard_answers(cluster, begun):
    """Every query of the dashboard is one and showed something while the job ran: its labels exist, too."""
    panels = json.loads((HERE / "dashboard.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    for query in queries:
        words = {"query": query.replace("$job_name", ".*"), "start": begun, "end": time.time(), "step": "1s"}
        answer = get(cluster.port, "/api/v1/query_range?" + urllib.parse.urlencode(words))
        if answer is None:
            raise Failure(f"Prometheus can't answer the dashboard's query {query}")
        values = [value for result in json.loads(answer)["data"]["result"] for _, value in result["values"] if value != "NaN"]
        if not values and query not in SILENT:
            raise Failure(f"the dashboard's query {query} showed nothing")
    return len(queries)


def rules_are_evaluated(cluster):
    """Prometheus evaluates every alert rule without an error, and none calls for a person at once but that for the lost worker."""
    groups = json.loads(get(cluster.port, "/api/v1/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    if bad := [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"]:
        raise Failure(f"rules that Prometheus can't evaluate: {bad}")
    if firing := [rule["name"] for rule in rules if rule["state"] == "firing" and rule["name"] != "EspalierTargetDown"]:
        raise Failure(f"alerts fire in a cluster that lost one worker: {firing}")
    return len(rules)


def logs_say_whose(folder, names):
    whose = set()
    for name in names:
        for line in (folder / f"{name}.log").read_text().splitlines():
            # A line that a kill cut off is no line.
            if line.startswith("{") and line.endswith("}"):
                entry = json.loads(line)
                whose.add((entry.get("job"), entry.get("generation"), entry.get("rank")))
    for wanted in [(JOB, 1, 0), (JOB, 2, 0)]:
        if wanted not in whose:
            raise Failure(f"no line of the workers' logs is of job, generation and rank {wanted}, only {sorted(map(str, whose))}")


def runbook_has_all():
    alerts = re.findall(r"alert: (\w+)", (HERE / "alerts.yml").read_text())
    sections = re.findall(r"^## (\w+)$", (REPO / "docs/runbook.md").read_text(), re.M)
    if missing := sorted(set(alerts) - set(sections)):
        raise Failure(f"docs/runbook.md has no section on {missing}")


def check(folder):
    runbook_has_all()
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")
    print("alert rules: checked and tested")
    collector = Collector()
    with Cluster(folder, collector) as cluster:
        cluster.prometheus()
        begun = time.time()
        submit(cluster)
        # A call that fails, for the dashboard.
        try:
            cluster.espalier("describe", "nobody")
        except Failure:
            pass
        lost = lose_a_worker(cluster)
        job = wait("the end of the job", lambda: (job := cluster.job())["state"] in ("SUCCEEDED", "FAILED") and job)
        if job["state"] != "SUCCEEDED":
            raise Failure(f"the job is {job['state']}: {job.get('state_reason')}")
        living = [name for name in cluster.status if name != lost]
        scrapes = [get(cluster.status[name], "/metrics") for name in living]
        for name, text in zip(living, scrapes):
            promtool("check", "metrics", text=text)
        main = get(int(cluster.server.rsplit(":", 1)[1]), "/metrics")
        if "espalier_leader 1" not in (main or ""):
            raise Failure("/metrics of the coordinator's main port does not say that it leads")
        names_exist(scrapes)
        documented(scrapes)
        print(f"metrics of {', '.join(living)}: linted; rules and dashboard speak of nothing else")
        for expression, holds in SEEN:
            good = lambda: (values := cluster.ask(expression)) and all(map(holds, values)) and values
            try:
                wait(expression, good, 20)
            except Failure:
                raise Failure(f"Prometheus says that {expression} is {cluster.ask(expression)}") from None
        print(f"Prometheus: {len(SEEN)} expressions as expected")
        print(f"Prometheus: {dashboard_answers(cluster, begun)} queries of the dashboard answered, {rules_are_evaluated(cluster)} rules evaluated")
        uid = bytes.fromhex(job["uid"].replace("-", ""))
    for name in ["generation", "step", "exchange", "job"]:
        # Field 5 of a span is its name.
        if not collector.holds(bytes([0x2a, len(name)]) + name.encode(), uid):
            raise Failure(f"the collector got no span `{name}` of the job's trace")
    print(f"collector: {len(collector.requests)} batches with spans of the job, its generations, steps and exchanges")
    collector.server.stop(None)
    logs_say_whose(folder, cluster.names())
    board = next((folder / "data/jobs").glob(f"{JOB}-*/tensorboard"))
    numbers, tags = tensorboard_check.check(board)
    print(f"TensorBoard: {numbers} numbers of {tags} tags agree with metrics.jsonl")


def main():
    folder = Path(tempfile.mkdtemp(prefix="espalier-observe-"))
    try:
        check(folder)
    except (Failure, tensorboard_check.Failure, OSError, KeyError, StopIteration) as error:
        sys.exit(f"check.py: failed: {error!r}; what processes said is in {folder}")
    shutil.rmtree(folder)
    print("check.py: passed")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The Python package, built and installed as `pip install ./proto/python` does it, against a real cluster.

Its own tests; every job file of the repository, read by it and by the command; the examples of proto/python on a
small job; every call of the client. Exit code 0 if all of it went as said.

    python3 tests/python/package.py        needs .espalier/pybuild and .espalier/pyclient (setup.py client)
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

REPO = Path(__file__).resolve().parents[2]
HOME = REPO / ".espalier"
PACKAGE = REPO / "proto/python"
BIN = Path(os.environ.get("ESPALIER_BIN_DIR") or Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "debug")
ESPALIER = str(BIN / "espalier")
MODEL = Path(os.environ.get("ESPALIER_MINILM") or HOME / "models/all-MiniLM-L6-v2")
COLOURS, THINGS = ["red", "green", "blue", "yellow"], ["car", "house", "door"]


class Failure(Exception):
    """Something was not as the package promises."""


def expect(found, wanted, what):
    if found != wanted:
        raise Failure(f"{what} is {found!r}, expected {wanted!r}")


def install(folder):
    """The package in a folder, built from a copy, so that nothing is left in the repository."""
    sys.path.insert(0, str(REPO / "deploy/setup"))
    import pysite

    for name in ["espalier", "python"]:
        shutil.copytree(REPO / "proto" / name, folder / "proto" / name, ignore=shutil.ignore_patterns("build", "*.egg-info", "*_pb2*", "__pycache__"))
    site = folder / "site"
    command = [*pysite.pip(), "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--target", site, folder / "proto/python"]
    path = os.pathsep.join([str(HOME / "pybuild"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_USER": "0", "PIP_ROOT_USER_ACTION": "ignore"}
    subprocess.run(command, check=True, env=env)
    for name in ["py.typed", "v1/job_pb2.py", "v1/job_pb2.pyi"]:
        expect((site / "espalier" / name).is_file(), True, f"that the package holds {name}")
    return site


def own_tests():
    tests = unittest.defaultTestLoader.discover(str(PACKAGE / "tests"))
    if not unittest.TextTestRunner(verbosity=1).run(tests).wasSuccessful():
        raise Failure("the package's own tests failed, see above")


def covers_the_schema():
    """The package knows every field and every choice of the job file's schema, and no other."""
    from espalier import _mapping, v1

    schema = json.loads(subprocess.run([ESPALIER, "schema"], check=True, capture_output=True, text=True).stdout)
    seen = set()

    def named(node):
        while "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        return node

    def alternatives(node):
        """What a field may hold, without `null` and short forms."""
        node = named(node)
        return [found for one in node.get("anyOf", []) for found in alternatives(one)] or [node]

    def walk(node, message, path):
        if message.full_name in seen:
            return
        seen.add(message.full_name)
        if _mapping.is_choice(message):
            options = {}
            for one in node["oneOf"]:
                options.update(one["properties"] if "properties" in one else {one["const"]: None})
            expect(sorted(options), sorted(field.name for field in message.fields), f"the choices of {path}")
            members = {name: inner for name, inner in options.items() if inner is not None}
        else:
            members = node["properties"]
            expect(sorted(members), sorted(_mapping.known_fields(message)), f"the fields of {path}")
        for name, inner in members.items():
            field = message.fields_by_name.get(name)
            if field is None or field.message_type is None or field.message_type.GetOptions().map_entry:
                continue
            for part in alternatives(inner):
                part = named(part.get("items", part))
                if part.get("properties") or part.get("oneOf", [{}])[0].get("type") and _mapping.is_choice(field.message_type):
                    walk(part, field.message_type, f"{path}.{name}")

    walk(schema, v1.JobSpec.DESCRIPTOR, "job")
    # All messages of job files but those that rules fill by hand.
    expect(len(seen) > 25, True, f"that the walk came through the schema ({len(seen)} messages)")
    print(f"schema: {len(seen)} messages agree")


def job_files(cluster, folder):
    """Each job file means the same to the package as to `espalier submit`, with all defaults filled in."""
    files = sorted([*REPO.glob("recipes/*/*.yaml"), *REPO.glob("tests/*/job.yaml")])
    expect(len(files) > 15, True, f"that there are job files ({len(files)})")
    for number, file in enumerate(files):
        # Deep enough that `../../` stays in the folder, where files that it names can be made.
        copy = folder / "a/b/c" / file.parent.name / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        checked = subprocess.run([ESPALIER, "validate", copy, "-o", "json"], check=True, capture_output=True, text=True)
        for path in re.findall(r": (/\S+) is not on this machine", checked.stderr):
            place = Path(path)
            if folder.resolve() in place.resolve().parents:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
        # More ranks, or more workers, than there are: the job waits in the queue until it is forgotten. Two samples a rank, for `ranking`.
        name = f"file-{number}"
        changes = {"name": name, "resources.ranks": 64, "training.batch_size": 128}
        if "workers" in json.loads(checked.stdout)["resources"]:
            changes.update({"resources.workers.min": 64, "resources.workers.max": 64})
        sets = [part for field, value in changes.items() for part in ("--set", f"{field}={value}")]
        subprocess.run([ESPALIER, "submit", copy, *sets, "--server", cluster.server], check=True, capture_output=True, text=True)
        ours = cluster.validate(copy, overrides=changes)
        theirs = cluster.get(name).spec
        expect(str(ours), str(theirs), f"{file.relative_to(REPO)} as the package reads it")
        cluster.cancel(name)
        cluster.delete(name)
    print(f"job files: {len(files)} mean the same")


def toy(folder):
    """A job of two tasks on a small encoder, where the examples look for the demo's."""
    recipe = folder / "recipes/debian-packages"
    recipe.mkdir(parents=True)
    rows = [{"text": f"the {THINGS[i % 3]} is {COLOURS[i % 4]}", "colour": COLOURS[i % 4], "thing": THINGS[i % 3]} for i in range(48)]
    for split, part in [("train", rows), ("test", rows[:12])]:
        (recipe / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    tasks = "\n".join(f"  - {{name: {name}, head: single_label, data: {{train: train.jsonl, test: test.jsonl, columns: {{label: {name}}}}}}}"
                      for name in ["colour", "thing"])
    (recipe / "job.yaml").write_text(f"""\
name: toy
seed: 1
backbone: {{path: {json.dumps(str(MODEL.resolve()))}, max_tokens: 16}}
tuning: {{last_blocks: 1}}
tasks:
{tasks}
training: {{steps: 12, batch_size: 8}}
checkpoint: {{every_steps: 0}}
output: ../../export
""")
    return recipe / "job.yaml"


def examples(folder, site, server):
    """Every example runs as its first line says, in a folder like the repository."""
    path = os.pathsep.join([str(site), str(HOME / "pyclient")])
    env = {**os.environ, "PYTHONPATH": path, "ESPALIER_SERVER": server, "MPLBACKEND": "Agg", "MPLCONFIGDIR": str(folder / "matplotlib")}

    def run(name, *arguments):
        command = [sys.executable, PACKAGE / "examples" / name, *arguments]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            raise Failure(f"{name} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        print(f"{name}: passed")
        return done.stdout

    lines = (PACKAGE / "examples/affinity.py").read_text().splitlines()
    expect(len(lines) <= 15, True, f"that affinity.py is short ({len(lines)} lines)")
    run("affinity.py")
    expect((folder / "affinity.png").read_bytes()[1:4], b"PNG", "the head of the picture")
    shutil.rmtree(folder / "export")
    expect(Path(run("submit.py", "recipes/debian-packages/job.yaml").strip()).resolve(), folder / "export", "what submit.py prints")
    followed = run("watch.py", "toy", "affinity")
    for line in ["toy: SUCCEEDED", "affinity: SUCCEEDED"]:
        expect(line in followed, True, f"that watch.py shows {line}")
    run("download.py", "toy", "model")
    for name in ["model.safetensors", "loss-colour.csv"]:
        expect((folder / "model" / name).is_file(), True, f"that download.py wrote {name}")


def calls(cluster, folder, job):
    """Every call of the client, on the jobs that the examples left."""
    from espalier import _calls, errors, v1

    def refused(kind, call, *arguments, **options):
        try:
            result = call(*arguments, **options)
            list(result) if hasattr(result, "__next__") else None
        except kind as error:
            return error
        raise Failure(f"{call.__name__}{arguments} was not refused")

    expect(cluster.whoami().name, "anonymous", "whom the coordinator takes us for")
    expect(cluster.cluster().workers, 2, "the cluster's workers")
    first, second = (worker.name for worker in cluster.workers())
    expect(cluster.drain(first).state, v1.Worker.DRAINING, "a drained worker's state")
    expect(cluster.undrain(first).state, v1.Worker.READY, "its state after that")
    expect(cluster.worker(second).name, second, "a worker's name")

    frame = cluster.affinity("affinity")
    expect((list(frame.index), list(frame.columns)), (["colour", "thing"], ["colour", "thing"]), "the frame's tasks")
    expect((frame.loc["colour", "colour"], frame.loc["colour", "thing"]), (1.0, frame.loc["thing", "colour"]), "the frame")
    expect(int(cluster.affinity("affinity", "steps").iloc[0, 0]) > 0, True, "that there is evidence")
    scores = cluster.scores("toy")
    expect(sorted({task for task, _ in scores.index}), ["colour", "thing"], "the tasks with scores")
    expect(0 <= scores.loc[("colour", "accuracy"), "score"] <= 1, True, "that an accuracy is one")
    losses = cluster.series_frame("toy", ["loss/"])
    expect(sorted(losses.columns), ["loss/colour", "loss/thing"], "the series")
    expect(len(losses) > 0, True, "that they have points")
    expect(len(list(cluster.logs("toy", tail=5))) > 0, True, "that there are log lines")
    refused(errors.EspalierError, cluster.download, "toy", folder / "model")
    events = [update.event.sequence for update in cluster.watch("toy") if update.HasField("event")]
    expect(events, list(range(1, len(events) + 1)), "the events' numbering")
    later = [update.event.sequence for update in cluster.watch("toy", after_sequence=events[-2]) if update.HasField("event")]
    expect(later, events[-1:], "the events after the last but one")

    wrong = refused(errors.InvalidArgumentError, cluster.submit, job, overrides={"name": "Not A Name", "tasks[0].weight": -1.0})
    expect(sorted(violation.field for violation in wrong.violations), ["name", "tasks[0].weight"], "the violated fields")
    refused(errors.AlreadyExistsError, cluster.submit, job)
    refused(errors.NotFoundError, cluster.get, "nobody")
    refused(errors.NotFoundError, cluster.watch, "nobody")
    # A file that is missing here is known to be missing there only where the cluster is the folder's own.
    with mock.patch.object(_calls, "LOCAL", folder / "cluster"):
        missing = refused(errors.JobFileError, cluster.submit, job, overrides={"tasks.colour.data.test": "gone.jsonl"})
    expect(missing.violations[0].field, "tasks[0].data.test", "the field of the missing file")

    waiting = {"name": "waits", "resources.ranks": 64, "training.batch_size": 64}
    once = "6f1c8b1e-26a4-4c5e-9a3f-5a1f6f0f1d11"
    created = [cluster.submit(job, request_id=once, overrides=waiting).uid for _ in range(2)]
    expect(created[0], created[1], "the job of the same request")
    expect([found.name for found in cluster.list(states=["QUEUED"])], ["waits"], "the jobs in the queue")
    refused(errors.NotThereError, cluster.export_path, "waits")
    refused(errors.FailedPreconditionError, cluster.delete, "waits")
    expect(cluster.pause("waits").state, v1.Job.PAUSED, "a paused job's state")
    expect(cluster.resume("waits").state, v1.Job.QUEUED, "a resumed job's state")
    cluster.cancel("waits")
    refused(errors.JobCancelledError, cluster.wait, "waits", progress=False)
    cluster.delete("waits")
    expect(sorted(found.name for found in cluster.list()), ["affinity", "toy"], "the jobs that are left")
    print("calls: passed")


async def calls_async(server):
    from espalier import AsyncClient

    async with AsyncClient(server) as cluster:
        names = [job.name async for job in cluster.list()]
        states = [update async for update in cluster.watch("toy")]
        workers = [worker.name async for worker in cluster.workers()]
        lines = [line async for line in cluster.logs("toy", tail=1)]
        frame = await cluster.affinity("affinity")
        expect((names, len(workers), len(lines), len(frame)), (["affinity", "toy"], 2, 1, 2), "what the async client sees")
        expect(len(states) > 3, True, "that it watches")
        expect((await cluster.wait("toy", progress=False)).name, "toy", "what it waited for")
        for name in names:
            await cluster.delete(name)
    print("async calls: passed")


@contextlib.contextmanager
def running(folder):
    own = ["--dir", str(folder)]
    subprocess.run([ESPALIER, "up", *own, "--listen", "127.0.0.1:0", "--detach", "--quiet"], check=True)
    try:
        yield json.loads((folder / "up.json").read_text())["server"]
    finally:
        subprocess.run([ESPALIER, "down", *own], check=True)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        site = install(folder)
        sys.path.insert(0, str(site))
        own_tests()
        from espalier import Client, errors

        covers_the_schema()
        try:
            with running(folder / "cluster") as server, Client(server) as cluster:
                job_files(cluster, folder / "files")
                job = toy(folder)
                examples(folder, site, server)
                calls(cluster, folder, job)
                asyncio.run(calls_async(server))
        except errors.EspalierError as error:
            raise Failure(f"{type(error).__name__}: {error}") from error
    print("package.py: passed")


if __name__ == "__main__":
    try:
        main()
    except (Failure, subprocess.SubprocessError) as error:
        sys.exit(f"package.py: failed: {error}" + (f"\n{error.stderr}" if getattr(error, "stderr", None) else ""))

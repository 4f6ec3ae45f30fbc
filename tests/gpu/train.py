#!/usr/bin/env python3
"""Trains on a GPU with real processes, and prints one line a check: NAME, RESULT and NOTE with tabs between.

Starts coordinators and workers on loopback, on ports that are free. `check.sh` runs it and makes a table; logs go to OUT,
measurements also to OUT/speed.md and OUT/balancers.md. With `--device cpu` all of it runs with a tiny model on the CPU:
that shows whether the checks themselves work. RESULT is pass, FAIL, measured, time out, no GPU or skipped (no time left).
"""

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import jobs
import machine
import speed
from stage import PROGRAMS, Clock, Failure, OutOfTime, Process, Stage, difference, digest, logged

HERE = Path(__file__).resolve().parent
# A worker with this device cannot start on any machine that these checks are for.
ABSENT = "cuda:7"
TOLERANCE = 1e-3


class Context:
    """What a check is given: where to run, on what, how long; and names of its own."""

    def __init__(self, args, material, name, seconds):
        self.args, self.material, self.clock = args, material, Clock(seconds)
        self.folder = args.out / name.replace(" ", "-")
        self.cpu = args.device == "cpu"

    def stage(self, name="cluster"):
        return Stage(self.folder / name, self.args.binaries, self.clock)

    @property
    def device(self):
        """A worker's --device, for one rank or several on the same."""
        return "cpu" if self.cpu else "cuda:0"

    def kind(self, device):
        """The same as job files say it."""
        return device.split(":")[0]

    def model(self, shape="MiniLM"):
        return self.material.model("tiny" if self.cpu else shape)

    def spec(self, name, tasks=None, shape="MiniLM", device=None, **more):
        return jobs.spec(name, self.model(shape), tasks or self.material.tasks(), self.kind(device or self.device), **more)


def device(context):
    """A worker says what it computes on, and one that is asked for what is not there says that."""
    with context.stage() as stage:
        worker = stage.worker("here", context.device)
        said = logged(worker.log, "device")
        if said != context.device:
            raise Failure(f"a worker with --device {context.device} says that it computes on {said!r}; its log is {worker.log}")
        devices = [device["name"] for one in stage.call("ClusterService/ListWorkers")["workers"] for device in one["devices"]]
        if devices != [context.device]:
            raise Failure(f"a worker with --device {context.device} offers {devices}")
        absent = Process(stage.folder / "absent.log", stage.worker_command("absent", ABSENT))
        stage.workers["absent"] = absent
        context.clock.until(f"a worker with --device {ABSENT} to end", lambda: absent.child.poll() is not None)
        code = absent.child.returncode
    there, lines = machine.devices(), [message_of(line) for line in absent.log.read_text(errors="replace").splitlines()]
    message = next((line for line in lines if ABSENT in line), absent.tail())
    counted = context.cpu or re.search(rf"\b{there}\b" + (r"|\bone\b" if there == 1 else ""), message.replace(ABSENT, ""))
    if code == 0 or ABSENT not in message or not counted:
        raise Failure(f"--device {ABSENT} (there are {there}) ended with {code} and said: {message}; its log is {absent.log}")
    return f"{said}; {ABSENT} is refused: {message}"


def message_of(line):
    """What a line of a log says, whether it is JSON or not."""
    try:
        return json.loads(line)["fields"]["message"]
    except (ValueError, KeyError, TypeError):
        return line


def agreement(context):
    """The same job on the CPU and on the GPU: losses of both tasks after every step."""
    seen = {}
    for place, on in (("cpu", "cpu"), ("device", context.device)):
        with context.stage(place) as stage:
            stage.worker("one", on)
            evaluated = {"every_steps": 1, "select_best": False}
            tasks = context.material.tasks(evaluated=True)
            stage.finish(stage.submit(context.spec("agreement", tasks, device=on, steps=20, evaluation=evaluated)))
            seen[place] = jobs.losses(stage.metrics("agreement"))
    ours, reference = seen["device"], seen["cpu"]
    if set(ours) != set(reference) or len(ours) < 2 * 20:
        counts = f"{len(ours)} losses on {context.device}, {len(reference)} on the CPU"
        raise Failure(f"not every step told its losses: {counts}; logs are in {context.folder}")
    apart, where = max((abs(ours[key] - reference[key]) / abs(reference[key]), key) for key in reference)
    what, step, task = where
    # Losses that hardly move would agree whatever the gradients were.
    moved = [[loss for (split, _, of), loss in reference.items() if split == "validation" and of == name] for name in ("news", "questions")]
    spans = " and ".join(f"from {min(some):.2f} to {max(some):.2f}" for some in moved)
    note = f"largest difference {apart:.1e} of {len(ours)} losses ({what}, {task}, step {step}); they go {spans}"
    if not apart <= TOLERANCE:
        raise Failure(f"{note}; allowed are {TOLERANCE:.0e}")
    return note


def same_bits(context):
    """Two runs of one spec, each by a new process with two ranks."""
    exports = []
    for turn in ("first", "second"):
        with context.stage(turn) as stage:
            stage.worker("both", context.device, ranks=2)
            exports.append(digest(stage.finish(stage.submit(context.spec("bits", ranks=2, steps=60)))["exportPath"]))
    odd = difference(*exports)
    if odd:
        raise Failure(f"two runs differ in {', '.join(odd)}")
    return f"two runs of 60 steps on 2 ranks are bit-identical: {told(exports[0])}"


def recovery(context):
    """One of two workers is killed and started again; beside it a run that nobody disturbs."""
    steps, exports, note = 100 if context.cpu else 300, [], ""
    guard = {"recovery": {"snapshot_every": 10}, "checkpoint": {"every_steps": steps // 3, "keep": 1}}
    for disturbed in (False, True):
        with context.stage("disturbed" if disturbed else "undisturbed") as stage:
            for name in ("one", "two"):
                stage.worker(name, context.device)
            name = stage.submit(context.spec("recovery", ranks=2, steps=steps, **guard))
            if disturbed:
                stage.reach(name, steps * 2 // 5)
                stage.workers["two"].kill()
                killed = time.monotonic()
                stage.worker("two", context.device)
                # Whoever is back is not yet at work: the job is, once a later generation has done a step.
                back = lambda: any(one.get("firstStepTime") for one in stage.job(name).get("recoveries", []))
                context.clock.until("the job to go on", lambda: back() or stage.job(name).get("state") in ("SUCCEEDED", "FAILED"))
                took = time.monotonic() - killed
            job = stage.finish(name)
            exports.append(digest(job["exportPath"]))
            if disturbed:
                incidents = job.get("recoveries", [])
                if not incidents:
                    raise Failure(f"the job knows of no worker that was lost; logs are in {stage.folder}")
                one = incidents[0]
                note = (f"killed at step {one['reachedStep']}, training again after {took:.1f} s from a {one['source'].lower()} of step "
                        f"{one['fromStep']}, {len(incidents)} incident(s)")
    odd = difference(*exports)
    if odd:
        raise Failure(f"{note}; the export differs from an undisturbed run's in {', '.join(odd)}")
    return f"{note}; bit-identical with an undisturbed run: {told(exports[0])}"


def told(export):
    """How many files were compared, and the beginnings of the hashes of the backbone's and the heads'."""
    return f"{len(export)} files, " + ", ".join(f"{name} {sha[:12]}" for name, sha in export.items() if "/" not in name)


# Name, the function, seconds that it may take, result if all is well.
CHECKS = [
    ("device", device, 60, "pass"),
    ("cpu and gpu agree", agreement, 80, "pass"),
    ("same bits twice", same_bits, 60, "pass"),
    ("recovery", recovery, 90, "pass"),
    ("speed", speed.beside_pytorch, 190, "measured"),
    ("balancers", speed.balancers, 60, "measured"),
]


def tell(name, result, note):
    print(f"{name}\t{result}\t{' '.join(note.split())}", flush=True)


def run(args, material):
    """All checks; false if one of them failed."""
    end, good = time.monotonic() + args.limit, True
    for name, check, seconds, well in CHECKS:
        if args.only and name not in args.only:
            continue
        left = end - time.monotonic()
        if left < 10:
            tell(name, "skipped", "out of time")
            good = False
            continue
        begun = time.monotonic()
        context = Context(args, material, name, min(seconds, left))
        context.folder.mkdir(parents=True, exist_ok=True)
        try:
            result, note = well, check(context)
        except Failure as error:
            result, note = "FAIL", str(error)
        except OutOfTime as error:
            result, note = "time out", f"{error}; logs are in {context.folder}"
        except Exception as error:  # what nobody thought of must not keep the other checks from running
            (context.folder / "traceback.txt").write_text(traceback.format_exc())
            result, note = "FAIL", f"{type(error).__name__}: {error}; see {context.folder / 'traceback.txt'}"
        good = good and result == well
        tell(name, result, f"{time.monotonic() - begun:.0f} s: {note}")
    return good


def stop(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for logs and tables")
    parser.add_argument("binaries", type=Path, metavar="BIN", help=f"folder with {', '.join(PROGRAMS)}")
    parser.add_argument("--carried", type=Path, default=HERE, help="folder with model/ and data/ (default: the folder of this script)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: with a tiny model, to try the checks themselves")
    parser.add_argument("--limit", type=float, default=345, metavar="SECONDS", help="for all of it (default: %(default)s)")
    names = [name for name, *_ in CHECKS]
    parser.add_argument("--only", action="append", metavar="CHECK", help=f"this check alone; may be repeated: {', '.join(names)}")
    args = parser.parse_args()
    for name in args.only or []:
        if name not in names:
            parser.error(f"no check {name!r}; there are {', '.join(names)}")
    for name in PROGRAMS:
        if not (args.binaries / name).is_file():
            parser.error(f"no {name} in {args.binaries}")
    for part in ("model/config.json", "model/tokenizer.json", "data"):
        if not (args.carried / part).exists():
            parser.error(f"no {part} in {args.carried}: tests/gpu/carry.py brings it, --carried says where it is")
    args.out, args.binaries, args.carried = args.out.resolve(), args.binaries.resolve(), args.carried.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    # So that what was started ends with this script; one signal is enough, a second one must not disturb that.
    signal.signal(signal.SIGTERM, stop)
    if args.device == "cuda" and machine.devices() == 0:
        for name in args.only or names:
            tell(name, "no GPU", "the driver finds no CUDA device (libcuda.so.1)")
        sys.exit(3)
    folder = Path(tempfile.mkdtemp(prefix="espalier-gpu-"))
    try:
        good = run(args, jobs.Material(args.carried, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)

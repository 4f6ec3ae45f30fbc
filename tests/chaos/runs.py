"""One job under faults, and what it is compared with: files, accounts, throughput."""

import hashlib
import shutil
import statistics
import time
from pathlib import Path

import faults
from follow import Follow, Steps
from stage import ChaosError, Stage


def digest(folder):
    """{file: SHA-256} of all tensors of an export: the backbone's, the heads', an adapter's."""
    found = sorted(Path(folder).rglob("*.safetensors"))
    if not found:
        raise ChaosError(f"the export {folder} holds no tensors")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


class Run:
    """A job on a stage of its own: `with Run(...) as run: ...; run.finish()`."""

    def __init__(self, net, args, name, workers=None, **fields):
        self.args, self.name, self.fields = args, name, fields
        self.stage = Stage(net, args.folder / name, args, workers or args.workers)

    def __enter__(self):
        shutil.rmtree(self.stage.folder, ignore_errors=True)
        self.stage.__enter__()
        try:
            self.stage.submit(self.name, **self.fields)
            self.steps, self.follow = Steps(self.stage), Follow(self.stage, self.name)
        except BaseException:
            self.stage.__exit__()
            raise
        self.begun = time.monotonic()
        return self

    def __exit__(self, *_):
        self.follow.end()
        self.stage.__exit__()

    def reached(self):
        """Steps done: from the log, or where that has none (an older worker) from the watch."""
        return max(self.steps.reached(), self.follow.step)

    def until(self, step, seconds):
        self.stage.until(f"step {step} of job {self.name}", lambda: self.reached() >= step or self.follow.over, seconds)

    def finish(self, seconds):
        """Waits for the job's end; what there is to say about the run."""
        self.stage.until(f"the end of job {self.name} (now {self.follow.state}: {self.follow.message})",
                         lambda: self.follow.over, max(1, seconds - (time.monotonic() - self.begun)))
        self.stage.until("the coordinator to answer", lambda: self.stage.job(self.name) is not None, 60)
        job = self.stage.job(self.name)
        moments = [at for at, _, _ in self.steps.read()]
        found = {"state": job["state"], "generation": int(job["generation"]), "recoveries": job.get("recoveries", []),
                 "goodput": job.get("goodput"), "seconds": moments[-1] - moments[0] if moments else None,
                 "audit": self.stage.audit(self.name), "deaths": sum(w.deaths for w in self.stage.workers.values())}
        if job["state"] != "SUCCEEDED":
            found["why"] = f"{job['state_reason']}; logs are in {self.stage.folder}"
            return found
        found["sha"] = digest(job["export_path"])
        if not self.args.keep:
            shutil.rmtree(self.stage.folder / "exports", ignore_errors=True)
        return found


def replayed(found):
    """Steps done again, per recovery."""
    return [again(one) for one in found["recoveries"]]


def again(recovery):
    """Steps that a recovery did again."""
    if "replayed_steps" in recovery:
        return int(recovery["replayed_steps"])
    return max(0, int(recovery.get("reached", 0)) - int(recovery.get("from", 0)))


def undisturbed(net, args, name="undisturbed", workers=None, **fields):
    with Run(net, args, name, workers, **fields) as run:
        found = run.finish(args.limit)
    if found["state"] != "SUCCEEDED":
        raise ChaosError(f"the undisturbed run did not succeed: {found['why']}")
    print(f"{name}: {seconds(found['seconds'])}, {found['generation']} generation(s)", flush=True)
    return found


def disturbed(net, args, name, plan, **fields):
    with Run(net, args, name, args.workers + args.spares, **fields) as run:
        tell = lambda fault: print(f"{name}: step {run.reached()}: {fault}", flush=True)
        struck = faults.strike(run.stage, plan, run.reached, lambda: run.follow.over, tell)
        found = run.finish(args.limit)
    found["struck"] = len(struck)
    if len(struck) < len(plan):
        print(f"{name}: the job ended before {len(plan) - len(struck)} of {len(plan)} faults", flush=True)
    return found


def verdict(found, wanted):
    """"identical", or what differs."""
    if "sha" not in found:
        return f"{found['state']}: {found.get('why', '')}"
    if found["sha"] == wanted["sha"]:
        return "identical"
    files = sorted(set(found["sha"]) | set(wanted["sha"]))
    return "DIFFERS: " + ", ".join(file for file in files if found["sha"].get(file) != wanted["sha"].get(file))


def seconds(value):
    return "-" if value is None else f"{value:.1f} s"


def percent(value):
    return "-" if value is None else f"{100 * value:.1f} %"


HEAD = ["| run | faults | export | seconds | recoveries | steps replayed, sum / most | goodput | audit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |"]


def row(name, found, wanted):
    steps, (clean, said) = replayed(found), found["audit"]
    audit = said if clean is None else ("clean" if clean else f"NOT CLEAN: {said}")
    return (f"| {name} | {found.get('struck', 0)} | {verdict(found, wanted)} | {seconds(found['seconds'])} | {len(steps)} | "
            f"{sum(steps)} / {max(steps, default=0)} | {percent(found['goodput'])} | {audit} |")


def compared(wanted):
    """The sentence that says which files were compared."""
    files = ", ".join(f"`{file}`" for file in wanted["sha"])
    return f"Compared by SHA-256 with the undisturbed run's: {files}."


PHASES = {"detect": "fault to detected", "agree": "to agreed", "connect": "to connected", "restore": "to state restored",
          "first_step": "to first step"}


def timeline(recoveries):
    """Median milliseconds of each phase of the coordinator's accounts, as a row; none where it kept none."""
    spans = {phase: [1000 * one["seconds"][phase] for one in recoveries if phase in one.get("seconds", {})] for phase in PHASES}
    if not any(spans.values()):
        return []
    cells = [f"{statistics.median(spans[phase]):.0f}" if spans[phase] else "-" for phase in PHASES]
    return ["", "| median ms of a phase, by the coordinator's accounts | " + " | ".join(PHASES.values()) + " |",
            "| --- | " + " | ".join(["---"] * len(PHASES)) + " |", "| | " + " | ".join(cells) + " |"]

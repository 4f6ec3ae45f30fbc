"""What can be asked of a chaos run. Each mode answers Markdown lines and whether all was as it must be."""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time

import faults
from follow import durations, next_after
from runs import HEAD, Run, compared, disturbed, percent, replayed, row, timeline, undisturbed, verdict
from stage import REPO, ChaosError


def good(found, wanted):
    return verdict(found, wanted) == "identical" and found["audit"][0] is not False


def kills(net, args):
    """--kills K --runs R: K faults of the asked kinds over R runs, at random steps."""
    wanted = undisturbed(net, args, training__steps=args.steps)
    lines, fine, most = [*HEAD], True, 0
    for index in range(args.runs):
        count = args.kills // args.runs + (index < args.kills % args.runs)
        plan = faults.by_steps(args.seed * 1000 + index, args.kinds, count, args.steps)
        name = f"run-{index + 1}"
        found = disturbed(net, args, name, plan, training__steps=args.steps)
        lines.append(row(name, found, wanted))
        print(lines[-1], flush=True)
        fine &= good(found, wanted) and found["struck"] == count
    return [f"{args.kills} faults ({', '.join(args.kinds)}) over {args.runs} runs of {args.steps} steps, "
            f"{args.workers} workers and {args.spares} spare(s), seed {args.seed}. {compared(wanted)}", "", *lines], fine


def soak(net, args):
    """--minutes M --every E: a fault every E seconds, half of them kills, against the same job undisturbed. A quarter of it
    runs undisturbed once more afterwards: a machine that others use is not as fast in one half hour as in the next."""
    short = undisturbed(net, args, "calibration", training__steps=args.steps)
    if not short["seconds"]:
        raise ChaosError("workers log no moments of steps: the soak needs this version's workers")
    length = max(args.steps, int(args.steps / short["seconds"] * 60 * args.minutes))
    args.limit = max(args.limit, 240 * args.minutes)
    fields = {"training__steps": length, "evaluation__every_steps": length // 4}
    wanted = undisturbed(net, args, "undisturbed", **fields)
    plan = faults.by_time(args.seed, args.kinds, args.every, wanted["seconds"])
    found = disturbed(net, args, "soak", plan, **fields)
    after = undisturbed(net, args, "afterwards", **{**fields, "training__steps": length // 4})
    pace = lambda run, steps: 1000 * run["seconds"] / steps if run["seconds"] else None
    paces = [pace(wanted, length), pace(found, length), pace(after, length // 4)]
    share = (paces[0] + paces[2]) / 2 / paces[1] if all(paces) else None
    lines = [f"Soak: {length} steps on {args.workers} workers and {args.spares} spare(s), a fault every {args.every:g} s (every other one a kill, "
             f"the others of {', '.join(kind for kind in args.kinds if kind != 'kill') or 'kill'}), seed {args.seed}. {compared(wanted)}", "", *HEAD,
             row("undisturbed", wanted, wanted), row("soak", found, wanted), "",
             f"Throughput of undisturbed runs that was kept: {percent(share)}. Milliseconds a step: {' undisturbed, '.join(f'{one:.2f}' if one else '-' for one in paces[:2])} "
             f"in the soak, {paces[2] or 0:.2f} undisturbed afterwards ({length // 4} steps).", *timeline(found["recoveries"])]
    return lines, good(found, wanted) and share is not None and share >= 0.95


def elastic(net, args):
    """--elastic: 1, 2, 3 and 4 workers, and a run that goes from one to four, to two, to three."""
    fields = {"training__steps": args.steps}
    wanted = undisturbed(net, args, "workers-4", 4, **fields)
    lines, fine = [*HEAD, row("4 workers", wanted, wanted)], True
    for count in (3, 2, 1):
        found = undisturbed(net, args, f"workers-{count}", count, **fields)
        lines.append(row(f"{count} worker(s)", found, wanted))
        fine &= good(found, wanted)
    with Run(net, args, "changing", 4, **fields) as run:
        stage, part = run.stage, args.steps // 5
        for share, workers in ((1, (0,)), (2, (0, 1, 2, 3)), (3, (1, 3)), (4, (1, 2, 3))):
            run.until(share * part, args.limit)
            here, there = set(stage.workers), {f"w{index}" for index in workers}
            print(f"changing: step {run.reached()}: workers {sorted(there)}", flush=True)
            for name in sorted(here - there):
                stage.stop_worker(name)
            for name in sorted(there - here):
                stage.start_worker(name)
        found = run.finish(args.limit)
    lines.append(row("4, 1, 4, 2, 3 workers", found, wanted))
    return [f"Elastic: {args.steps} steps of 4 ranks on different numbers of workers. {compared(wanted)}", "", *lines], fine and good(found, wanted)


def coordinator(net, args):
    """--coordinator N: kill -9 of a coordinator N times; how long steps and takeovers take."""
    fields = {"training__steps": args.steps, "evaluation__every_steps": args.steps, "checkpoint__every_steps": 0}
    wanted = undisturbed(net, args, **fields)
    dice, killed, takeovers = random.Random(args.seed), [], []
    with Run(net, args, "coordinator", **fields) as run:
        for index in range(args.coordinator):
            run.until((index + 1) * args.steps // (args.coordinator + 1), args.limit)
            if run.follow.over:
                break
            victim = run.stage.coordinators[dice.choice(sorted(run.stage.coordinators))]
            killed.append(time.time())
            victim.send(signal.SIGKILL)
            # A standby's death is no takeover, and the command then answers at once.
            run.stage.until("a coordinator to answer", lambda: run.stage.led(run.name), 60)
            takeovers.append(time.time() - killed[-1])
        found = run.finish(args.limit)
        steps = durations(run.steps.read())
    found["struck"] = len(killed)
    if not steps:
        raise ChaosError("workers log no moments of steps: this mode needs this version's workers")
    median = statistics.median(length for _, length in steps)
    near = [length for end, length in steps if any(at <= end <= at + 3 for at in killed)]
    far = [length for end, length in steps if not any(at <= end <= at + 3 for at in killed)]
    long = lambda some: percent(sum(length > 2 * median for length in some) / len(some)) if some else "-"
    lines = [f"Coordinator killed {len(killed)} times, {args.coordinators} of them with {'etcd' if args.etcd else 'a store of its own each'}. {compared(wanted)}",
             "", *HEAD, row("coordinator", found, wanted), "",
             "| median step, ms | longest step within 3 s of a kill, in medians | steps over 2 medians there | and elsewhere | longest elsewhere | kill to first answer, s, median / most |",
             "| --- | --- | --- | --- | --- | --- |",
             f"| {1000 * median:.2f} | {max(near, default=0) / median:.2f} | {long(near)} | {long(far)} | {max(far, default=0) / median:.2f} | "
             f"{statistics.median(takeovers):.2f} / {max(takeovers):.2f} |"]
    return lines, good(found, wanted) and found["generation"] == wanted["generation"]


def recovery_times(net, args):
    """--recovery-times N: from kill -9 of a worker to the next committed step, and torchrun's beside it."""
    dice, times, missed = random.Random(args.seed), [], 0
    fields = {"training__steps": 100_000_000, "evaluation__every_steps": 100_000_000}
    with Run(net, args, "recovery", args.workers + args.spares, **fields) as run:
        run.until(200, args.limit)
        if not run.steps.read():
            raise ChaosError("workers log no moments of steps: this mode needs this version's workers")
        for _ in range(args.recovery_times):
            # Until the cluster is whole again and has gone on for a moment.
            run.stage.until("all workers to be back", lambda: run.stage.ready() >= len(run.stage.names), 60)
            time.sleep(dice.uniform(1.0, 2.0))
            # Of a spare's death a job takes no notice.
            victim = dice.choice(run.stage.seated())
            moment = time.time()
            faults.kill(run.stage, faults.Fault("kill", sorted(run.stage.workers).index(victim), 0))
            try:
                run.stage.until("the next step", lambda: next_after(run.steps.read(), moment), 60)
                times.append(next_after(run.steps.all, moment)[0])
                print(f"recovery {len(times)}: {times[-1]:.3f} s", flush=True)
            except ChaosError:
                missed += 1
            if run.follow.over:
                raise ChaosError(f"the job ended: {run.follow.message}")
        recoveries = (run.stage.job(run.name) or {}).get("recoveries", [])
        run.stage.espalier("cancel", run.name)
    table = ["| kill -9 of a worker to the next committed step | measured | no step within 60 s | median, s | p99, s | longest, s |",
             "| --- | --- | --- | --- | --- | --- |", quantiles("espalier", times, missed)]
    if args.peer:
        table.append(quantiles("`torchrun --standalone --max-restarts`, DDP over Gloo", *peer(args)))
    spare = f"{args.spares} spare(s)" if args.spares else "no spare"
    lines = [f"Recovery: {args.workers} workers, {spare}, a killed one is started again after {args.restart_delay:g} s, seed {args.seed}. Moments of steps are rank 0's own.",
             "", *table, *timeline(recoveries)]
    return lines, bool(times) and not missed and statistics.median(times) <= 1 and quantile(times, 0.99) <= 3


def quantile(values, share):
    """The smallest value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def quantiles(name, times, missed):
    if not times:
        return f"| {name} | 0 | {missed} | - | - | - |"
    return f"| {name} | {len(times)} | {missed} | {statistics.median(times):.2f} | {quantile(times, 0.99):.2f} | {max(times):.2f} |"


def peer(args):
    """The same measurement of torchrun: (seconds, kills without a next step)."""
    command = [sys.executable, str(REPO / "tests/chaos/peer_elastic.py"), "--kills", str(args.peer), "--workers", str(args.workers),
               "--seed", str(args.seed)]
    env = {**os.environ, "PYTHONPATH": os.environ.get("ESPALIER_PYSITE", str(REPO / ".espalier/pysite"))}
    # The peer must find PyTorch's own libraries, not those that our binaries use.
    env.pop("LD_LIBRARY_PATH", None)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120 + 90 * args.peer)
    if done.returncode != 0:
        print(f"the peer did not run: {done.stderr.strip()[-800:]}", flush=True)
        return [], args.peer
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["seconds"], answer["missed"]


def rolling(net, args):
    """--rolling: coordinators, then workers, are replaced one by one by SIGTERM, in the order of an upgrade."""
    fields = {"training__steps": args.steps}
    wanted = undisturbed(net, args, **fields)
    with Run(net, args, "rolling", args.workers + args.spares, **fields) as run:
        stage, slow, struck = run.stage, [], 0
        victims = [*sorted(stage.coordinators.items()), *sorted(stage.workers.items())]
        for index, (name, process) in enumerate(victims):
            run.until((index + 1) * args.steps // (len(victims) + 2), args.limit)
            if run.follow.over:
                break
            starts, struck = process.starts, struck + 1
            begun = time.monotonic()
            slow += [] if process.replace() else [name]
            # As Kubernetes waits until a pod is ready before it takes the next one.
            back = lambda: process.starts > starts and (name in stage.workers or stage.serves(name))
            stage.until(f"{name} to be back", lambda: back() and stage.ready() >= len(stage.names), 60)
            print(f"rolling: step {run.reached()}: {name} was replaced in {time.monotonic() - begun:.1f} s", flush=True)
        found = run.finish(args.limit)
    found["struck"] = struck
    causes = [str(one.get("cause", "")).lower() for one in found["recoveries"]]
    told = ", ".join(f"{causes.count(cause)} by {cause or 'an unknown cause'}" for cause in sorted(set(causes)))
    lines = [f"Rolling replacement of {args.coordinators} coordinator(s), then of {args.workers + args.spares} workers, by SIGTERM. {compared(wanted)}", "",
             *HEAD, row("undisturbed", wanted, wanted), row("rolling", found, wanted), "",
             f"Replaced: {struck} of {len(victims)}. Recoveries: {told or 'none'}. Killed because they did not end in 60 s: {', '.join(slow) or 'none'}."]
    whole = struck == len(victims) and not slow and sum(replayed(found)) == 0
    return lines, whole and good(found, wanted) and bool(found["audit"][0])

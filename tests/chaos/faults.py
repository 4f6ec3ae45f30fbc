"""Faults and when they strike: a plan is a function of its seed."""

import random
import signal
import time
from dataclasses import dataclass

MEGABYTE = bytes(1 << 20)


@dataclass(frozen=True)
class Fault:
    """What happens once the job has done `step` steps, or `at` seconds after its first; to whom, for how long."""

    kind: str
    victim: int
    seconds: float
    step: int = 0
    at: float = 0.0

    def __str__(self):
        lasting = "" if self.kind in SUDDEN else f" for {self.seconds:.1f} s"
        return f"{self.kind} of {self.victim}{lasting}"


def kill(stage, fault):
    # One that is just being started again is killed once it runs: every kill of a plan happens.
    deadline = time.monotonic() + 10
    while not worker(stage, fault).send(signal.SIGKILL) and time.monotonic() < deadline:
        time.sleep(0.01)


def stall(stage, fault):
    victim = worker(stage, fault)
    victim.send(signal.SIGSTOP)
    stage.over.wait(fault.seconds)
    victim.send(signal.SIGCONT)


def partition(stage, fault):
    cut(stage, worker(stage, fault).host, fault.seconds)


def control(stage, fault):
    cut(stage, coordinator(stage, fault).host, fault.seconds)


def cut(stage, host, seconds):
    stage.net.cut(host)
    try:
        stage.over.wait(seconds)
    finally:
        stage.net.join(host)


def loss(stage, fault):
    worsen(stage, fault, "netem", "loss", "5%")


def slow(stage, fault):
    worsen(stage, fault, "tbf", "rate", "20mbit", "burst", "32k", "latency", "200ms")


def worsen(stage, fault, *how):
    host = worker(stage, fault).host
    stage.net.worsen(host, *how)
    try:
        stage.over.wait(fault.seconds)
    finally:
        stage.net.mend(host)


def coordinator_killed(stage, fault):
    coordinator(stage, fault).send(signal.SIGKILL)


def etcd_killed(stage, _):
    stage.etcd.send(signal.SIGKILL)


def disk(stage, fault):
    filler = stage.data / "filler"
    try:
        with open(filler, "wb", buffering=0) as file:
            while True:
                file.write(MEGABYTE)
    except OSError:
        stage.over.wait(fault.seconds)
    finally:
        filler.unlink(missing_ok=True)


KINDS = {"kill": kill, "stall": stall, "partition": partition, "loss": loss, "slow": slow, "coordinator": coordinator_killed,
         "control": control, "etcd": etcd_killed, "disk": disk}
# Those that are over at once, those that need hosts of their own.
SUDDEN = {"kill", "coordinator", "etcd"}
APART = {"partition", "control", "loss", "slow"}
NETEM = {"loss"}


def worker(stage, fault):
    names = sorted(stage.workers)
    return stage.workers[names[fault.victim % len(names)]]


def coordinator(stage, fault):
    names = sorted(stage.coordinators)
    return stage.coordinators[names[fault.victim % len(names)]]


def possible(kinds, net, args):
    """The kinds that this run can have, and a sentence for each that it can't."""
    missing = {}
    for kind in kinds:
        if kind in APART and not net.apart:
            missing[kind] = "needs hosts of their own, which --no-netns rules out"
        elif kind in NETEM and not net.netem:
            missing[kind] = "needs netem, which this kernel lacks"
        elif kind == "etcd" and not args.etcd:
            missing[kind] = "needs --etcd"
        elif kind == "disk" and not args.disk:
            missing[kind] = "needs --disk MB"
    return [kind for kind in kinds if kind not in missing], missing


def by_steps(seed, kinds, count, steps, longest=2.0):
    """`count` faults over the middle nine tenths of a run of `steps` steps."""
    dice = random.Random(seed)
    at = sorted(dice.randrange(steps // 20, steps - steps // 20) for _ in range(count))
    return [Fault(dice.choice(kinds), dice.randrange(1 << 16), dice.uniform(0.2, longest), step=step) for step in at]


def by_time(seed, kinds, every, seconds, longest=4.0):
    """A fault every `every` seconds, every other one a kill."""
    dice = random.Random(seed)
    others = [kind for kind in kinds if kind != "kill"] or ["kill"]
    plan = []
    for index in range(1, max(1, int(seconds / every))):
        kind = "kill" if index % 2 else dice.choice(others)
        plan.append(Fault(kind, dice.randrange(1 << 16), dice.uniform(0.5, longest), at=index * every))
    return plan


def strike(stage, plan, step, over, told):
    """Lets a plan happen until the job is over; answers [(moment, fault)]. `step` is how far the job is, `over` whether it
    has ended, `told` is called with each fault."""
    struck, begun = [], None
    for fault in plan:
        while not over():
            # How far the job is costs a look into the workers' logs, on the processors that it trains on: none while only
            # time has to pass.
            early = begun is not None and fault.step == 0
            done = 0 if early else step()
            begun = time.time() if begun is None and done > 0 else begun
            if begun is not None and done >= fault.step and time.time() - begun >= fault.at:
                break
            time.sleep(0.1 if early else 0.02)
        if over():
            break
        struck.append((time.time(), fault))
        told(fault)
        KINDS[fault.kind](stage, fault)
    return struck

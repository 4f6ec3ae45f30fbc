#!/usr/bin/env python3
"""The peer of `chaos.py --recovery-times`: torchrun's elastic restarts, measured in the same way.

A small network under DistributedDataParallel over Gloo, as torchrun's documentation has it: a snapshot file every
few steps, from which a restarted worker group goes on. This script starts `torch.distributed.run --standalone` with one
process per worker, kills one of them with SIGKILL, and takes the time until rank 0 has done a step that was not
done before. Prints one line of JSON. Needs PyTorch (PYTHONPATH=.espalier/pysite).
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SNAPSHOT_EVERY = 20


def train(folder):
    """One rank: trains until it is killed, and says when each step was done."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, restarts = dist.get_rank(), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 128), torch.nn.GELU(), torch.nn.Linear(128, 10)]
    model = torch.nn.Sequential(*layers)
    snapshot, first = folder / "snapshot.pt", 0
    if snapshot.exists():
        held = torch.load(snapshot, weights_only=True)
        model.load_state_dict(held["model"])
        first = held["step"]
    model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if snapshot.exists():
        optimizer.load_state_dict(held["optimizer"])
    log = open(folder / "steps", "a", buffering=1) if rank == 0 else None
    step = first
    while True:
        torch.manual_seed(step * dist.get_world_size() + rank)
        inputs, labels = torch.randn(8, 64), torch.randint(10, (8,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        step += 1
        if rank == 0:
            log.write(f"{time.time()} {restarts} {step}\n")
            if step % SNAPSHOT_EVERY == 0:
                part = folder / "snapshot.part"
                torch.save({"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
                part.rename(snapshot)


def steps(folder):
    """[(moment, restarts, step)] of whole lines."""
    path = folder / "steps"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    found = [line.split() for line in lines]
    return [(float(moment), int(restarts), int(step)) for moment, restarts, step in found]


def next_after(done, moment):
    """Seconds from `moment` to the first step beyond all that were done, by a later start of the group."""
    generation = max(restarts for at, restarts, _ in done if at <= moment)
    reached = max(step for _, restarts, step in done if restarts <= generation)
    return next((at - moment for at, restarts, step in done if restarts > generation and step > reached), None)


def struck(victim):
    """Kills the process whose number a file holds: when; none if it has ended, and its successor has not begun yet."""
    try:
        moment = time.time()
        os.kill(int(victim.read_text()), signal.SIGKILL)
        return moment
    except (ProcessLookupError, ValueError):
        return None


def until(look, seconds, child):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and child.poll() is None:
        found = look()
        if found is not None:
            return found
        time.sleep(0.01)
    return None


def measure(args, folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes", "1", "--nproc-per-node", str(args.workers),
               "--max-restarts", str(args.kills + 1), str(Path(__file__).resolve()), "--train", str(folder)]
    # Without the last one PyTorch 2.11's restarted ranks find the addresses of the dead ones in the agent's store, and
    # fail once or several times before they meet: three times as long, or for ever.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    dice, seconds, missed = random.Random(args.seed), [], 0
    log = open(folder / "log", "w")
    child = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        if until(lambda: steps(folder) or None, 90, child) is None:
            raise RuntimeError(f"torchrun made no step: {(folder / 'log').read_text()[-1500:]}")
        for _ in range(args.kills):
            time.sleep(dice.uniform(1.0, 2.0))
            victim = folder / f"pid-{dice.randrange(args.workers)}"
            moment = until(lambda: struck(victim), 90, child)
            if moment is None:
                print(f"torchrun ended: {(folder / 'log').read_text()[-3000:]}", file=sys.stderr)
                missed = args.kills - len(seconds)
                break
            found = until(lambda: next_after(steps(folder), moment), 90, child)
            if found is None:
                missed += 1
                if child.poll() is not None:
                    missed = args.kills - len(seconds)
                    break
            else:
                seconds.append(round(found, 3))
    finally:
        # Its workers are in its session: one signal ends all.
        try:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(timeout=40)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            child.kill()
        for path in folder.glob("pid-*"):
            try:
                os.kill(int(path.read_text()), signal.SIGKILL)
            except (ProcessLookupError, ValueError):
                pass
    return {"seconds": seconds, "missed": missed}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        return train(args.train)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(args, Path(folder))))


if __name__ == "__main__":
    main()

"""Starts one process per rank, as torchrun does, but without importing PyTorch a further time."""

import os
import socket
import subprocess
import sys
import time


def ranks(count, threads=1):
    """In the process that a person started: runs this script once per rank, and ends with their exit code."""
    if "RANK" in os.environ:
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    env = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
           "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    env.setdefault("ESPALIER_BENCH_BEGIN", str(time.time()))
    children = [subprocess.Popen([sys.executable, *sys.argv], env={**env, "RANK": str(rank)}) for rank in range(count)]
    try:
        codes = [child.wait() for child in children]
    finally:
        for child in children:
            child.kill()
    sys.exit(max(map(abs, codes)))


def begin():
    """Wall-clock time at which the command was started."""
    return float(os.environ["ESPALIER_BENCH_BEGIN"])

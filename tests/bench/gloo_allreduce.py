#!/usr/bin/env python3
"""Gloo's all-reduce between processes of one host: median milliseconds, as one line of JSON."""

import argparse
import json
import os
import statistics
import time

import launch


def run(args):
    import torch
    import torch.distributed as dist

    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    data = torch.full((args.bytes // 4,), float(rank + 1))
    times = []
    for turn in range(args.warmup + args.turns):
        dist.barrier()
        begin = time.perf_counter()
        dist.all_reduce(data)
        if turn >= args.warmup:
            times.append((time.perf_counter() - begin) * 1e3)
        data.div_(args.ranks)
    if rank == 0:
        print(json.dumps({"median_ms": round(statistics.median(times), 2), "min_ms": round(min(times), 2),
                          "bytes": args.bytes, "turns": args.turns}), flush=True)
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=88_000_000)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    args = parser.parse_args()
    launch.ranks(args.ranks)
    run(args)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measures balancing: our step by method, ranks and sharding, beside LibMTL, TorchJD, DDP and FSDP2.

    python3 deploy/setup/setup.py libtorch minilm python golden
    . .espalier/env.sh; cargo build --example bench_step
    python3 tests/bench/balance.py

Runs contestants in turns on this machine, prints Markdown tables, appends them to RESULTS.md. Parts,
for --only: `methods` (step time, bytes, what of the exchange is exposed), `peers`, `memory`, and, only
if asked for, `pairs`: every method and `equal` in turns in one process, for machines whose speed drifts.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import ours
from balance_peers import WAYS
from run import HERE, MODEL, REPO, cell, title

BENCH_STEP = Path(os.environ.get("ESPALIER_BENCH_STEP") or ours.TARGET / "debug/examples/bench_step")
DATA = REPO / ".espalier/data/debian-packages"
OWNERS = "owner_combine"
# What bench_step cuts texts at.
MAX_TOKENS = 64
PARTS = ["methods", "peers", "memory"]
ON_DEMAND = ["pairs"]
METHODS = ["equal", "uw", "dwa", "famo", "gradnorm", "mgda", "pcgrad", "gradvac", "cagrad", "imtl_g", "nash_mtl", "fairgrad",
           "aligned_mtl", "upgrad", "dual_proj", "config", "moco", "db_mtl", "excess_mtl", "grad_drop", "trimmed_mean"]
# Ours, and what LibMTL and TorchJD call it; LibMTL's IMTL scales losses as well.
BESIDE = {"equal": ("EW", None), "mgda": ("MGDA", "MGDA"), "pcgrad": ("PCGrad", "PCGrad"), "cagrad": ("CAGrad", "CAGrad"),
          "imtl_g": ("IMTL", "IMTLG"), "nash_mtl": ("Nash_MTL", "NashMTL"), "aligned_mtl": ("Aligned_MTL", "AlignedMTL"),
          "upgrad": ("UPGrad", "UPGrad"), "mgda_ub": ("MGDA+rep", None)}
SHARDINGS = [("none", "all_reduce"), ("none", OWNERS), ("optimizer", OWNERS), ("full", OWNERS)]
QUICK = ["equal", "pcgrad", "upgrad"]
# Steps of a longer turn.
TURN_STEPS = 4


class Bench:
    """Every figure that was measured: {(part, what else tells it apart): [figures of a round]}."""

    def __init__(self, args):
        self.args, self.found, self.failed, self.api = args, {}, {}, {}

    def lines(self, name, command, env):
        """What a contestant prints; one that fails leaves its cells empty and the reason below the tables."""
        print(f"{name}: {shlex.join(map(str, command))}", file=sys.stderr, flush=True)
        done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True)
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing said"]
            # A backtrace may follow our error.
            why = next((line for line in said if line.lower().startswith("error:")), said[-1])
            self.failed[name] = f"exit code {done.returncode}: {why[:300]}"
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def keep(self, key, figures):
        self.found.setdefault(key, []).append(figures)

    def middle(self, key, field):
        values = [figures[field] for figures in self.found.get(key, []) if figures.get(field) is not None]
        return statistics.median(values) if values else None

    def ours(self, part, tasks, ranks, methods, setting="batch-per-task", sharding="optimizer", sync=OWNERS):
        words = ["--model", MODEL, "--data", *files(), "--tasks", tasks, "--ranks", ranks, "--steps", self.args.steps,
                 "--warmup", self.args.warmup, "--batch", self.args.batch, "--sharding", sharding, "--sync", sync]
        if setting != "batch-per-task":
            words += ["--setting", setting]
        left = list(methods)
        while left:
            name = f"`{left[0]}`, {tasks} tasks, {ranks} rank{'s' * (ranks > 1)}, {setting}, {sync}, sharding {sharding}"
            lines = self.lines(name, [BENCH_STEP, *words, "--methods", ",".join(left)], os.environ)
            for line in lines:
                self.keep((part, setting, tasks, ranks, sharding, line["method"], sync), line)
            if len(lines) == len(left):
                return
            # The first that printed nothing has failed; the others go on without it.
            failed = left[len(lines)]
            self.failed[name.replace(left[0], failed)] = self.failed.pop(name, "no figures")
            left = left[len(lines) + 1:]

    def pairs(self, tasks, ranks):
        """All methods and `equal` in turns of one step on the same batches; `equal` by owners and by all-reduce in longer ones,
        since what a turn's last step sends on hides behind no next step."""
        words = ["--model", MODEL, "--data", *files(), "--tasks", tasks, "--ranks", ranks, "--warmup", self.args.warmup, "--batch", self.args.batch]
        methods = [method for method in self.args.methods if method != "equal"]
        for steps, turns, sides in ((1, self.args.turns, ["equal", *methods]), (TURN_STEPS, self.args.turns // 2, ["equal@all_reduce", "equal"])):
            command = [BENCH_STEP, *words, "--steps", steps, "--turns", turns, "--methods", ",".join(sides)]
            for line in self.lines(f"{len(sides)} in turns, {tasks} tasks, {ranks} ranks", command, os.environ):
                self.keep(("ratio", tasks, ranks, line["method"]), line)

    def beside_method(self, setting, tasks, method):
        """One method of ours, and at once the same of the peers: a machine whose speed drifts slows both."""
        self.ours("peers", tasks, self.args.ranks[-1], [method], setting)
        ours = self.found.get(("peers", setting, tasks, self.args.ranks[-1], "optimizer", method, OWNERS), [{}])[-1].get("seconds")
        lib, jd = BESIDE[method]
        wanted = [f"libmtl:{lib}", f"torchjd:{jd}", *(["sum", "sum-one-batch"] if method == "equal" else [])]
        ways = [way for way in wanted if way in WAYS[setting]]
        # TorchJD's fastest way is sought once: aggregators differ in small problems only.
        api = ["--api", self.api[setting]] if setting in self.api else []
        for line in self.peer("balance_peers.py", "--data", *files(), "--setting", setting, "--tasks", tasks, "--ways", ",".join(ways), *api):
            if line.get("api"):
                self.api.setdefault(setting, line["api"])
            self.keep(("peers", setting, tasks, line["way"]), line)
            self.keep(("peer ratio", setting, tasks, method, line["way"]), {"ratio": over(line.get("seconds"), ours)})

    def peer(self, script, *words):
        packages = [os.environ.get("PYTHONPATH"), str(REPO / ".espalier/pysite"), str(REPO / ".espalier/pygolden")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, packages))}
        # The peer must find PyTorch's own libraries, not those that our binaries use.
        env.pop("LD_LIBRARY_PATH", None)
        common = ["--model", MODEL, "--steps", self.args.steps, "--warmup", self.args.warmup, "--batch", self.args.batch,
                  "--max-tokens", MAX_TOKENS]
        return self.lines(f"{script} {' '.join(map(str, words))}", [sys.executable, HERE / script, *common, *words], env)

    def round(self, parts):
        args = self.args
        if "methods" in parts:
            for tasks in args.tasks:
                for ranks in args.ranks:
                    self.ours("methods", tasks, ranks, args.methods)
        if "pairs" in parts:
            for tasks in args.tasks:
                for ranks in args.ranks:
                    self.pairs(tasks, ranks)
        if "peers" in parts:
            for setting in args.settings:
                for tasks in args.tasks:
                    for method in BESIDE:
                        if method in args.methods or method.endswith("_ub") and setting == "shared-input":
                            self.beside_method(setting, tasks, method)
        if "memory" in parts:
            ranks = max(args.ranks)
            for sharding, sync in SHARDINGS:
                self.ours("memory", args.tasks[0], ranks, ["equal"], sharding=sharding, sync=sync)
            for way in ["ddp", "fsdp2"]:
                for line in self.peer("memory_peers.py", "--data", DATA / "section.train.jsonl", "--ranks", ranks, "--way", way):
                    self.keep(("memory", way), line)

    # Tables.

    def step_times(self):
        args = self.args
        columns = [(tasks, ranks) for tasks in args.tasks for ranks in args.ranks]
        base = {column: self.middle(("methods", "batch-per-task", *column, "optimizer", "equal", OWNERS), "seconds") for column in columns}
        lines = ["### Step time over `equal`", "", row("method", *(f"{tasks} tasks, {ranks} rank{'s' * (ranks > 1)}" for tasks, ranks in columns)),
                 rule(len(columns) + 1)]
        lines.append(row("`equal`, s", *(cell(base[column], 3) for column in columns)))
        for method in args.methods:
            values = [self.middle(("methods", "batch-per-task", *column, "optimizer", method, OWNERS), "seconds") for column in columns]
            if method != "equal" and any(values):
                lines.append(row(f"`{method}`", *(cell(over(value, base[column])) for value, column in zip(values, columns))))
        return lines

    def paired(self):
        columns = [(tasks, ranks) for tasks in self.args.tasks for ranks in self.args.ranks]
        lines = ["### Step time over `equal` in turns", "",
                 f"{self.args.turns} turns of one step each on the same batches in one process, who begins changes. First the median of the turns' ratios, "
                 f"then the fastest turn over the fastest of `equal`; the row `equal` is `equal` by owner_combine over `equal` by all_reduce, "
                 f"{self.args.turns // 2} turns of {TURN_STEPS} steps.", "",
                 row("method", *(f"{tasks} tasks, {ranks} rank{'s' * (ranks > 1)}{what}" for tasks, ranks in columns for what in ("", ", fastest"))), rule(2 * len(columns) + 1)]
        for method in self.args.methods:
            lines.append(row(f"`{method}`", *(cell(self.middle(("ratio", *column, method), field)) for column in columns for field in ("ratio", "least_ratio"))))
        return lines

    def beside(self):
        ranks = self.args.ranks[-1]
        lines = []
        for setting in self.args.settings:
            for tasks in self.args.tasks:
                mine = {method: self.middle(("peers", setting, tasks, ranks, "optimizer", method, OWNERS), "seconds") for method in BESIDE}
                theirs = {way: self.middle(("peers", setting, tasks, way), "seconds") for way in WAYS[setting]}
                lines += ["", f"### Beside LibMTL and TorchJD: {setting}, {tasks} tasks, global batch {self.args.batch}", "",
                          f"Ours on {ranks} ranks with one thread each, theirs in one process with 2 threads; a ratio is theirs over ours, each round's by itself, the median of them.", "",
                          row("method", "ours, s", "LibMTL, s", "ratio", "TorchJD, s", "ratio"), rule(6)]
                for method, (lib, jd) in BESIDE.items():
                    names = [f"libmtl:{lib}", f"torchjd:{jd}"]
                    values = [theirs.get(name) for name in names]
                    ratios = [self.middle(("peer ratio", setting, tasks, method, name), "ratio") for name in names]
                    if mine[method] or any(values):
                        lines.append(row(f"`{method}`", cell(mine[method], 3), *(text for value, ratio in zip(values, ratios)
                                                                                 for text in (cell(value, 3), cell(ratio)))))
                plain = [(way, theirs[way]) for way in ("sum", "sum-one-batch") if theirs.get(way)]
                if plain:
                    lines += ["", "PyTorch alone, losses summed: " + ", ".join(
                        f"{value:.3f} s ({'all tasks in one batch' if way.endswith('batch') else 'as the setting says'}; "
                        f"{cell(over(value, mine['equal'])) or '?'} of our `equal`)" for way, value in plain) + "."]
                api = {figures["api"] for key, rounds in self.found.items() if key[:3] == ("peers", setting, tasks)
                       for figures in rounds if "api" in figures}
                if api:
                    lines += ["", f"TorchJD by {', '.join(sorted(api))}, which was its fastest way."]
        return lines

    def sent(self):
        lines = ["", "### Bytes that a rank sends in a step", "", row("tasks", "ranks", "method", "sync", "sent, MB", "formula, MB", "sent over formula"), rule(7)]
        for key, rounds in self.found.items():
            sent, formula = self.middle(key, "bytes_sent"), self.middle(key, "formula_bytes")
            if key[0] == "methods" and key[3] > 1 and sent is not None:
                lines.append(row(key[2], key[3], f"`{key[5]}`", rounds[0]["sync"], cell(sent / 1e6), cell(formula and formula / 1e6), cell(over(sent, formula), 4)))
        return lines

    def memory(self):
        ranks = max(self.args.ranks)
        names = {("memory", "batch-per-task", self.args.tasks[0], ranks, sharding, "equal", sync): f"sharding {sharding}, {sync}"
                 for sharding, sync in SHARDINGS} | {("memory", "ddp"): "DDP", ("memory", "fsdp2"): "FSDP2"}
        fields = ["parameter_bytes", "peak_parameter_bytes", "optimizer_bytes", "buffer_bytes"]
        lines = ["", f"### Memory of a rank, {ranks} ranks, global batch {self.args.batch}", "",
                 "Peak memory is of our process with all ranks in it, and of one process of the peers'.", "",
                 row("", "parameters between steps, MB", "at their peak, MB", "optimizer, MB", "buffers, MB", "peak memory, MB", "the same while it trains, MB", "step, s"), rule(8)]
        for key, name in names.items():
            values = [self.middle(key, field) for field in fields]
            lines.append(row(name, *(cell(value and value / 1e6, 1) for value in values), cell(self.middle(key, "peak_rss_mb"), 0), cell(self.middle(key, "steady_rss_mb"), 0), cell(self.middle(key, "seconds"), 3)))
        return lines

    def exposed(self):
        lines = ["", "### What of the exchange is exposed", "",
                 row("tasks", "ranks", "method", "step, s", "exchange, s", "exposed, s", "exposed of exchange", "exposed of step", "balancing, ms"), rule(9)]
        for key in self.found:
            if key[0] == "methods" and key[3] > 1:
                step, exchange, bare, balance = (self.middle(key, field) for field in ("seconds", "exchange_seconds", "exposed_seconds", "balance_seconds"))
                lines.append(row(key[2], key[3], f"`{key[5]}`", cell(step, 3), cell(exchange, 3), cell(bare, 3), share(bare, exchange), share(bare, step),
                                 cell(balance and balance * 1e3)))
        return lines

    def tables(self, parts):
        lines = []
        if "methods" in parts:
            lines += self.step_times()
        if "pairs" in parts:
            lines += self.paired()
        if "peers" in parts:
            lines += self.beside()
        if "methods" in parts:
            lines += self.sent()
        if "memory" in parts:
            lines += self.memory()
        if "methods" in parts:
            lines += self.exposed()
        notes = dict(self.failed)
        for key, rounds in self.found.items():
            if key[0] == "peers" and "unusable" in rounds[0]:
                notes.setdefault(f"{key[3]}, {key[1]}", f"({key[2]} tasks) {rounds[0]['unusable']}")
        if notes:
            lines += ["", "Not measured:", "", *(f"- {name}: {reason}" for name, reason in notes.items())]
        return lines


def files():
    return sorted(DATA.glob("*.train.jsonl"))


def row(*cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def rule(columns):
    return row(*["---"] * columns)


def over(value, base):
    return value / base if value is not None and base else None


def share(value, base):
    ratio = over(value, base)
    return "" if ratio is None else f"{ratio:.0%}"


def numbers(text):
    return [int(part) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=numbers, default=[2, 4, 8])
    parser.add_argument("--ranks", type=numbers, default=[1, 2], help="the last of them is set beside the peers")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=METHODS)
    parser.add_argument("--settings", type=lambda text: text.split(","), default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8, help="measured steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument("--batch", type=int, default=32, help="over all tasks and ranks")
    parser.add_argument("--turns", type=int, default=40, help="of each method in `pairs`")
    parser.add_argument("--quick", action="store_true", help="few methods, 4 tasks, 3 steps")
    parser.add_argument("--only", help="parts to run, comma-separated")
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md as it is")
    args = parser.parse_args()
    if args.quick:
        args.tasks, args.methods, args.steps, args.warmup = [4], QUICK, 3, 1
    parts = args.only.split(",") if args.only else PARTS
    if set(parts) - set(PARTS + ON_DEMAND):
        parser.error(f"parts are {', '.join(PARTS + ON_DEMAND)}")
    if not BENCH_STEP.is_file():
        sys.exit(f"no {BENCH_STEP}: run 'cargo build --example bench_step', or name it in ESPALIER_BENCH_STEP")
    if not files():
        subprocess.run([sys.executable, REPO / "recipes/debian-packages/build.py"], check=True)
    bench = Bench(args)
    for turn in range(args.rounds):
        print(f"round {turn + 1} of {args.rounds}", file=sys.stderr, flush=True)
        bench.round(parts)
    command = shlex.join(["python3", "tests/bench/balance.py", *sys.argv[1:]])
    lines = [title(), "", f"`{command}`: {args.steps} steps after {args.warmup}, median of {args.rounds} round{'s' * (args.rounds > 1)}, "
             "contestants in turns.", "", *bench.tables(parts)]
    print("\n".join(lines))
    if not args.dry:
        with open(HERE / "RESULTS.md", "a") as file:
            file.write("\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

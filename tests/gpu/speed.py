"""How fast our jobs are on this device: beside eager PyTorch, and with one balancer or another. Nothing here passes or fails by
a figure."""

import json
import os
import sys
from pathlib import Path

import machine
from stage import Failure, OutOfTime

# (shape, batch, texts): `news` as they come, cut at 64 tokens; `long` all of 64 tokens, where nobody pads and lengths do not differ.
CELLS = [("MiniLM", 32, "news"), ("MiniLM", 256, "news"), ("BERT-base", 32, "news"), ("BERT-base", 256, "news"),
         ("MiniLM", 256, "long")]
# The mean first and last: what changes with time would pass for a difference between methods.
METHODS = ["mean", "mgda", "cagrad", "upgrad", "mean"]
# Seconds of a measurement, and steps before it, of large batches and of small ones.
SECONDS, WARMUP, WARMUP_SMALL = 3, 15, 40
# What the peer may take of the check's time at most: it imports PyTorch and transformers first.
PEER = 75
# Head of a table, its fields, their digits.
COLUMNS = [("samples/s", "samples_per_second", 0), ("step, ms", "step_ms", 1), ("memory of the GPU, MB", "device_mb", 0)]


def beside_pytorch(context):
    """Our job on one rank, then the same training in eager PyTorch, in fp32 without TF32."""
    cells = [("tiny", 32, "news"), ("tiny", 32, "long")] if context.cpu else CELLS
    files = {"news": context.material.file("news.train.parquet"), "long": context.material.long()}
    found, failed = {}, []
    try:
        for cell in cells:
            try:
                found[cell, "ours"] = ours(context, cell, files)
            except Failure as error:
                failed.append(f"{named(cell)}: {error}")
            # The peer comes after; what it needs is left to it.
            if context.clock.left() < PEER:
                failed.append("out of time for more jobs of ours")
                break
        peer(context, cells, files, found)
    except (Failure, OutOfTime) as error:
        failed.append(str(error))
    write(context, "speed.md", table(cells, found) + [f"Failed: {why}" for why in failed])
    ratios = [f"{named(cell)} {ours_of / theirs:.2f}" for cell in cells
              if (ours_of := rate(found, cell, "ours")) and (theirs := best(found, cell))]
    if not ratios:
        raise Failure("; ".join(failed) or "nothing was measured")
    return f"ours over the faster way of PyTorch: {', '.join(ratios)}" + "".join(f"; {why}" for why in failed)


def ours(context, cell, files):
    """Figures of a job in a worker of its own."""
    shape, batch, texts = cell
    name = f"{shape}-{batch}-{texts}".lower()
    task = {"name": "news", "head": "single_label", "data": {"train": [str(files[texts])]}}
    with machine.Peak() as peak, context.stage(name) as stage:
        stage.worker("one", context.device)
        stage.submit(context.spec(name, [task], shape, batch=batch))
        figures = stage.pace(name, batch, SECONDS, warmup(context, batch))
        stage.workers["one"].end()
    return {**figures, "device_mb": peak.mb}


def peer(context, cells, files, found):
    """Figures of eager PyTorch: texts padded to the longest of a random batch, and the same with texts grouped by length."""
    before = machine.used_bytes()
    words = [word for shape, batch, texts in cells
             for word in ("--cell", context.model(shape), files[texts], batch, warmup(context, batch), f"{shape},{batch},{texts}")]
    script = Path(__file__).resolve().parent / "peer.py"
    # It must find PyTorch's own libraries, not those that our binaries use.
    env = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    log = context.folder / "peer.log"
    with open(context.folder / "peer.jsonl", "w+") as out, open(log, "w") as errors:
        command = [sys.executable, script, "--device", context.kind(context.device), "--seconds", SECONDS, *words]
        try:
            code = context.clock.run(command, env=env, stdout=out, stderr=errors).returncode
        finally:
            out.seek(0)
            for line in filter(str.strip, out):
                figures = json.loads(line)
                shape, batch, texts = figures["cell"].split(",")
                used = figures["device_bytes"]
                figures["device_mb"] = None if used is None or before is None else (used - before) / 1e6
                found[(shape, int(batch), texts), figures["way"]] = figures
    if code != 0:
        said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        raise Failure(f"peer.py ended with {code}: {said[-1][:300]}; its log is {log}")


def warmup(context, batch):
    return WARMUP_SMALL if batch < 256 and not context.cpu else WARMUP


def named(cell):
    shape, batch, texts = cell
    return f"{shape} {batch}" + (" (64 tokens each)" if texts == "long" else "")


def rate(found, cell, way):
    return found.get((cell, way), {}).get("samples_per_second")


def best(found, cell):
    """Samples/s of the faster way of PyTorch; none if there is none."""
    return max(filter(None, (rate(found, cell, way) for way in ("padded", "grouped"))), default=None)


def cell_of(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def table(cells, found):
    ways = {"ours": "espalier", "padded": "PyTorch, padded", "grouped": "PyTorch, grouped by length"}
    lines = ["| model, batch | who | " + " | ".join(head for head, _, _ in COLUMNS) + " | padding | espalier over this |",
             "|" + " --- |" * (len(COLUMNS) + 4)]
    for cell in cells:
        for way, who in ways.items():
            figures = found.get((cell, way))
            if figures:
                mine = rate(found, cell, "ours")
                ratio = "" if way == "ours" or not mine else f"{mine / figures['samples_per_second']:.2f}"
                values = [cell_of(figures.get(field), digits) for _, field, digits in COLUMNS]
                lines.append(f"| {named(cell)} | {who} | " + " | ".join(values) + f" | {cell_of(figures.get('padding', 1.0), 2)} | {ratio} |")
    lines += ["", "One rank, one task, AdamW, dropout, fp32 without TF32, random weights. News, cut at 64 tokens, or news of 64 tokens alone. "
                  "Milliseconds are the median of our steps, and the mean of PyTorch's, which are not waited for one by one."]
    return lines


def balancers(context):
    """Step times of one method after another, two tasks on two ranks that share the device, over the plain mean's."""
    found, failed = [], []
    with context.stage() as stage:
        stage.worker("both", context.device, ranks=2)
        for turn, method in enumerate(METHODS, 1):
            name = f"{method}-{turn}"
            try:
                stage.submit(context.spec(name, ranks=2, balancer=method))
                figures = stage.pace(name, 32, SECONDS, warmup(context, 32))
                told = [line["progress"].get("exchange") for line in stage.metrics(name) if "progress" in line]
                balance = 1000 * told[-1]["balance_seconds_per_step"] if told and told[-1] else None
                found.append((method, figures["step_ms"], balance))
            except Failure as error:
                failed.append(f"{method}: {error}")
            except OutOfTime as error:
                failed.append(f"{method}: out of time, {error}")
                break
    means = [step for method, step, _ in found if method == "mean"]
    base = sum(means) / len(means) if means else None
    over = lambda step: cell_of(step / base if base else None, 2)
    lines = ["| balancer | step, ms | of these balancing | over mean |", "| --- | --- | --- | --- |"]
    lines += [f"| {method} | {step:.1f} | {cell_of(balance, 2)} | {over(step)} |" for method, step, balance in found]
    lines += ["", "Two tasks, MiniLM, batch 32, two ranks of one worker on one device, one method after another. Medians of a step over that of "
                  "`mean`, which came first and last; balancing as the last report has it."]
    write(context, "balancers.md", lines + [f"Failed: {why}" for why in failed])
    ratios = [f"{method} {over(step)}" for method, step, _ in found if method != "mean"]
    if not base or not ratios:
        raise Failure("; ".join(failed) or "nothing was measured")
    means = " and ".join(f"{step:.1f}" for step in means)
    return f"mean {means} ms; over it: {', '.join(ratios)}" + "".join(f"; {why}" for why in failed)


def write(context, name, lines):
    (context.args.out / name).write_text("\n".join(lines) + "\n")

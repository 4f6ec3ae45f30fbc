"""Tables of `real_tasks.py`: every row of the results, whatever came out of it."""

import datetime
import math
import os
import platform
import statistics


def show(rows, path):
    lines = tables(rows)
    print("\n" + "\n".join(lines))
    if path and rows:
        with open(path, "a") as file:
            file.write("\n" + "\n".join(lines) + "\n")


def tables(rows):
    """Markdown lines: one part for each group of settings, in the order in which they came."""
    if not rows:
        return ["No results yet."]
    groups = {}
    for row in rows:
        groups.setdefault(repr(sorted(row["settings"].items())), []).append(row)
    return [line for group in groups.values() for line in part(group)]


def part(rows):
    every, rows = rows, newest(rows)
    tasks = next((row["tasks"] for row in rows if len(row["tasks"]) > 1), None) or [row["tasks"][0] for row in rows]
    tasks = list(dict.fromkeys(tasks))
    return heading(rows, tasks) + scores(rows, tasks) + affinity(rows, tasks) + failures(every, rows)


def newest(rows):
    """A job that was run again counts once, with its newest result."""
    found = {}
    for row in rows:
        found[(label(row), row["seed"], str(row.get("params")))] = row
    return list(found.values())


def label(row):
    if row["kind"] == "single":
        return f"single {row['tasks'][0]}"
    if row["kind"] == "affinity":
        return f"{row['method']}, with affinity"
    return row["method"]


def good(rows):
    return [row for row in rows if row["state"] == "SUCCEEDED"]


def heading(rows, tasks):
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    setting = rows[0]["settings"]
    steps, batch = setting["steps"], setting["batch_size"]
    samples = next((row["test_samples"] for row in good(rows) if len(row["tasks"]) > 1), {})
    counts = ", ".join(f"{task} {samples[task]:,}" for task in tasks if task in samples)
    loads = [row["load"] for row in rows if "load" in row]
    params = {row["method"]: row["params"] for row in rows if row.get("params")}
    given = "; ".join(f"`{name}` " + ", ".join(f"{key}={value}" for key, value in found.items()) for name, found in params.items())
    lines = [
        f"## {datetime.date.today().isoformat()}, {commits}: balancers on real tasks; {model}, {os.cpu_count()} CPUs", "",
        f"`python3 tests/bench/real_tasks.py --steps {steps} --batch {batch} --max-tokens {setting['max_tokens']} "
        f"--lr {setting['learning_rate']:g} --test {setting['test']} --seeds {','.join(map(str, sorted({row['seed'] for row in rows})))}`. "
        f"all-MiniLM-L6-v2, all of it tuned, 2 workers with 1 rank each; uniform sampler: {batch // len(tasks)} samples of each task in a step, "
        f"{steps * batch // len(tasks):,} in all. Single tasks see the same samples in the same order, in steps ({max(1, steps // len(tasks))}) of {batch}.",
        "",
        f"The learning rate is the same for all methods ({setting['learning_rate']:g}, heads ten times that, linear schedule, AdamW, gradient norm clipped at 1) "
        "and was tuned for none: AdamW takes most of an update's scale out, clipping and the methods' changing scales are what is left. "
        "Methods have their default parameters" + (f", but for those that count in epochs, which these runs have none of: {given}" if given else "") + ". "
        "Weights of `fixed` are all 1. There is no validation split: the model after the last step is tested.",
    ]
    if counts:
        lines += ["", f"Test accuracy in %, mean ± standard deviation over seeds. Test samples: {counts}; the standard error of one accuracy on n "
                  f"samples is up to 50/√n points ({50 / math.sqrt(max(samples.values())):.1f} for {max(samples.values()):,}), and all methods see the same ones. "
                  "Differences are of the mean over tasks, in points, seed by seed."]
    if loads:
        lines += ["", f"Seconds are of whole jobs, with loading, test and export; milliseconds of a step without these; medians over seeds. The machine's load "
                  f"when jobs began was {min(loads):.1f} to {max(loads):.1f} (median {statistics.median(loads):.1f}; a job's own is about 2): what was above it takes from the times' worth. "
                  "Steps without weights are those where a method found none and all tasks weighed the same."]
    return lines + [""]


def spread(values, sign=""):
    if not values:
        return ""
    mean = f"{100 * statistics.mean(values):{sign}.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def overall(rows, tasks):
    """{seed: mean over all tasks} where every task has a score."""
    found = {}
    for row in rows:
        found.setdefault(row["seed"], {}).update(row["accuracy"])
    return {seed: statistics.mean(scores[task] for task in tasks) for seed, scores in found.items() if all(task in scores for task in tasks)}


def difference(own, other):
    return spread([own[seed] - other[seed] for seed in sorted(own) if seed in other], "+")


def median(rows, field, factor=1, form=".0f"):
    values = [row[field] * factor for row in rows if field in row]
    return f"{statistics.median(values):{form}}" if values else ""


def scores(rows, tasks):
    lines = ["| method | class | " + " | ".join(tasks) + " | mean | to single task | to `equal` | seeds | s | ms a step | steps without weights |",
             "| --- | --- |" + " --- |" * (len(tasks) + 7)]
    single = [row for row in rows if row["kind"] == "single"]
    alone = overall(good(single), tasks)
    equal = overall(good([row for row in rows if label(row) == "equal"]), tasks)
    majority = {task: value for row in good(rows) for task, value in row["majority"].items()}
    if majority:
        cells = [f"{100 * majority[task]:.1f}" if task in majority else "" for task in tasks]
        whole = f"{100 * statistics.mean(majority[task] for task in tasks):.1f}" if all(cells) else ""
        lines.append("| most frequent class | | " + " | ".join([*cells, whole]) + " | | | | | | |")
    groups = {"single tasks": single} if single else {}
    for row in rows:
        if row["kind"] != "single":
            groups.setdefault(label(row), []).append(row)
    for name, group in groups.items():
        fine = good(group)
        own = overall(fine, tasks)
        cells = [spread([row["accuracy"][task] for row in fine if task in row["accuracy"]]) for task in tasks]
        cells += [spread(list(own.values())), "" if group is single else difference(own, alone), "" if name == "equal" else difference(own, equal)]
        if group is single:
            # Four jobs a seed: their times are summed.
            totals = [sum(row.get("seconds_job", 0) for row in fine if row["seed"] == seed) for seed in own]
            times = [f"{statistics.median(totals):.0f}" if totals else "", median(fine, "seconds_per_step", 1000), ""]
            count = f"{len(own)}"
        else:
            times = [median(fine, "seconds_job"), median(fine, "seconds_per_step", 1000), median(fine, "fallbacks")]
            count = f"{len(fine)}"
        failed = len(group) - len(fine)
        count += f", {failed} failed" if failed else ""
        lines.append(f"| {name} | {group[0].get('class') or ''} | " + " | ".join([*cells, count, *times]) + " |")
    return lines


def pairs(row):
    """{(task, task): figures} of the answer of `espalier affinity`."""
    found = row.get("affinity") or {}
    return {(pair["a"], pair["b"]): pair for pair in found.get("pairs", [])}


def affinity(rows, tasks):
    seen = [row for row in rows if row["kind"] == "affinity" and row.get("affinity")]
    if not seen:
        return []
    lines = ["", "Cosine of the tasks' gradients under `equal`, mean over steps, mean ± standard deviation over seeds; in brackets the share of steps in conflict.", "",
             "| | " + " | ".join(tasks) + " |", "| --- " * (len(tasks) + 1) + "|"]
    for one in tasks:
        cells = []
        for other in tasks:
            found = [pairs(row).get((one, other)) or pairs(row).get((other, one)) for row in seen]
            found = [pair for pair in found if pair]
            if one == other or not found:
                cells.append("·")
                continue
            values = [pair["cosine"] for pair in found]
            wide = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            conflict = statistics.mean(pair["conflicts"] for pair in found)
            cells.append(f"{statistics.mean(values):+.2f}{wide} ({100 * conflict:.0f} %)")
        lines.append(f"| {one} | " + " | ".join(cells) + " |")
    return lines


def failures(every, rows):
    """All rows of jobs that failed, of those that were run again, too."""
    failed = [row for row in every if row["state"] != "SUCCEEDED"]
    if not failed:
        return ["", "No job failed."]
    lines = ["", "| job that failed | seed | state | reason |", "| --- | --- | --- | --- |"]
    for row in failed:
        words = " ".join(str(row.get("reason") or "").split()).replace("|", "\\|")
        words = words[:300] + ("" if row in rows else " (run again since)")
        code = f"`{row['code']}`: " if row.get("code") else ""
        lines.append(f"| {label(row)} | {row['seed']} | {row['state']} | {code}{words} |")
    return lines

#!/usr/bin/env python3
"""Measures recipes beside their peers, one after another, over several seeds, and writes a table.

    ESPALIER_DATA=/path/to/data python3 recipes/measure.py --only assistant,topics --seeds 1,2,3
    python3 recipes/measure.py --plan      # what is left to run, and about how long it takes
    python3 recipes/measure.py --table     # the table of what there is

Every (recipe, side, seed) is a process of its own. What it brought is kept in tests/bench/recipes, to be committed, and
not run again, as long as its command and its side's files are the same; so a run may be stopped at any time and goes on
later. Our side runs binaries that were copied into .espalier/measure at the start: what is built meanwhile changes
nothing. PyTorch and pyarrow come from .espalier/pysite ('make parity' brings them), Pillow from .espalier/pyrecipes
('make draw'). A table says when each side was measured; for its minutes to count, both sides of a recipe belong on one
machine with nothing beside them.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from cluster import REPO, TARGET, DemoError, run

HOME = REPO / ".espalier/measure"
KEPT = REPO / "tests/bench/recipes"
BINARIES = ["espalier", "espalier-coordinator", "espalier-worker"]
SIDES = {"ours": "Espalier", "peer": "peer"}
# Table 4 of PMC8323662, whose models are trained on bags of words: no adaptation, CORAL, DANN.
REVIEWS = {"books-electronics": (74.7, 76.3, 73.3), "dvd-books": (76.9, 78.3, 72.3), "electronics-kitchen": (82.8, 83.6, 85.4),
           "kitchen-dvd": (72.2, 73.9, 74.0)}
TOGETHER = ["--ways", "together"]
DIGITS = ["--methods", "source only,dann,cdan,cdan-e,mmd,jan,coral,mcc,mdd,entropy,self_training,bsp,information_maximisation,cdan-e long"]
# What the peer has of these.
KNOWN = ["--methods", "source only,dann,cdan,mmd,coral,mcc,mdd,cdan-e long"]

# What both sides, and the peer alone, are called with beside seeds; minutes of a seed on 2 cores, by estimate; what
# was published, on which data.
RECIPES = {
    "sentiment": {"ours": "run.py", "peer": TOGETHER, "minutes": (11, 8), "published": {
        "films, together": "91.5: MiniLM-L6 on GLUE's SST-2, 67,000 phrases, dev set (microsoft/unilm); 87.0: CNN (Kim 2014)",
        "films, alone": "as above"}},
    "topics": {"ours": "run.py", "peer": TOGETHER, "minutes": (12, 9), "published": {
        "news, together": "93.4: DistilBERT with all 120,000 (SetFit's archive)", "news, alone": "as above",
        "coarse, together": "92.8: CNN (Kim 2014); 96.8: BERT (1905.05583)", "coarse, alone": "as above"}},
    "assistant": {"ours": "run.py", "minutes": (7, 12), "published": {
        "intent accuracy": "98.0: DistilBERT (monologg/JointBERT)", "slots span_f1": "96.1: the same",
        "whole sentence": "91.0: the same"}},
    "few-shot": {"ours": "run.py", "minutes": (5, 15), "published": {
        "contrast": "83.1 ± 2.3 over 10 drawings: SetFit, same model (SetFit's archive)",
        "plain": "76.1 ± 4.4: DistilBERT fine-tuned (the same)"}},
    "zero-shot-topics": {"ours": "run.py", "minutes": (16, 14), "published": {}},
    "zero-shot-images": {"ours": "run.py", "minutes": (4, 7), "published": {}},
    "reviews-adaptation": {"ours": "run.py", "minutes": (10, 10), "published": {"mean, dann": "76.3: bag of words (PMC8323662)"} | {
        f"{pair}, {method}": f"{score}: bag of words (PMC8323662)"
        for pair, scores in REVIEWS.items() for method, score in zip(("source", "coral", "dann"), scores)}},
    "digits-adaptation": {"ours": "demo.py", "both": DIGITS, "peer": KNOWN, "minutes": (27, 15), "published": {
        "mnist-usps, source only": "75.2: LeNet (from memory)", "mnist-usps, dann": "77.1: the same",
        "mnist-usps, cdan-e long": "93.9: CDAN, the same; 95.6: CDAN+E"}},
    "spoken-digits": {"ours": "demo.py", "minutes": (2, 2), "published": {}},
    "draw": {"ours": "run.py", "minutes": (12, 10), "published": {}},
    "tuning": {"ours": "run.py", "minutes": (12, 6), "published": {}},
    "heads": {"ours": "run.py", "minutes": (8, 0), "published": {}},
    "shakespeare": {"ours": "run.py", "minutes": (3, 3), "published": {"loss": "1.88: nanoGPT's README, on random windows"}},
}


def script(recipe, side):
    return HERE / recipe / (RECIPES[recipe]["ours"] if side == "ours" else "peer.py")


def command(recipe, side, seed, args):
    words = [str(script(recipe, side).relative_to(REPO)), "--seeds", str(seed), *RECIPES[recipe].get("both", []), *args.words]
    if side == "peer":
        words += [*RECIPES[recipe].get("peer", []), "--threads", str(args.threads)]
    for name, value in (("steps", args.steps), ("epochs", args.epochs)):
        if value:
            words += ["--set", f"training.{name}={value:g}"] if side == "ours" else [f"--{name}", f"{value:g}"]
    return words


def helpers(file):
    """The peers*.py beside the recipes that a script imports, and those that these import."""
    found, look = set(), [file]
    while look:
        for name in re.findall(r"^(?:from|import) (peers\w*)", look.pop().read_text(), re.M):
            if f"{name}.py" not in found:
                found.add(f"{name}.py")
                look.append(HERE / f"{name}.py")
    return found


def identity(recipe, side, seed, args):
    """What must be the same for a result to be the same one: the command, and the files of the recipe that it runs."""
    shared = ["cluster.py"] if side == "ours" else sorted(helpers(script(recipe, side)))
    other = "peer.py" if side == "ours" else RECIPES[recipe]["ours"]
    own = [file for file in (HERE / recipe).rglob("*") if file.is_file() and file.suffix in (".py", ".yaml", ".json") and file.name != other]
    digest = hashlib.sha256()
    for file in sorted([*own, *(HERE / name for name in shared)]):
        digest.update(str(file.relative_to(HERE)).encode() + b"\0" + file.read_bytes())
    return {"command": command(recipe, side, seed, args), "files": digest.hexdigest()[:16]}


def kept(recipe, side, seed, args):
    """The result of an earlier run; none if there is none of this command and job file."""
    file = KEPT / f"{recipe}.{side}.{seed}.json"
    if args.again or not file.is_file():
        return None
    result = json.loads(file.read_text())
    return result if result["identity"] == identity(recipe, side, seed, args) else None


def stamp(recipe, side, seed, args):
    """Gives what is kept the identity that it would get now; nothing where its command was another."""
    file = KEPT / f"{recipe}.{side}.{seed}.json"
    result, now = json.loads(file.read_text()) if file.is_file() else None, identity(recipe, side, seed, args)
    if result and result["identity"]["command"] == now["command"]:
        file.write_text(json.dumps({**result, "identity": now}, indent=1) + "\n")


def environment():
    """As the Makefile has it: libtorch of .espalier/env.sh, packages of .espalier/pysite, the copied binaries."""
    env = dict(os.environ)
    if (REPO / ".espalier/env.sh").is_file():
        text = subprocess.run(["bash", "-c", ". .espalier/env.sh; env -0"], cwd=REPO, capture_output=True, text=True, check=True).stdout
        env.update(line.split("=", 1) for line in text.split("\0") if "=" in line)
    env.pop("ESPALIER_BIN_DIR", None)
    paths = [str(REPO / ".espalier/pysite"), str(REPO / ".espalier/pyrecipes"), env.get("PYTHONPATH", "")]
    env.update(PYTHONPATH=os.pathsep.join(filter(None, paths)), CARGO_TARGET_DIR=str(HOME / "bin"), ESPALIER_NO_BUILD="1", DEMO_FAST="")
    return env


def copy_binaries():
    """What our side runs, as it is now."""
    folder = HOME / "bin/debug"
    folder.mkdir(parents=True, exist_ok=True)
    for name in BINARIES:
        if not (TARGET / "debug" / name).is_file():
            raise DemoError(f"no {name} in {TARGET}/debug: run 'make build' first")
        # Beside it first: a binary that still runs cannot be written over.
        shutil.copy2(TARGET / "debug" / name, folder / f"{name}.new")
        (folder / f"{name}.new").rename(folder / name)
    (folder / "commit").write_text(head())


def head():
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPO, capture_output=True, text=True)
    return done.stdout.strip() or "?"


def commit(side):
    """Of our side, that of the binaries that run: the tree may have gone on since they were copied."""
    return (HOME / "bin/debug/commit").read_text() if side == "ours" else head()


def stop(child):
    """Ends a recipe with all that it started: they are a process group of their own."""
    for sign, patience in ((signal.SIGINT, 30), (signal.SIGTERM, 15), (signal.SIGKILL, 15)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=patience)
            return


def measure(recipe, side, seed, args, env):
    """Runs one side of a recipe with one seed; keeps what it brings, or says why there is nothing."""
    name, load, began = f"{recipe}.{side}.{seed}", os.getloadavg()[0], time.time()
    log, figures = HOME / f"{name}.log", HOME / f"{name}.figures"
    figures.unlink(missing_ok=True)
    words = [sys.executable, *command(recipe, side, seed, args), "--json", str(figures)]
    with open(log, "w") as out:
        child = subprocess.Popen(words, cwd=REPO, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                 start_new_session=True)
        try:
            code = child.wait(timeout=60 * args.minutes)
        except subprocess.TimeoutExpired:
            stop(child)
            return f"took longer than {args.minutes:g} minutes; {log}"
        except BaseException:
            stop(child)
            raise
    if code != 0 or not figures.is_file():
        last = (log.read_text(errors="replace").strip().splitlines() or ["nothing was printed"])[-1]
        return f"exit code {code}: {last[:200]}; {log}"
    result = {"identity": identity(recipe, side, seed, args), "rows": json.loads(figures.read_text()), "commit": commit(side),
              "load": round(load, 2), "day": time.strftime("%Y-%m-%d", time.gmtime(began)), "minutes": (time.time() - began) / 60}
    aside = HOME / f"{name}.json.new"
    aside.write_text(json.dumps(result, indent=1) + "\n")
    aside.rename(KEPT / f"{name}.json")
    figures.unlink()
    return None


def cell(recipe, row, runs):
    """Mean, deviation over seeds, how many, and minutes."""
    if not runs:
        return "", ""
    values = [run["value"] for run in runs]
    digits = 3 if row.endswith(("loss", "bits per image token")) or recipe == "heads" else 1
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    minutes = [run["minutes"] for run in runs if run["minutes"] is not None]
    return f"{statistics.mean(values):.{digits}f}{deviation} ({len(values)})", f"{statistics.mean(minutes):.1f}" if minutes else ""


def table(recipes, args):
    """Markdown: a table of each recipe."""
    lines = ["Mean ± standard deviation over seeds (how many), minutes of a run: of Espalier from submit to",
             "export, of a peer of training and test, without reading the data. Accuracy and F1 in %, loss in nats a character."]
    for recipe in recipes:
        found, about = {}, []
        for side in SIDES:
            results = [result for seed in args.seeds if (result := kept(recipe, side, seed, args))]
            for result in results:
                for row, runs in result["rows"].items():
                    found.setdefault(row, {}).setdefault(side, []).extend(runs)
            if results:
                days, commits = ({result[key] for result in results} for key in ("day", "commit"))
                most = max(result["load"] for result in results)
                coarse = [str(result["identity"]["command"][2]) for result in results if result.get("rounded")]
                about.append(f"{SIDES[side]}: {', '.join(sorted(days))}, {', '.join(sorted(commits))}, load before a run {most} at most"
                             + (f", seed {' and '.join(coarse)} as rounded in RESULTS.md" if coarse else ""))
        if not found:
            continue
        lines += ["", f"### {recipe}", "", "; ".join(about) + ".", "", "| | Espalier | minutes | peer | minutes | published |", "| --- | --- | --- | --- | --- | --- |"]
        published = RECIPES[recipe]["published"]
        for row, sides in found.items():
            # Of many pairs of domains, their mean and those that others have, too.
            if recipe == "reviews-adaptation" and row not in published and not row.startswith("mean"):
                continue
            cells = [part for side in SIDES for part in cell(recipe, row, sides.get(side, []))]
            lines.append("| " + " | ".join([row, *cells, published.get(row, "none found")]) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = lambda text: text.split(",")
    parser.add_argument("--only", type=listed, default=list(RECIPES), metavar="A,B", help="which of: " + ", ".join(RECIPES))
    parser.add_argument("--sides", type=listed, default=list(SIDES), metavar="ours,peer")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3], metavar="1,2,3")
    parser.add_argument("--threads", type=int, default=2, help="of the peers; default: %(default)s")
    parser.add_argument("--minutes", type=float, default=120, help="most for one seed of one side; default: %(default)s")
    parser.add_argument("--steps", type=int, help="of both sides, in place of the job file's")
    parser.add_argument("--epochs", type=float, help="of both sides, in place of the job file's; for job files with epochs")
    parser.add_argument("--words", type=str.split, default=[], metavar="'WORDS'", help="more words for both sides, such as '--ways together'")
    parser.add_argument("--again", action="store_true", help="run what has been run, too")
    parser.add_argument("--stamp", action="store_true",
                        help="take what is kept as brought by the files as they are now, after a change that changes no figure; run nothing")
    parser.add_argument("--plan", action="store_true", help="say what is left and run nothing")
    parser.add_argument("--table", action="store_true", help="print the table and run nothing")
    args = parser.parse_args()
    for name, given, known in (("recipe", args.only, RECIPES), ("side", args.sides, SIDES)):
        if unknown := [one for one in given if one not in known]:
            raise DemoError(f"there is no {name} {unknown[0]}; there is {', '.join(known)}")
    for folder in (HOME, KEPT):
        folder.mkdir(parents=True, exist_ok=True)
    # As ctrl-c does: what runs is stopped, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if args.stamp:
        for recipe, side, seed in itertools.product(args.only, args.sides, args.seeds):
            stamp(recipe, side, seed, args)
        return
    if not args.table:
        # Whole seeds: what is stopped early has both sides of each recipe.
        left = [(recipe, side, seed) for seed in args.seeds for recipe in args.only for side in args.sides
                if script(recipe, side).is_file() and not kept(recipe, side, seed, args)]
        minutes = sum(RECIPES[recipe]["minutes"][side == "peer"] for recipe, side, _ in left)
        print(f"{len(left)} runs left, about {minutes} minutes by estimate", flush=True)
        if args.plan:
            print("\n".join(" ".join(command(*one, args)) for one in left))
            return
        if any(side == "ours" for _, side, _ in left):
            copy_binaries()
        env, failed = environment(), 0
        for one in left:
            began = time.monotonic()
            wrong = measure(*one, args, env)
            print(f"{'.'.join(map(str, one))}: {wrong or f'{(time.monotonic() - began) / 60:.1f} minutes'}", flush=True)
            failed += wrong is not None
            args.again = False
            (HOME / "table.md").write_text(table(args.only, args))
    args.again = False
    print(table(args.only, args))
    if not args.table and failed:
        raise DemoError(f"{failed} runs brought nothing: see above; the next call tries them again")


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""The live page in headless Chromium, against real coordinators, workers and a real job.

    python3 tests/page/run.py                     all cases
    python3 tests/page/run.py --case recovery     one of them (may be repeated)
    python3 tests/page/run.py --figures --minutes 60    figures as JSON: first paint, frames, memory
    python3 tests/page/run.py --lighthouse        Lighthouse's accessibility score of each view, 95 at least
    python3 tests/page/run.py --screenshots       pictures of the README, into docs/pictures/

Needs the binaries (make build) and chromium (python3 deploy/setup/setup.py chromium).
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cases
import lighthouse
import measure
from browser import REPO, Browser, BrowserError
from stage import BIN, Cluster, Guarded, Refused, StageError, digits, fresh, spec

FOLDER = REPO / ".espalier/demo/page"
PICTURES = REPO / "docs/pictures"
JOB = "digits-and-parity"
# In this order: each finds the job still training.
TOGETHER = [cases.opens, cases.streams, cases.views, cases.keyboard, cases.dark, cases.phone, cases.recovery, cases.restart]
# Ends with its cluster, long after all cases.
STEPS = 2_000_000


def units():
    """The page's modules without DOM, where there is Node to run them."""
    node = shutil.which("node")
    if not node:
        print("skip  units: no Node here; they are for those who have it")
        return True
    done = subprocess.run([node, "--test", str(REPO / "tests/page/units.test.mjs")], capture_output=True, text=True)
    print(f"{'ok   ' if done.returncode == 0 else 'FAIL '} units: the page's modules without a browser")
    if done.returncode:
        print(done.stdout[-4000:])
    return done.returncode == 0


def tried(case, browser, *what):
    """Whether a case holds; says so, with the time it took."""
    begin = time.monotonic()
    try:
        case(browser, *what)
        complaints = browser.complaints()
        cases.expect(complaints == [], f"the console complains: {complaints}")
    except (cases.Failure, BrowserError, StageError, Refused) as error:
        print(f"FAIL  {case.__name__}: {case.__doc__}\n      {error}", flush=True)
        browser.picture(FOLDER / f"failed-{case.__name__}.png")
        print(f"      the page as it was: {FOLDER}/failed-{case.__name__}.png", flush=True)
        return False
    print(f"ok    {case.__name__}: {case.__doc__} ({time.monotonic() - begin:.1f} s)", flush=True)
    return True


def run_cases(names):
    good = units() if not names else True
    chosen = [case for case in TOGETHER if not names or case.__name__ in names]
    if chosen:
        with Cluster(FOLDER / "together") as cluster, Browser() as browser:
            browser.desk()
            cluster.submit(spec(JOB, FOLDER, STEPS))
            cluster.until_step(JOB, 20)
            for case in chosen:
                good &= tried(case, browser, cluster, JOB)
            cluster.cancel(JOB)
    if not names or "viewer" in names:
        with Guarded(FOLDER / "guarded") as guarded, Browser() as browser:
            browser.desk()
            guarded.call("JobService/CreateJob", {"spec": spec("waiting", FOLDER, 1000)})
            good &= tried(cases.viewer, browser, guarded, "waiting")
    return good


def figures(minutes, turns):
    """Memory while the job trains; first paint and frames, in turns, while it rests: on few cores it would be measured with them."""
    with Cluster(FOLDER / "figures") as cluster, Browser() as browser:
        browser.desk()
        cluster.submit(spec(JOB, FOLDER, STEPS))
        cluster.until_step(JOB, 200)
        heap = measure.memory(browser, cluster.server, JOB, minutes)
        cluster.pause(JOB)
        found = []
        for _ in range(turns):
            load = os.getloadavg()[0]
            paint = measure.first_paint(browser, cluster.server)
            found.append({"load": load, "first_contentful_paint_ms": paint, "panning": measure.panning(browser, cluster.server, JOB)})
        version = browser.cdp("Browser.getVersion")["product"]
        cluster.cancel(JOB)
    print(json.dumps({"browser": version, "cores": os.cpu_count(), "heap": heap, "turns": found}, indent=1))


def accessibility():
    """Whether each view has Lighthouse's least score for accessibility; prints them all."""
    with Cluster(FOLDER / "lighthouse") as cluster:
        cluster.submit(spec(JOB, FOLDER, STEPS))
        cluster.until_step(JOB, 100)
        paths = ["", *(f"#/jobs/{JOB}{tab}" for tab in ("", "/affinity", "/plan", "/timeline", "/logs", "/spec"))]
        found = lighthouse.scores(cluster.server, paths, FOLDER)
        cluster.cancel(JOB)
    for path, (score, failed) in found.items():
        print(f"{score:>4}  {path}  {', '.join(failed)}")
    return all(score >= lighthouse.LEAST for score, _ in found.values())


def pictures():
    """Each view once something is to be seen in it: a recovery, an affinity with evidence, evaluations."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with Cluster(FOLDER / "pictures") as cluster, Browser() as browser:
        cluster.submit(spec(JOB, FOLDER, 6000))
        cluster.until_step(JOB, 400)
        cluster.kill("worker-2")
        cluster.until_step(JOB, 1500, 240)
        # After the recovery, or it would take the free place.
        cluster.submit({**spec("next-in-line", FOLDER, 1000), "priority": 1})
        for name, path, setting in [("overview", "", "light"), ("job", f"#/jobs/{JOB}", "light"), ("job-dark", f"#/jobs/{JOB}", "dark"),
                                    ("affinity", f"#/jobs/{JOB}/affinity", "light"), ("timeline", f"#/jobs/{JOB}/timeline", "light"),
                                    ("phone", f"#/jobs/{JOB}", "phone")]:
            browser.scheme("dark" if setting == "dark" else "light")
            browser.phone(scale=1.5) if setting == "phone" else browser.desk(1280, 800)
            browser.open("about:blank")
            browser.open(f"{cluster.server}/{path}")
            browser.until(f"{cases.LIVE} && document.querySelector('.view .list, .plot, .heat, .track')", 30)
            # Charts are drawn a frame after their data.
            browser.run("return new Promise((done) => setTimeout(done, 1500));")
            browser.picture(PICTURES / f"{name}.png")
            print(f"wrote {PICTURES / name}.png")
        cluster.cancel("next-in-line")
        cluster.cancel(JOB)


def main():
    known = [case.__name__ for case in TOGETHER] + ["viewer"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=known, default=[], help="only this case")
    parser.add_argument("--figures", action="store_true", help="measure, and print the figures as JSON")
    parser.add_argument("--minutes", type=int, default=1, help="how long memory is watched (default 1)")
    parser.add_argument("--turns", type=int, default=3, help="how often first paint and frames are measured (default 3)")
    parser.add_argument("--screenshots", action="store_true", help="write the pictures of the README")
    parser.add_argument("--lighthouse", action="store_true", help="ask Lighthouse for the accessibility of each view")
    args = parser.parse_args()
    for program in ("espalier", "espalier-coordinator", "espalier-worker"):
        if not (BIN / program).is_file():
            sys.exit(f"run.py: error: no {program} in {BIN}: run 'make build', or set ESPALIER_BIN_DIR")
    fresh(FOLDER)
    digits()
    if args.figures:
        figures(args.minutes, args.turns)
    elif args.screenshots:
        pictures()
    elif args.lighthouse:
        if not accessibility():
            sys.exit(1)
    elif not run_cases(args.case):
        sys.exit(1)


if __name__ == "__main__":
    # Clusters and browsers end with their `with` blocks, also when this is told to.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except (BrowserError, StageError, Refused, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"run.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

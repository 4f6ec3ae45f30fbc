"""Lighthouse's accessibility score of every view, where set-up could install it (it needs Node)."""

import json
import subprocess

from browser import REPO, BrowserError, programs

PROGRAM = REPO / ".espalier/lighthouse/node_modules/.bin/lighthouse"
LEAST = 95


def scores(server, paths, folder):
    """{path: (score of 100, the audits that failed)}."""
    if not PROGRAM.exists():
        raise BrowserError("no Lighthouse in .espalier: run 'python3 deploy/setup/setup.py lighthouse' (needs Node)")
    chromium, _, env = programs()
    found = {}
    for path in paths:
        file = folder / "lighthouse.json"
        # Streams never end, so it would wait for a quiet network until its own limit.
        command = [PROGRAM, f"{server}/{path}", "--only-categories=accessibility", "--output=json", f"--output-path={file}", "--quiet",
                   "--max-wait-for-load=6000", "--chrome-flags=--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage"]
        done = subprocess.run(list(map(str, command)), env={**env, "CHROME_PATH": chromium}, capture_output=True, text=True, timeout=180)
        if done.returncode != 0:
            raise BrowserError(f"lighthouse {path}: {(done.stderr or done.stdout).strip()[-600:]}")
        report = json.loads(file.read_text())
        failed = [audit["id"] for audit in report["audits"].values() if audit.get("score") == 0 and audit["scoreDisplayMode"] == "binary"]
        found[path or "overview"] = (round(100 * report["categories"]["accessibility"]["score"]), failed)
    return found

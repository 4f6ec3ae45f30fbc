#!/usr/bin/env python3
"""Runs docs/first-cluster.md: images built and started without an engine, a cluster, a job, a killed leader.

The page's commands are run in one shell, in their order, with the folder /srv/espalier at another place. Each
must end well, and some must have said what CHECKS names. Besides: images are small, labelled, without root, the
coordinator's knows no libtorch and comes out the same when it is built again; what runs has no privileges and a
root file system that it can't write.

    tests/images/trial.py [--write] [--built]     (`make test-images`)

Needs root, buildah, debootstrap, curl, etcd, and what `make build` leaves behind.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import transcript

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "docs/first-cluster.md"
FOLDER = "/srv/espalier"
USER = 65532
# etcd may be the one that `make test` has unpacked.
PATH = os.pathsep.join([os.environ["PATH"], str(REPO / ".espalier/etcd/usr/bin")])
ROLES = {"coordinator": 3, "worker": 2}
# What each image may have, in MB: stripped binaries of the development profile included.
LARGEST = {"coordinator": 160, "cli": 130, "worker": 700}
LABELS = ["title", "description", "licenses", "version", "revision"]

# What commands that begin so must have printed.
CHECKS = [
    ("deploy/images/bases.sh", r"made docker\.io/library/debian:bookworm-slim"),
    ("deploy/images/build.sh", r"espalier-cli:local with buildah"),
    ("espalier certs show", r"spiffe://espalier/worker/one"),
    ("for n in 11 12 13; do\n  curl -sS --fail --max-time 5 --retry 30 --retry-delay 1 --retry-all-errors --cacert",
     r'(\{"health":"true"\}\s*){3}'),
    ("espalier whoami", r"ada: submitter.*token"),
    ("deploy/images/run.py --env ESPALIER_SERVER --volume", r"(?s)(token|certificate).*exit code [1-9]"),
    ("curl -sS http://127.0.0.11:7443/", r"this port speaks TLS"),
    ("espalier workers", r"(?s)one .*two "),
    ("espalier validate", r"valid"),
    ("espalier submit", r"job first submitted"),
    ("espalier get first", r"first +RUNNING"),
    ("espalier watch first", r"(?s)first +\S+ SUCCEEDED"),
    ("espalier audit first", r"(?s)Done again: +0 steps.*clean:"),
    ("espalier export first", r"copied \d+ files"),
    ("printf '{\"text\"", r"(?s)animal.*food.*vehicle"),
    ('cat "$cluster"/coordinator-?', r"(?s)no_cred|UNAUTHENTICATED"),
]


class Failure(Exception):
    """Something was not as it should be."""


def require():
    """Says plainly what is missing, before anything is begun."""
    missing = []
    if os.geteuid() != 0:
        missing.append("root (images are mounted, users changed)")
    tools = ["buildah", "debootstrap", "curl", "etcd"]
    missing += [f"{tool} on PATH" for tool in tools if not shutil.which(tool, path=PATH)]
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
    for name in ["espalier", "espalier-coordinator", "espalier-worker"]:
        if not any((target / profile / name).is_file() for profile in ["debug", "release"]):
            missing.append(f"{name} in {target} (make build)")
    if not (REPO / ".espalier/models/all-MiniLM-L6-v2/model.safetensors").is_file():
        missing.append("the model of make setup")
    if missing:
        raise Failure("this needs " + "; ".join(missing) + ". On Debian 12: apt-get install buildah debootstrap curl "
                      "etcd-server, then make build")


def command(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def image(name):
    return json.loads(command("buildah", "inspect", "--type", "image", f"localhost/espalier-{name}:local"))


def check_images():
    """Labels, user, size, and that only the worker's has libtorch."""
    for name, most in LARGEST.items():
        found = image(name)
        config = found["OCIv1"]["config"]
        if config.get("User") != f"{USER}:{USER}":
            raise Failure(f"the image {name} has the user {config.get('User')!r}")
        labels = config.get("Labels", {})
        for label in LABELS:
            if labels.get(f"org.opencontainers.image.{label}", "unknown") == "unknown":
                raise Failure(f"the image {name} has no label {label}")
        size = sum(layer["size"] for layer in json.loads(found["Manifest"])["layers"]) / 1e6
        print(f"trial: image {name}: {size:.0f} MB")
        if size > most:
            raise Failure(f"the image {name} has {size:.0f} MB, at most {most} are expected")
        container = command("buildah", "from", "--pull-never", f"localhost/espalier-{name}:local").strip()
        try:
            root = Path(command("buildah", "mount", container).strip())
            torch = [path for path in root.rglob("libtorch*") if path.is_file()]
            if bool(torch) != (name == "worker"):
                raise Failure(f"the image {name} has of libtorch: {torch}")
        finally:
            command("buildah", "rm", container)


def check_again():
    """The same commit gives the same image, bit by bit."""
    before = image("coordinator")
    done = subprocess.run([REPO / "deploy/images/build.sh", "--prebuilt", "coordinator"],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"the second build failed: {done.stderr[-2000:]}")
    after = image("coordinator")
    if before["FromImageDigest"] != after["FromImageDigest"]:
        raise Failure("the coordinator's image came out another one when it was built again:\n"
                      f"{before['Manifest']}\n{after['Manifest']}")
    print(f"trial: built again, the coordinator's image has the same digest, {after['FromImageDigest']}")


def running(folder):
    """Name and process id of what was started and not ended."""
    return {file.stem: int(file.read_text()) for file in sorted(folder.glob("*.pid"))}


def check_processes(folder):
    """Coordinators and workers: the image's user, no privileges, a root that is only read, no stray libtorch."""
    found = {name: pid for name, pid in running(folder).items() if name.partition("-")[0] in ROLES}
    if len(found) != sum(ROLES.values()):
        raise Failure(f"{ROLES} were to run, there are {sorted(found)}")
    for name, pid in found.items():
        proc = Path("/proc", str(pid))
        if not proc.is_dir():
            raise Failure(f"{name} has ended:\n{tail(folder / f'{name}.log')}")
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
        expected = {"Uid": "\t".join([str(USER)] * 4), "Gid": "\t".join([str(USER)] * 4), "CapPrm": "0" * 16,
                    "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1"}
        wrong = {key: status.get(key) for key, value in expected.items() if status.get(key) != value}
        if wrong or status.get("Groups", "").strip():
            raise Failure(f"{name} runs with {wrong or status['Groups']}")
        if not os.statvfs(proc / "root").f_flag & os.ST_RDONLY:
            raise Failure(f"{name} can write its root file system")
        if ("libtorch" in (proc / "maps").read_text()) != name.startswith("worker"):
            raise Failure(f"{name} has what only a worker has, or lacks it: libtorch")
    print(f"trial: {', '.join(found)}: user {USER}, no privileges, root file system only read")


def tail(file):
    return "\n".join(file.read_text(errors="replace").splitlines()[-20:]) if file.is_file() else "(no log)"


def expect(text, output):
    for start, pattern in CHECKS:
        if text.startswith(start):
            if not re.search(pattern, output):
                raise Failure(f"{text}\nprinted\n{output}\nwhere {pattern} is expected")
            return {start}
    return set()


def secrets(folder):
    """Everything that must stay in its file: tokens, and the lines of keys."""
    for file in folder.rglob("*"):
        if file.suffix == ".token":
            yield file.read_text().strip()
        elif file.suffix == ".key":
            yield from (line for line in file.read_text().splitlines() if "-----" not in line)


def run_page(page, folder, built):
    """Runs all commands; their outputs are in the page's blocks afterwards. `built`: but those that build."""
    env = {"PATH": PATH, "HOME": os.environ.get("HOME", "/root"), "LANG": "C.UTF-8", "COLUMNS": "110"}
    for name in ["CARGO_TARGET_DIR", "LIBTORCH", "CONTAINERS_STORAGE_CONF"]:
        if name in os.environ:
            env[name] = os.environ[name]
    seen, leaders = set(), []
    with transcript.Shell(REPO, env) as shell:
        for step in page.commands():
            if built and step.text.startswith(("deploy/images/bases.sh", "deploy/images/build.sh")):
                seen |= expect(step.text, step.output)
                continue
            begun = time.monotonic()
            output, status = shell.run(step.text.replace(FOLDER, str(folder)))
            output = output.replace(str(folder), FOLDER)
            first = step.text.splitlines()[0]
            print(f"trial: {time.monotonic() - begun:5.1f} s  {first}", flush=True)
            if status != 0:
                raise Failure(f"{step.text}\nended with {status}:\n{output}")
            step.output = output
            seen |= expect(step.text, output)
            if first.startswith("buildah images"):
                check_images()
            if first.startswith("espalier workers"):
                check_processes(folder)
            leaders += re.findall(r"^coordinator (\w) leads$", output, re.M)
    if len(leaders) != 2 or leaders[0] == leaders[1]:
        raise Failure(f"one coordinator was to lead and another one after it was killed, but leaders were {leaders}")
    missing = {start for start, _ in CHECKS} - seen
    if missing:
        raise Failure(f"{PAGE.name} has no command that begins so: {sorted(missing)}")


def clean(folder):
    """Ends what still runs, gives working containers back."""
    for pid in running(folder).values():
        try:
            os.kill(pid, 9)
            while Path("/proc", str(pid)).exists():
                time.sleep(0.05)
        except ProcessLookupError:
            pass
    for name in command("buildah", "containers", "--format", "{{.ContainerName}}").split():
        if name.startswith("espalier-run-"):
            command("buildah", "rm", name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put what was printed into the page")
    parser.add_argument("--built", action="store_true", help="take the images that are there")
    args = parser.parse_args()
    require()
    # However it ends, what it has started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("trial: told to end"))
    page = transcript.Page(PAGE.read_text())
    folder = Path(tempfile.mkdtemp(prefix="espalier-trial-"))
    try:
        try:
            run_page(page, folder, args.built)
            text = page.render()
            if any(secret in text for secret in secrets(folder)):
                raise Failure("a token or a key is in what was printed")
        except (Failure, OSError, EOFError):
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{tail(log)}", file=sys.stderr)
            raise
        finally:
            clean(folder)
        check_again()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if args.write:
        PAGE.write_text(text)
        print(f"trial: wrote {PAGE.relative_to(REPO)}")
    print(f"trial: {len(page.commands())} commands of {PAGE.relative_to(REPO)} did what they promise")


if __name__ == "__main__":
    try:
        main()
    except (Failure, OSError, EOFError) as error:
        sys.exit(f"trial: {error}")

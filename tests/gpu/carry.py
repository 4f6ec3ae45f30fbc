#!/usr/bin/env python3
"""Packs what a GPU machine needs into a folder: binaries, scripts, a model without weights, data. Neither Rust nor a network is
needed there: `FOLDER/check.sh OUT`.

    make build; . .espalier/env.sh; cargo build -p espalier-comm --example nccl_conformance
    python3 tests/gpu/carry.py
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "debug"
BINARIES = ["espalier", "espalier-coordinator", "espalier-worker", "examples/nccl_conformance"]
MODEL = Path(os.environ.get("ESPALIER_MINILM") or REPO / ".espalier/models/all-MiniLM-L6-v2")
# What jobs read, and where it is below the folder of the data sets.
DATA = {
    "news.train.parquet": "ag_news/train.parquet", "news.test.parquet": "ag_news/test.parquet",
    "questions.train.parquet": "trec6/train.parquet", "questions.test.parquet": "trec6/test.parquet",
}
# Tells a folder of this script from one that somebody wants to keep.
MARK = "carried.json"
MOST = 60 << 20


def source(path, hint):
    if not path.is_file():
        raise OSError(f"no {path}: {hint}")
    return path


def empty(folder):
    """Makes the folder, anew if it is of an earlier time."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise OSError(f"{folder} holds something that this script did not write: name another folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).write_text("{}\n")


def pack(folder, binaries, preset):
    """bin.tar.xz of the binaries without their symbols; {name: bytes} of them."""
    aside, sizes = folder / "bin", {}
    aside.mkdir()
    try:
        with tarfile.open(folder / "bin.tar.xz", "w:xz", preset=preset) as tar:
            for binary in binaries:
                copy = aside / binary.name
                subprocess.run(["strip", "-o", copy, binary], check=True)
                data, entry = copy.read_bytes(), tarfile.TarInfo(binary.name)
                entry.size, entry.mode = len(data), 0o755
                tar.addfile(entry, io.BytesIO(data))
                sizes[binary.name] = len(data)
    finally:
        shutil.rmtree(aside)
    return sizes


def commit():
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPO, capture_output=True, text=True)
    return done.stdout.strip() or None


def carry(args):
    build = "build it first, see --help"
    binaries = [source(args.target / name, build) for name in BINARIES]
    model = [source(args.model / name, "'make setup' brings the model") for name in ("config.json", "tokenizer.json")]
    data = {name: source(args.data / path, "--data or ESPALIER_DATA says where the data sets are") for name, path in DATA.items()}
    scripts = [path for path in sorted(HERE.iterdir()) if path.suffix in (".py", ".sh", ".md") and path.name != Path(__file__).name]
    empty(args.folder)
    for path in scripts:
        shutil.copy(path, args.folder / path.name)
    (args.folder / "model").mkdir()
    for path in model:
        shutil.copyfile(path, args.folder / "model" / path.name)
    (args.folder / "data").mkdir()
    for name, path in data.items():
        shutil.copyfile(path, args.folder / "data" / name)
    sizes = pack(args.folder, binaries, args.preset)
    (args.folder / MARK).write_text(json.dumps({"commit": commit(), "binaries": sizes}, indent=1) + "\n")
    total = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file())
    packed = (args.folder / "bin.tar.xz").stat().st_size
    print(f"{args.folder}: {total / 2**20:.1f} MiB, {packed / 2**20:.1f} of these the binaries "
          f"({sum(sizes.values()) / 2**20:.0f} MiB unpacked)")
    if total > MOST:
        raise OSError(f"{args.folder} is larger than {MOST >> 20} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=REPO / ".carry", metavar="FOLDER", help="default: .carry in the repository")
    parser.add_argument("--target", type=Path, default=TARGET, help="folder of the binaries (default: target/debug)")
    parser.add_argument("--model", type=Path, default=MODEL, help="directory with config.json and tokenizer.json")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ESPALIER_DATA") or REPO.parent / "shared/data"),
                        help="folder of the data sets (default: ESPALIER_DATA, else ../shared/data)")
    parser.add_argument("--preset", type=int, choices=range(10), default=2, metavar="0-9",
                        help="of xz: the higher, the smaller and slower (default: %(default)s)")
    args = parser.parse_args()
    try:
        carry(args)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"carry.py: error: {error}")


if __name__ == "__main__":
    main()

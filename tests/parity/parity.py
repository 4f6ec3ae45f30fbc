#!/usr/bin/env python3
"""Compares Espalier with PyTorch and transformers, and prints one table.

1. forward  the imported MiniLM: last hidden states and pooled vectors on 100 real sentences, to 1e-5
2. export   a model trained here loads as AutoModel and AutoModelForSequenceClassification; logits to 1e-4
3. golden   PyTorch still gives the committed losses that a Rust test holds the training step to
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import make_golden

REPO = Path(__file__).resolve().parents[2]
DATA = REPO / ".espalier/data/debian-packages"
JOB = REPO / "tests/parity/job.yaml"
MODEL = make_golden.MODEL
SENTENCES = 100


def sentences():
    """Real package descriptions that no model here was trained on, and a few odd ones."""
    if not (DATA / "section.test.jsonl").is_file():
        subprocess.run([sys.executable, REPO / "recipes/debian-packages/build.py"], check=True)
    with open(DATA / "section.test.jsonl", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file][: SENTENCES - 4]
    return texts + ["a", "Größe, naïve café; 日本語のテキスト", "word " * 400, "x" * 300]


# --- our side -----------------------------------------------------------------------------------

def binary(name):
    return str(Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "debug" / name)


def forward_of_ours(model, texts, folder):
    """Tensors of `espalier-worker forward`: `hidden` [all tokens, width], texts one after another;
    `lengths` [texts]; `pooled` [texts, width]; and for an export `logits.TASK` [texts, classes]."""
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out = folder / f"{Path(model).name}.safetensors"
    command = [binary("espalier-worker"), "forward", "--model", str(model), "--texts", str(folder / "texts.jsonl"), "--out", str(out)]
    subprocess.run(command, check=True)
    return load_file(out)


def train_export(folder):
    """Trains tests/parity/job.yaml, a few steps on two workers, and returns the exported directory."""
    env = {**os.environ, "ESPALIER_HOME": str(folder / "cluster")}
    up = subprocess.Popen([binary("espalier"), "up", "--workers", "2", "--port", "0", "--ready-file", str(folder / "ready")], env=env)
    try:
        subprocess.run([binary("espalier"), "--wait-ready", str(folder / "ready"), "submit", str(JOB), "--wait"], env=env, check=True)
        subprocess.run([binary("espalier"), "export", "parity", str(folder / "export")], env=env, check=True)
    finally:
        up.terminate()
        up.wait()
    return folder / "export"


# --- the checks ---------------------------------------------------------------------------------

def encode(path, texts):
    tokenizer = AutoTokenizer.from_pretrained(path)
    return tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")


def worst(one, other):
    if one.shape != other.shape:
        return float("inf")
    return (one - other).abs().max().item()


def check_forward(texts, folder):
    ours = forward_of_ours(MODEL, texts, folder)
    batch = encode(MODEL, texts)
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(MODEL).eval()(**batch)
    mask = batch["attention_mask"]
    yield "forward: last hidden states", worst(ours["hidden"], theirs.last_hidden_state[mask.bool()]), 1e-5
    yield "forward: pooled (mean)", worst(ours["pooled"], make_golden.pooled(theirs, mask, "mean")), 1e-5


def check_export(texts, folder):
    export = train_export(folder)
    ours = forward_of_ours(export, texts, folder)
    batch = encode(export, texts)
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(export).eval()(**batch)
    yield "export: AutoModel", worst(ours["hidden"], theirs.last_hidden_state[batch["attention_mask"].bool()]), 1e-4
    tasks = [name.removeprefix("logits.") for name in ours if name.startswith("logits.")]
    for task in sorted(tasks):
        with torch.no_grad():
            logits = AutoModelForSequenceClassification.from_pretrained(export / task).eval()(**batch).logits
        yield f"export: logits of {task}", worst(ours[f"logits.{task}"], logits), 1e-4


def check_golden():
    made = make_golden.golden(MODEL)
    yield "golden: losses of 20 steps", make_golden.worst_difference(made, json.loads(make_golden.GOLDEN.read_text())), 2e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", help="forward, export, golden; without: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, texts = Path(name), sentences()
        checks = {
            "forward": lambda: check_forward(texts, folder),
            "export": lambda: check_export(texts, folder),
            "golden": check_golden,
        }
        for check in args.checks or checks:
            if check not in checks:
                parser.error(f"no check is named {check}: choose from {', '.join(checks)}")
            rows += checks[check]()
    print(f"{'what':<36}{'worst difference':>18}{'allowed':>10}")
    for what, found, allowed in rows:
        print(f"{what:<36}{found:>18.2e}{allowed:>10.0e}  {'good' if found <= allowed else 'TOO FAR'}")
    failed = sum(found > allowed for _, found, allowed in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Compares Espalier with PyTorch and transformers, and prints one table.

1. forward  the imported MiniLM: last hidden states and pooled vectors on 100 real sentences, to 1e-5
2. export   jobs trained here load as AutoModel and AutoModelForSequenceClassification, no key missing
            or left over; logits to 1e-4. Stock classes where the job pools with BERT's pooler
3. golden   PyTorch still gives the committed losses that worker/tests/golden_steps.rs holds the
            training step to; and that test
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification
from transformers.utils import logging

import make_golden

REPO = Path(__file__).resolve().parents[2]
DATA = REPO / ".espalier/data/debian-packages"
JOB = REPO / "tests/parity/job.yaml"
MODEL = make_golden.MODEL
BIN = Path(os.environ.get("ESPALIER_BIN_DIR") or Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "debug")
SENTENCES = 100
POOLINGS = ["mean", "cls", "max", "last", "pooler"]


def sentences():
    """Real package descriptions that no model here was trained on, and a few odd ones."""
    if not (DATA / "section.test.jsonl").is_file():
        subprocess.run([sys.executable, REPO / "recipes/debian-packages/build.py"], check=True)
    with open(DATA / "section.test.jsonl", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file][: SENTENCES - 4]
    texts = [" ".join(text.split()) for text in texts]
    return texts + ["a", "Größe, naïve café; 日本語のテキスト", "word " * 400, "x" * 300]


class Failure(Exception):
    """A check that could not be made."""


# --- our side -----------------------------------------------------------------------------------

def ours_env():
    """Our binaries bring their own libtorch, see .espalier/env.sh."""
    return {**os.environ, "ESPALIER_BIN_DIR": str(BIN)}


def forward_of_ours(model, texts, folder, pooling=None):
    """Tensors of `espalier-worker forward`: `hidden` [all tokens, width], texts one after another;
    `features` [texts, width]; and for an export `outputs.TASK` [texts, classes]."""
    (folder / "texts.txt").write_text("".join(text + "\n" for text in texts))
    out = folder / "forward.safetensors"
    command = [BIN / "espalier-worker", "forward", "--model", model, "--texts", folder / "texts.txt", "--out", out, "--hidden"]
    subprocess.run(command + (["--pooling", pooling] if pooling else []), check=True, env=ours_env())
    return load_file(out)


def espalier(*words):
    done = subprocess.run([BIN / "espalier", *map(str, words)], env=ours_env(), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"espalier {' '.join(map(str, words))} failed: {(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout


class Cluster:
    """A local cluster in a folder of its own for as long as the `with` block runs."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        espalier("up", "--dir", self.folder, "--listen", "127.0.0.1:0", "--detach")
        self.server = json.loads((self.folder / "up.json").read_text())["server"]
        return self

    def __exit__(self, *_):
        espalier("down", "--dir", self.folder)

    def train(self, pooling, folder):
        """Trains tests/parity/job.yaml, a few steps on two workers; the exported directory."""
        name = f"parity-{pooling}"
        fields = [f"backbone.pooling={pooling}"]
        sets = [word for field in fields for word in ("--set", field)]
        espalier("--server", self.server, "submit", JOB, "--name", name, *sets, "--wait")
        espalier("--server", self.server, "export", name, "--to", folder / name)
        return folder / name


# --- the checks ---------------------------------------------------------------------------------

def encode(path, texts):
    tokenizer = AutoTokenizer.from_pretrained(path)
    return tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")


def worst(one, other):
    if one.shape != other.shape:
        return float("inf")
    return (one - other).abs().max().item()


def load(kind, path, **options):
    """The model, and how many of its keys the files lack or have too much of; BERT's pooler may be
    missing where nothing reads it."""
    model, found = kind.from_pretrained(path, output_loading_info=True, **options)
    keys = [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]
    return model.eval(), keys


def run(model, batch):
    with torch.no_grad():
        return model(**batch)


def check_forward(texts, folder):
    ours = forward_of_ours(MODEL, texts, folder, "mean")
    batch = encode(MODEL, texts)
    model, _ = load(AutoModel, MODEL)
    theirs = run(model, batch)
    mask = batch["attention_mask"]
    yield "forward: last hidden states", worst(ours["hidden"], theirs.last_hidden_state[mask.bool()]), 1e-5
    yield "forward: pooled (mean)", worst(ours["features"], make_golden.pooled(theirs, mask, "mean")), 1e-5
    ours = forward_of_ours(MODEL, texts, folder, "pooler")
    yield "forward: pooled (pooler)", worst(ours["features"], theirs.pooler_output), 1e-5


def check_export(texts, folder):
    with Cluster(folder / "cluster") as cluster:
        for pooling in POOLINGS:
            yield from check_one_export(cluster.train(pooling, folder), pooling, texts, folder)


def check_one_export(export, pooling, texts, folder):
    ours = forward_of_ours(export, texts, folder)
    batch = encode(export, texts)
    mask = batch["attention_mask"]
    model, keys = load(AutoModel, export)
    yield f"export {pooling}: AutoModel, keys amiss {keys or ''}", len(keys), 0
    theirs = run(model, batch)
    if pooling == "pooler":
        yield f"export {pooling}: AutoModel, pooled", worst(ours["features"], theirs.pooler_output), 1e-4
    else:
        yield f"export {pooling}: AutoModel, hidden", worst(ours["hidden"], theirs.last_hidden_state[mask.bool()]), 1e-4
    for task in sorted(name.removeprefix("outputs.") for name in ours if name.startswith("outputs.")):
        own_code = {} if pooling == "pooler" else {"trust_remote_code": True}
        model, keys = load(AutoModelForSequenceClassification, export / "tasks" / task, **own_code)
        if pooling == "pooler" and type(model) is not BertForSequenceClassification:
            keys = [f"class {type(model).__name__}"]
        yield f"export {pooling}: {task}, keys amiss {keys or ''}", len(keys), 0
        yield f"export {pooling}: {task}, logits", worst(ours[f"outputs.{task}"], run(model, batch).logits), 1e-4
        labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        meta = json.loads((export / "espalier.json").read_text())
        expected = next(one["labels"] for one in meta["tasks"] if one["name"] == task)
        yield f"export {pooling}: {task}, labels amiss", sum(a != b for a, b in zip(labels, expected)) + abs(len(labels) - len(expected)), 0


def check_golden():
    made = make_golden.golden(MODEL)
    yield "golden: PyTorch here, 20 losses", make_golden.worst_difference(made, json.loads(make_golden.GOLDEN.read_text())), 2e-5
    command = ["cargo", "test", "--quiet", "-p", "espalier-worker", "--test", "golden_steps", "--", "--nocapture", "--test-threads", "1"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    found = re.findall(r"golden (\w+): losses (\S+), gradient norms (\S+), two ranks (\S+)$", done.stdout, re.M)
    if done.returncode != 0 or len(found) != len(made["runs"]):
        raise Failure(f"cargo test --test golden_steps failed:\n{(done.stdout + done.stderr)[-3000:]}")
    for pooling, torch_loss, norm, ranks in found:
        yield f"golden {pooling}: losses", float(torch_loss), 1e-4
        yield f"golden {pooling}: gradient norms", float(norm), 1e-3
        yield f"golden {pooling}: 2 ranks and 1, losses", float(ranks), 1e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", help="forward, export, golden; without: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
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
            try:
                # One by one, so that the rows before a failure are kept.
                for row in checks[check]():
                    rows.append(row)
                    print(f"  {row[0]}: {row[1]:.2e}", flush=True)
            except Failure as failure:
                rows.append((f"{check}: see the message above", float("inf"), 0))
                print(f"{check}: {failure}", file=sys.stderr)
    print(f"{'what':<48}{'worst difference':>18}{'allowed':>10}")
    for what, found, allowed in rows:
        print(f"{what:<48}{found:>18.2e}{allowed:>10.0e}  {'good' if found <= allowed else 'TOO FAR'}")
    failed = sum(found > allowed for _, found, allowed in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Compares decoders with transformers, and prints one table.

Random GPT-2 and Llama (vocabulary matrix tied and not, shared heads of keys) go through a few steps of
training here; then

1. import  vectors of all tokens of the model as transformers wrote it, to 1e-5
2. export  loads as AutoModelForCausalLM, no key missing or left over; logits of the last token to 1e-4
3. peft    low-rank updates, on the base model by PEFT, give the export's logits to 1e-4
4. text    what `espalier predict` makes of prompts is what transformers' greedy search makes of them
"""

import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from parity import BIN, REPO, Cluster, Failure, espalier, forward_of_ours, load, ours_env, run, worst

TOKENIZER = REPO / "recipes/shakespeare/model"
TEXTS = ["First Citizen:", "Speak, speak.", "a", "You are all resolved"]
NEW = 12
LIKE_LLAMA = {"vocab_size": 65, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": None}
MODELS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=65, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2,
                                         bos_token_id=None, eos_token_id=None)),
    "llama": (LlamaForCausalLM, LlamaConfig(**LIKE_LLAMA, tie_word_embeddings=False)),
    "llama-tied": (LlamaForCausalLM, LlamaConfig(**LIKE_LLAMA, tie_word_embeddings=True)),
}


def write_model(name, folder):
    torch.manual_seed(7)
    kind, config = MODELS[name]
    kind(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, folder / file)


def write_job(name, folder, base, tuning="all"):
    """A job of a few steps on a few lines."""
    lines = ["".join(chr(ord("a") + (3 * row + 5 * place) % 26) for place in range(40)) + "\n" for row in range(40)]
    (folder / "lines.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    job = {
        "name": name, "backbone": {"path": str(folder / base), "max_tokens": 32, "pooling": "last"}, "tuning": tuning,
        "tasks": [{"name": "language", "head": "causal_lm", "data": {"train": str(folder / "lines.jsonl")}}],
        "training": {"steps": 6, "batch_size": 8, "optimizer": {"learning_rate": 0.003, "head_learning_rate": 0.003}},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(job))
    return path


def texts_of_ours(export):
    words = ["predict", "--model", str(export), "--max-new-tokens", str(NEW), "-o", "json"]
    text = "".join(f"{one}\n" for one in TEXTS)
    done = subprocess.run([BIN / "espalier", *words], env=ours_env(), input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"espalier {' '.join(words)} failed: {done.stderr[-2000:]}")
    return [json.loads(line)["predictions"]["language"]["completion"] for line in done.stdout.splitlines()]


def train(cluster, folder, name, *job):
    """Submits a job, waits for it; where its export lies."""
    export = folder / f"{name}-export"
    espalier("--server", cluster.server, "submit", write_job(name, folder, *job), "--wait")
    espalier("--server", cluster.server, "export", name, "--to", export)
    return export


def logits_of(model, batches):
    return torch.cat([run(model, batch).logits[:, -1] for batch in batches])


def check(name, cluster, folder):
    write_model(name, folder / name)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    batches = [tokenizer([text], return_tensors="pt") for text in TEXTS]
    for batch in batches:
        batch.pop("token_type_ids", None)
    ours = forward_of_ours(folder / name, TEXTS, folder, "last")
    model, _ = load(AutoModel, folder / name)
    hidden = torch.cat([run(model, batch).last_hidden_state[0] for batch in batches])
    yield f"{name}: import, hidden states", worst(ours["hidden"], hidden), 1e-5

    export = train(cluster, folder, name, name)
    model, keys = load(AutoModelForCausalLM, export)
    yield f"{name}: export, keys amiss {keys or ''}", len(keys), 0
    yield f"{name}: export, logits", worst(forward_of_ours(export, TEXTS, folder)["outputs.language"], logits_of(model, batches)), 1e-4

    updated = train(cluster, folder, f"{name}-lora", name, {"lora": {"rank": 2, "targets": ["all-linear"]}})
    plain, _ = load(AutoModelForCausalLM, folder / name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        theirs = PeftModel.from_pretrained(plain, updated / "adapter").eval()
    amiss = [str(one.message) for one in said if "keys" in str(one.message)]
    yield f"{name}: updates, keys amiss {amiss or ''}", len(amiss), 0
    logits = logits_of(theirs, batches)
    yield f"{name}: updates, logits", worst(forward_of_ours(updated, TEXTS, folder)["outputs.language"], logits), 1e-4
    with theirs.disable_adapter():
        yield f"{name}: updates, did not move", float(worst(logits, logits_of(theirs, batches)) < 1e-3), 0

    found = []
    for batch in batches:
        ids = model.generate(**batch, max_new_tokens=NEW, do_sample=False, pad_token_id=0)[0, batch["input_ids"].shape[1] :]
        found.append(tokenizer.decode(ids))
    yield f"{name}: texts that differ", sum(a != b for a, b in zip(found, texts_of_ours(export), strict=True)), 0


def main():
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Cluster(folder / "cluster") as cluster:
            for model in MODELS:
                try:
                    rows.extend(check(model, cluster, folder))
                except Failure as failure:
                    rows.append((f"{model}: see the message above", float("inf"), 0))
                    print(f"{model}: {failure}", file=sys.stderr)
    print(f"{'what':<48}{'worst difference':>18}{'allowed':>10}")
    for what, found, allowed in rows:
        print(f"{what:<48}{found:>18.2e}{allowed:>10.0e}  {'good' if found <= allowed else 'TOO FAR'}")
    failed = sum(found > allowed for _, found, allowed in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

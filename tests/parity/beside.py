#!/usr/bin/env python3
"""Loads what is trained beside a backbone into PEFT, and prints one table.

Random BERT, RoBERTa, GPT-2 and Llama (shared heads of keys) go through a few steps of training here, with
low-rank updates, a learned prompt and a learned prefix. Then PEFT puts the exported folder on the backbone
that the job began with, and hidden states of all tokens are the same to 1e-4; and what was trained moved them.
"""

import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel
from transformers import RobertaConfig, RobertaModel
from transformers.utils import logging

from make_golden import MODEL
from parity import REPO, Cluster, Failure, espalier, forward_of_ours, load, run, worst

CHARACTERS = REPO / "recipes/shakespeare/model"
TEXTS = ["First Citizen:", "Speak, speak.", "a", "You are all resolved"]
TOKENS = 3
LIKE_BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 64,
             "initializer_range": 0.2}
# Class, configuration, where the tokenizer is, pooling, layers for low-rank updates.
MODELS = {
    "bert": (BertModel, BertConfig(**LIKE_BERT), MODEL, "mean", ["query", "value"]),
    "roberta": (RobertaModel, RobertaConfig(**LIKE_BERT, vocab_size=30522, pad_token_id=1), MODEL, "mean", ["query", "output.dense"]),
    "gpt2": (GPT2Model, GPT2Config(vocab_size=65, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2,
                                   bos_token_id=None, eos_token_id=None), CHARACTERS, "last", ["c_attn"]),
    "llama": (LlamaModel, LlamaConfig(**LIKE_BERT, vocab_size=65, num_key_value_heads=2, bos_token_id=None, eos_token_id=None),
              CHARACTERS, "last", ["q_proj", "v_proj"]),
}


def tunings(targets):
    """Folder of an export, and the tuning that writes it."""
    return {
        "adapter": {"lora": {"rank": 2, "targets": targets}},
        "prompt": {"prompt": {"tokens": TOKENS}},
        "prefix": {"prefix": {"tokens": TOKENS}},
    }


def write_model(name, folder):
    torch.manual_seed(7)
    kind, config, tokenizer, _, _ = MODELS[name]
    kind(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / file, folder / file)


def write_job(job_name, model, tuning, pooling, folder):
    """A job of a few steps on a few texts of two classes."""
    rows = [{"text": ("ab" if row % 2 else "yz") * (1 + row % 7), "label": "even odd".split()[row % 2]} for row in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {
        "name": job_name, "backbone": {"path": str(model), "max_tokens": 32, "pooling": pooling}, "tuning": tuning,
        "tasks": [{"name": "kind", "head": "single_label", "data": {"train": str(folder / "rows.jsonl")}}],
        "training": {"steps": 6, "batch_size": 8, "optimizer": {"learning_rate": 0.05, "weight_decay": 0.0}},
    }
    path = folder / f"{job_name}.yaml"
    path.write_text(json.dumps(job))
    return path


def hidden_of(model, batches, left_out=0):
    return torch.cat([run(model, batch).last_hidden_state[0, left_out:] for batch in batches])


def check(name, cluster, folder):
    base = folder / name
    write_model(name, base)
    _, _, tokenizer, pooling, targets = MODELS[name]
    tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    batches = [tokenizer([text], return_tensors="pt") for text in TEXTS]
    for batch in batches:
        batch.pop("token_type_ids", None)
    for kind, tuning in tunings(targets).items():
        job = f"{name}-{kind}"
        espalier("--server", cluster.server, "submit", write_job(job, base, tuning, pooling, folder), "--wait")
        export = folder / f"{job}-export"
        espalier("--server", cluster.server, "export", job, "--to", export)
        ours = forward_of_ours(export, TEXTS, folder)["hidden"]
        plain, _ = load(AutoModel, base)
        before = hidden_of(plain, batches)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            theirs = PeftModel.from_pretrained(plain, export / kind).eval()
        # PEFT warns of keys that it misses.
        amiss = [str(one.message) for one in said if "keys" in str(one.message)]
        yield f"{name}: {kind}, keys amiss {amiss or ''}", len(amiss), 0
        # PEFT gives the rows of a prompt, too.
        found = hidden_of(theirs, batches, TOKENS if kind == "prompt" else 0)
        yield f"{name}: {kind}, hidden states", worst(ours, found), 1e-4
        yield f"{name}: {kind}, did not move", float(worst(found, before) < 1e-3), 0


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
                    # One by one, so that the rows before a failure are kept.
                    for row in check(model, cluster, folder):
                        rows.append(row)
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

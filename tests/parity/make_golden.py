#!/usr/bin/env python3
"""Makes golden_steps.json: the losses of 20 AdamW steps on one fixed batch, computed by PyTorch.

MiniLM with dropout off and one linear head, single precision, one thread. The head starts at
weight[c][j] = 0.02 * sin(1 + c * width + j), computed in f64 and rounded to f32, and bias 0. Weight
decay spares biases and norms; the heads' rate is ten times the backbone's; gradients are clipped to
`clip_norm` over backbone and head together. `--check` compares with the committed file instead.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden_steps.json"
MODEL = HERE.parent.parent / ".espalier/models/all-MiniLM-L6-v2"
STEPS, CLASSES = 20, 4
LEARNING_RATE, BETAS, EPS, DECAY, CLIP = 5e-5, (0.9, 0.999), 1e-8, 0.01, 1.0
TEXTS = [
    "converts audio files between many formats",
    "shared library for reading and writing compressed archives",
    "a turn-based strategy game set in ancient times",
    "documentation for the network monitoring daemon",
    "command line client for a popular version control system, with colours and completion",
    "fonts",
    "Perl module to parse dates",
    "header files needed to compile programs that talk to the database server over a local socket",
    "lightweight window manager",
    "checks web pages for broken links and writes a report in plain text or HTML",
    "plugin that adds noise reduction to the sound editor",
    "mail transfer agent for small machines",
    "arcade game for children who learn to type",
    "static analysis of shell scripts",
    "manual pages in German",
    "bindings for the Python language",
]
LABELS = [index * 7 % CLASSES for index in range(len(TEXTS))]


def head_init(width):
    rows = [[0.02 * math.sin(1 + c * width + j) for j in range(width)] for c in range(CLASSES)]
    return torch.tensor(rows, dtype=torch.float64).to(torch.float32)


def pooled(output, mask, pooling):
    if pooling == "pooler":
        return output.pooler_output
    weights = mask.unsqueeze(-1).to(torch.float32)
    return (output.last_hidden_state * weights).sum(1) / weights.sum(1)


def losses(model_path, pooling):
    """(loss before each step, gradient norm of each step before clipping)."""
    model = AutoModel.from_pretrained(model_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    batch = AutoTokenizer.from_pretrained(model_path)(TEXTS, padding=True, return_tensors="pt")
    labels = torch.tensor(LABELS)
    head = torch.nn.Linear(model.config.hidden_size, CLASSES)
    with torch.no_grad():
        head.weight.copy_(head_init(model.config.hidden_size))
        head.bias.zero_()
    groups = []
    for module, rate in ((model, LEARNING_RATE), (head, 10 * LEARNING_RATE)):
        for matrices in (True, False):
            chosen = [p for p in module.parameters() if (p.dim() > 1) == matrices]
            groups.append({"params": chosen, "lr": rate, "weight_decay": DECAY if matrices else 0.0})
    optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=EPS)
    found, norms = [], []
    for _ in range(STEPS):
        logits = head(pooled(model(**batch), batch["attention_mask"], pooling))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        every = [p for p in [*model.parameters(), *head.parameters()] if p.grad is not None]
        norms.append(torch.nn.utils.clip_grad_norm_(every, CLIP).item())
        optimizer.step()
        found.append(loss.item())
    return found, norms


def golden(model_path):
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    answer = {
        "made_by": f"tests/parity/make_golden.py, torch {torch.__version__}",
        "settings": {"learning_rate": LEARNING_RATE, "head_learning_rate": 10 * LEARNING_RATE, "betas": BETAS,
                     "eps": EPS, "weight_decay": DECAY, "clip_norm": CLIP, "classes": CLASSES},
        "texts": TEXTS,
        "labels": LABELS,
        "token_ids": tokenizer(TEXTS)["input_ids"],
        "runs": {},
    }
    for pooling in ("mean", "pooler"):
        found, norms = losses(model_path, pooling)
        answer["runs"][pooling] = {"losses": found, "gradient_norms": norms}
    return answer


def worst_difference(one, other):
    pairs = [(one["runs"][run]["losses"], other["runs"][run]["losses"]) for run in one["runs"]]
    return max(abs(a - b) for first, second in pairs for a, b in zip(first, second, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    made = golden(args.model)
    if not args.check:
        GOLDEN.write_text(json.dumps(made, indent=1) + "\n")
        print(f"wrote {GOLDEN}")
        return
    worst = worst_difference(made, json.loads(GOLDEN.read_text()))
    print(f"golden_steps.json: PyTorch here differs by at most {worst:.1e}, allowed is 2e-05")
    sys.exit(worst > 2e-5)


if __name__ == "__main__":
    main()

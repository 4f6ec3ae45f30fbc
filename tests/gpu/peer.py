#!/usr/bin/env python3
"""The peer: the training step of a text classifier in eager PyTorch, fp32 without TF32, as one usually writes it.

transformers' BertModel from config.json with random weights, the mean over tokens, dropout, a linear head, AdamW (fused), gradient
norm clipped to 1. Batches are ready in pinned memory before the clock runs, as loader processes would have them. Prints one
line of JSON for each cell and way: `padded` is random batches padded to their longest text, `grouped` the same with texts
grouped by length. A file whose texts are all equally long is measured once.
"""

import argparse
import gc
import json
import random
import sys
import time
from pathlib import Path

# Distinct batches that are gone through again and again.
BATCHES = 64


def rows_of(path):
    path = Path(path)
    if path.suffix == ".parquet":
        import pyarrow.parquet
        return pyarrow.parquet.read_table(path, columns=["text", "label"]).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def tokens_of(model, texts, most):
    import tokenizers
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)
    return [one.ids for one in tokenizer.encode_batch(texts)]


def batches_of(lengths, batch, grouped):
    """Row numbers of BATCHES batches."""
    draw, found = random.Random(0), []
    while len(found) < BATCHES:
        rows = list(range(len(lengths)))
        draw.shuffle(rows)
        rows = (rows * (1 + batch // len(rows)))[:max(batch, len(rows) // batch * batch)]
        if grouped:
            # As transformers' group_by_length: sorted inside of chunks of 50 batches.
            chunks = [rows[start:start + 50 * batch] for start in range(0, len(rows), 50 * batch)]
            rows = [row for chunk in chunks for row in sorted(chunk, key=lambda row: -lengths[row])]
        found += [rows[start:start + batch] for start in range(0, len(rows), batch)]
    draw.shuffle(found)
    return found[:BATCHES]


def tensors(torch, ids, labels, rows, pin):
    """(ids, mask, labels) of a batch, padded to its longest text."""
    longest = max(len(ids[row]) for row in rows)
    padded = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for place, row in enumerate(rows):
        padded[place, :len(ids[row])] = torch.tensor(ids[row])
        mask[place, :len(ids[row])] = 1
    all_three = (padded, mask, torch.tensor([labels[row] for row in rows]))
    return tuple(one.pin_memory() for one in all_three) if pin else all_three


def classifier(torch, model, classes):
    from transformers import BertConfig, BertModel

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = BertModel(BertConfig.from_pretrained(model), add_pooling_layer=False)
            self.dropout = torch.nn.Dropout(0.1)
            self.head = torch.nn.Linear(self.bert.config.hidden_size, classes)

        def forward(self, ids, mask):
            rows = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(rows.dtype)
            return self.head(self.dropout((rows * weights).sum(1) / weights.sum(1)))

    return Classifier().train()


def measure(torch, args, model, ids, labels, rows, warmup):
    """Figures of training on these batches over and over, after so many steps of warm-up."""
    cuda = args.device == "cuda"
    wait = torch.cuda.synchronize if cuda else lambda: None
    batches = [tensors(torch, ids, labels, some, cuda) for some in rows]
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    net = classifier(torch, model, max(labels) + 1).to(args.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-4, weight_decay=0.01, fused=True)
    done = 0

    def step():
        nonlocal done
        tokens, mask, wanted = (one.to(args.device, non_blocking=True) for one in batches[done % len(batches)])
        loss = torch.nn.functional.cross_entropy(net(tokens, mask), wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        return loss

    for _ in range(warmup):
        loss = step()
    wait()
    first, begin = done, time.perf_counter()
    while time.perf_counter() - begin < args.seconds or done < first + 5:
        loss = step()
        # Not at every step: launches may run ahead, though not without end.
        if done % 20 == 0:
            wait()
    wait()
    seconds, steps = time.perf_counter() - begin, done - first
    free, total = torch.cuda.mem_get_info() if cuda else (0, 0)
    figures = {
        "steps": steps, "samples_per_second": steps * len(rows[0]) / seconds, "step_ms": 1000 * seconds / steps, "last_loss": round(loss.item(), 4),
        "padding": sum(one[1].numel() for one in batches) / sum(int(one[1].sum()) for one in batches),
        "device_bytes": total - free if cuda else None, "allocated_bytes": torch.cuda.max_memory_allocated() if cuda else None,
    }
    del net, optimizer, loss, batches, step
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", nargs=5, action="append", required=True, metavar=("MODEL", "DATA", "BATCH", "WARMUP", "NAME"),
                        help="directory with config.json and tokenizer.json, file with text and label, samples of a step, steps before "
                             "the measured ones, what to call it")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=4, help="of a measurement (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=64, help="longer texts are cut (default: %(default)s)")
    args = parser.parse_args()
    try:
        import torch
        import transformers
    except ImportError as error:
        sys.exit(f"peer.py: error: {error}; PyTorch and transformers are needed")
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for model, data, batch, warmup, name in args.cell:
        rows = rows_of(data)
        ids = tokens_of(model, [row["text"] for row in rows], args.max_tokens)
        lengths = [len(one) for one in ids]
        classes = sorted({row["label"] for row in rows})
        labels = [classes.index(row["label"]) for row in rows]
        for way in ("padded", "grouped") if len(set(lengths)) > 1 else ("padded",):
            chosen = batches_of(lengths, int(batch), way == "grouped")
            figures = measure(torch, args, model, ids, labels, chosen, int(warmup))
            print(json.dumps({"cell": name, "way": way, "torch": torch.__version__, "transformers": transformers.__version__, **figures}), flush=True)


if __name__ == "__main__":
    main()

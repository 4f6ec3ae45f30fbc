#!/usr/bin/env python3
"""The peer: the same training job in PyTorch DDP over Gloo, as one usually writes it.

Every rank is a process with one thread. It tokenises on the fly, pads to the longest text of its batch,
and runs AdamW over the whole model. Prints one line of JSON.
"""

import argparse
import json
import os
import random
import sys
import time

import launch


class Batches:
    """This rank's batches of row numbers, endlessly, shuffled anew in each epoch."""

    def __init__(self, lengths, batch, rank, world, seed, by_length):
        self.lengths, self.batch, self.rank, self.world = lengths, batch, rank, world
        self.seed, self.by_length = seed, by_length

    def __iter__(self):
        epoch, everywhere = 0, self.batch * self.world
        while True:
            rows = list(range(len(self.lengths)))
            random.Random(self.seed + epoch).shuffle(rows)
            if self.by_length:
                # As transformers' group_by_length: sort inside of chunks of 50 global batches.
                chunk = 50 * everywhere
                chunks = [rows[start:start + chunk] for start in range(0, len(rows), chunk)]
                rows = [row for part in chunks for row in sorted(part, key=lambda row: -self.lengths[row])]
            for start in range(0, len(rows) - everywhere + 1, everywhere):
                mine = start + self.rank * self.batch
                yield rows[mine:mine + self.batch]
            epoch += 1


def read_rows(path):
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    names = sorted({row["label"] for row in rows})
    return [row["text"] for row in rows], [names.index(row["label"]) for row in rows], len(names)


def peak_rss_mb():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def train(args):
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data import DataLoader
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    rank = int(os.environ["RANK"])
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    logging.set_verbosity_error()
    dist.init_process_group("gloo")
    texts, labels, classes = read_rows(args.data)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    config = AutoConfig.from_pretrained(args.model, num_labels=classes)
    if not args.dropout:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = config.classifier_dropout = 0.0
    model = AutoModelForSequenceClassification.from_pretrained(args.model, config=config).train()
    model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, fused=True)

    def collate(rows):
        batch = tokenizer([texts[row] for row in rows], truncation=True, max_length=args.max_tokens,
                          padding="longest", return_tensors="pt")
        batch["labels"] = torch.tensor([labels[row] for row in rows])
        return batch

    lengths = [len(text) for text in texts]
    if args.group_by_length:
        ids = tokenizer(texts, truncation=True, max_length=args.max_tokens)["input_ids"]
        lengths = [len(row) for row in ids]
    batches = Batches(lengths, args.batch // args.ranks, rank, args.ranks, args.seed, args.group_by_length)
    loader = iter(DataLoader(range(len(texts)), batch_sampler=batches, collate_fn=collate))

    first = begin = None
    losses, real, padded = [], 0, 0
    for step in range(args.warmup + args.steps):
        if step == args.warmup:
            dist.barrier()
            begin = time.perf_counter()
        batch = next(loader)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if first is None:
            first = time.time() - launch.begin()
        if step >= args.warmup:
            real += int(batch["attention_mask"].sum())
            padded += batch["attention_mask"].numel()
    dist.barrier()
    seconds = time.perf_counter() - begin
    mine = torch.tensor([peak_rss_mb(), first, float(real), float(padded)])
    everyone = [torch.zeros_like(mine) for _ in range(args.ranks)]
    dist.all_gather(everyone, mine)
    if rank == 0:
        print(json.dumps({
            "samples_per_second": round(args.steps * args.batch / seconds, 2),
            "peak_rss_mb": [round(float(other[0]), 1) for other in everyone],
            "seconds_to_first_step": round(max(float(other[1]) for other in everyone), 2),
            "padding": round(float(sum(o[3] for o in everyone) / sum(o[2] for o in everyone)), 3),
            "steps": args.steps,
            "last_loss": round(losses[-1], 4),
        }), flush=True)
    # Taking the process group apart was seen to hang; all figures are out.
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hugging Face directory")
    parser.add_argument("--data", required=True, help="JSON Lines with text and label")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="per rank")
    parser.add_argument("--batch", type=int, default=32, help="over all ranks")
    parser.add_argument("--steps", type=int, default=60, help="measured steps")
    parser.add_argument("--warmup", type=int, default=10, help="steps before the measured ones")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dropout", action="store_true", help="keep the dropout of config.json")
    parser.add_argument("--group-by-length", action="store_true")
    args = parser.parse_args()
    if args.batch % args.ranks:
        sys.exit(f"a batch of {args.batch} can't be split evenly over {args.ranks} ranks")
    launch.ranks(args.ranks, args.threads)
    train(args)


if __name__ == "__main__":
    main()

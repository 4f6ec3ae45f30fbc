#!/usr/bin/env python3
"""The peers of sharding: memory of a rank under PyTorch DDP and FSDP2 over Gloo, on the CPU.

The same BertModel with mean pooling and a head on every rank, AdamW, gradients clipped to norm 1. FSDP2
is `fully_shard` on every BertLayer and on the root, with its defaults: a layer's parameters go again
after its forward and its backward pass, the root's (word embeddings among them) after the backward.
Prints one line of JSON: bytes are those of rank 0, memory and seconds the worst rank's. Of parameters
that FSDP2 gathers, those that a module holds count, not the buffers that they arrive in.
`steady_rss_mb` is the peak of the measured steps alone, without what loading the model took.
"""

import argparse
import json
import os
import statistics
import time
import warnings

import launch
from balance_peers import reset_peak
from ddp_peer import Batches, peak_rss_mb, read_rows


def stored(tensors):
    """Bytes of the storages behind the tensors, each counted once."""
    found = {}
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        storage = local.untyped_storage()
        if storage.size():
            found[storage.data_ptr()] = storage.size()
    return sum(found.values())


class Peak:
    """The most bytes of parameters seen at any module's passes: shards, and what is gathered by then."""

    def __init__(self, model, kept):
        self.model, self.kept, self.bytes = model, kept, kept
        self.hooks = []
        for module in model.modules():
            self.hooks.append(module.register_forward_pre_hook(self.look))
            if not any(True for _ in module.children()):
                self.hooks.append(module.register_full_backward_pre_hook(self.look))

    def look(self, *_):
        # A gathered parameter is a plain tensor in its module, a sharded one a DTensor.
        whole = [one for one in self.model.parameters() if not hasattr(one, "to_local")]
        self.bytes = max(self.bytes, self.kept + stored(whole))

    def done(self):
        for hook in self.hooks:
            hook.remove()
        return self.bytes


def network(args, classes):
    from torch import nn
    from transformers import BertModel

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = BertModel.from_pretrained(args.model, add_pooling_layer=False)
            self.head = nn.Linear(self.bert.config.hidden_size, classes)

        def forward(self, words):
            hidden = self.bert(**words).last_hidden_state
            mask = words["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            return self.head((hidden * mask).sum(1) / mask.sum(1))

    return Network().train()


def train(args):
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel
    from transformers import AutoTokenizer
    from transformers.utils import logging

    rank = int(os.environ["RANK"])
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    logging.set_verbosity_error()
    # The watching hooks of embeddings, whose inputs have no gradient.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    dist.init_process_group("gloo")
    texts, labels, classes = read_rows(args.data)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = network(args, classes)
    if args.way == "fsdp2":
        mesh = init_device_mesh("cpu", (args.ranks,))
        for layer in model.bert.encoder.layer:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, fused=args.way == "ddp")
    batches = iter(Batches([0] * len(texts), args.batch // args.ranks, rank, args.ranks, args.seed, False))

    def step():
        rows = next(batches)
        words = tokenizer([texts[row] for row in rows], truncation=True, max_length=args.max_tokens, padding="longest", return_tensors="pt")
        target = torch.tensor([labels[row] for row in rows])
        dist.barrier()
        begin = time.perf_counter()
        torch.nn.functional.cross_entropy(model(dict(words)), target).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        gradients = stored(one.grad for one in model.parameters() if one.grad is not None)
        optimizer.zero_grad()
        return time.perf_counter() - begin, gradients

    for _ in range(args.warmup):
        step()
    loading = peak_rss_mb()
    reset_peak()
    seconds = [step()[0] for _ in range(args.steps)]
    # Memory is the timed steps'; parameters are watched in a further one.
    steady = peak_rss_mb()
    kept = stored(model.parameters())
    peak = Peak(model, kept) if args.way == "fsdp2" else None
    gradients = step()[1]
    state = stored(value for entry in optimizer.state.values() for value in entry.values() if torch.is_tensor(value) and value.dim())
    mine = torch.tensor([max(loading, steady), steady, statistics.median(seconds)], dtype=torch.float64)
    dist.all_reduce(mine, op=dist.ReduceOp.MAX)
    if rank == 0:
        print(json.dumps({
            "way": args.way, "ranks": args.ranks, "seconds": round(float(mine[2]), 4),
            "parameter_bytes": kept, "peak_parameter_bytes": peak.done() if peak else kept,
            "optimizer_bytes": state, "gradient_bytes": gradients,
            # DDP's buckets hold a copy of all gradients.
            "buffer_bytes": gradients if args.way == "ddp" else None,
            "peak_rss_mb": round(float(mine[0]), 1), "steady_rss_mb": round(float(mine[1]), 1), "steps": args.steps,
        }), flush=True)
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hugging Face directory")
    parser.add_argument("--data", required=True, help="JSON Lines with text and label")
    parser.add_argument("--way", choices=["ddp", "fsdp2"], required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="per rank")
    parser.add_argument("--batch", type=int, default=32, help="over all ranks")
    parser.add_argument("--steps", type=int, default=8, help="measured steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the measured ones")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.batch % args.ranks:
        parser.error(f"a batch of {args.batch} can't be split evenly over {args.ranks} ranks")
    launch.ranks(args.ranks, args.threads)
    train(args)


if __name__ == "__main__":
    main()

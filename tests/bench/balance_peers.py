#!/usr/bin/env python3
"""The peers of balancing: seconds per training step of PyTorch alone, of LibMTL 1.1 and of TorchJD 0.18.

A shared BertModel with mean pooling, one linear head per task, AdamW, gradients clipped to norm 1.
Every way sees the same batches, tokenised before the clock starts. Each runs in a process of its own
and prints one line of JSON; one that cannot be driven prints `unusable` with the reason.

    sum              one forward pass per task, losses summed, one backward pass
    sum-one-batch    the same on one padded batch of all tasks' rows
    libmtl:METHOD    LibMTL's architecture and weighting classes in the order of its Trainer; with
                     `+rep`, its rep_grad=True
    torchjd:NAME     TorchJD's aggregator with the fastest of the library's ways to differentiate
"""

import argparse
import contextlib
import ctypes
import hashlib
import importlib.util
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path

from ddp_peer import peak_rss_mb

LIBMTL = ["EW", "MGDA", "PCGrad", "CAGrad", "Nash_MTL", "UPGrad", "Aligned_MTL", "IMTL"]
TORCHJD = ["UPGrad", "MGDA", "PCGrad", "CAGrad", "NashMTL", "AlignedMTL", "IMTLG"]
WAYS = {
    "batch-per-task": ["sum", "sum-one-batch"] + [f"libmtl:{name}" for name in LIBMTL] + [f"torchjd:{name}" for name in TORCHJD],
    "shared-input": ["sum"] + [f"libmtl:{name}" for name in LIBMTL] + [f"libmtl:{name}+rep" for name in ("MGDA", "IMTL")]
                    + [f"torchjd:{name}" for name in TORCHJD],
}
# What LibMTL's command line sets when nothing is said, and the paper's c for TorchJD's CAGrad.
WEIGHT_ARGS = {"MGDA": {"mgda_gn": "none"}, "CAGrad": {"calpha": 0.5, "rescale": 1}}
JD_ARGS = {"CAGrad": {"c": 0.5}}
HASHED_CLASSES = 8


class Unusable(Exception):
    """This way is not to be had from the library as it was published."""


def read(path):
    """Texts, class numbers, classes; of several labels the first stands for all."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    labels = [(row.get("label") or row.get("labels") or "") for row in rows]
    labels = [str(label[0]) if isinstance(label, list) else str(label) for label in labels]
    names = {name: number for number, name in enumerate(sorted(set(labels)))}
    return [row["text"] for row in rows], [names[label] for label in labels], len(names)


def drawn(rows, size, seed):
    """Batches of row numbers, endlessly, shuffled anew in each epoch."""
    for epoch in itertools.count():
        order = list(range(rows))
        random.Random(1000 * seed + epoch).shuffle(order)
        yield from (order[at:at + size] for at in range(0, rows - size + 1, size))


def steps_of(args, tokenizer):
    """(classes per task, [step of [batch of a task, or the one batch of all]], padded over real tokens)."""
    import torch

    def tokens(texts):
        return dict(tokenizer(texts, truncation=True, max_length=args.max_tokens, padding="longest", return_tensors="pt"))

    count = args.warmup + args.steps
    if args.setting == "shared-input":
        texts = read(args.data[0])[0]
        steps = []
        for picked in itertools.islice(drawn(len(texts), args.batch, args.seed), count):
            mine = [texts[row] for row in picked]
            labels = [[hashlib.sha256(f"{task}:{text}".encode()).digest()[0] % HASHED_CLASSES for text in mine]
                      for task in range(args.tasks)]
            steps.append([{**tokens(mine), "labels": torch.tensor(labels)}])
        classes = [HASHED_CLASSES] * args.tasks
    else:
        size, streams, classes = args.batch // args.tasks, [], []
        for task in range(args.tasks):
            # Where there are more tasks than files, a file serves again with other draws and labels.
            turn = task // len(args.data)
            texts, labels, number = read(args.data[task % len(args.data)])
            labels = [(label + turn) % number for label in labels]
            classes.append(number)
            streams.append((texts, labels, drawn(len(texts), size, args.seed + task)))
        steps = []
        for _ in range(count):
            picked = [(texts, labels, next(rows)) for texts, labels, rows in streams]
            parts = [([texts[row] for row in rows], [labels[row] for row in rows]) for texts, labels, rows in picked]
            if args.way == "sum-one-batch":
                batch = tokens([text for texts, _ in parts for text in texts])
                steps.append([{**batch, "labels": torch.tensor([labels for _, labels in parts])}])
            else:
                steps.append([{**tokens(texts), "labels": torch.tensor(labels)} for texts, labels in parts])
    masks = [batch["attention_mask"] for step in steps[args.warmup:] for batch in step]
    return classes, steps, sum(mask.numel() for mask in masks) / sum(int(mask.sum()) for mask in masks)


def trunk(model):
    """BertModel with mean pooling, as a module from a tokenised batch to one vector per text."""
    from torch import nn
    from transformers import BertModel

    class Trunk(nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = BertModel.from_pretrained(model, add_pooling_layer=False)

        def forward(self, batch):
            words = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
            hidden = self.bert(**words).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            return (hidden * mask).sum(1) / mask.sum(1)

    return Trunk()


class Plain:
    """Losses of all tasks by hand; subclasses say how gradients come of them."""

    def __init__(self, args, classes):
        from torch import nn
        self.args = args
        self.trunk = trunk(args.model)
        self.heads = nn.ModuleList(nn.Linear(self.trunk.bert.config.hidden_size, number) for number in classes)
        self.modules = [self.trunk.train(), self.heads]

    def losses(self, step):
        """(pooled vectors: one tensor where tasks share them, losses)"""
        from torch.nn.functional import cross_entropy
        pooled = [self.trunk(batch) for batch in step]
        if self.args.way == "sum-one-batch":
            pooled = list(pooled[0].split(self.args.batch // self.args.tasks))
        shared = self.args.setting == "shared-input"
        vectors = pooled * self.args.tasks if shared else pooled
        labels = step[0]["labels"] if len(step) == 1 else [batch["labels"] for batch in step]
        return pooled, [cross_entropy(head(vector), label) for head, vector, label in zip(self.heads, vectors, labels)]

    def backward(self, step):
        sum(self.losses(step)[1]).backward()


class TorchJD(Plain):
    """Shared parameters by an aggregator, heads as they are, which is what mtl_backward does.

    `mtl_backward` and `backward` carry all tasks through one differentiation, at once (by vmap) or one
    after the other (`/1`); `jac` differentiates one task's loss at a time and stacks the rows, which
    spares the zeros where tasks have batches of their own; `autogram` never stores the Jacobian. A
    Jacobian is combined whole, or tensor by tensor (`+gram`)."""

    def __init__(self, args, classes):
        super().__init__(args, classes)
        from torchjd import aggregation
        name = args.way.split(":")[1]
        found = getattr(aggregation, name, None)
        if found is None:
            raise Unusable(f"TorchJD has no aggregator {name}")
        given = {"n_tasks": args.tasks} if name == "NashMTL" else JD_ARGS.get(name, {})
        self.aggregator = found(**given)
        self.by_gram = isinstance(self.aggregator, aggregation.GramianWeightedAggregator)
        self.shared = list(self.trunk.parameters())
        self.api = None
        self.engine = None

    def apis(self):
        return ["jac", "mtl_backward", "mtl_backward/1", "backward", "backward/1"] + ["autogram"] * self.by_gram

    def backward(self, step):
        import torch
        from torchjd import autojac
        pooled, losses = self.losses(step)
        api, gram = self.api.removesuffix("+gram"), self.api.endswith("+gram")
        chunk = {"parallel_chunk_size": 1} if api.endswith("/1") else {}
        if api == "autogram":
            vector = torch.stack(losses)
            weights = self.aggregator.gramian_weighting(self.engine.compute_gramian(vector))
            return vector.backward(weights)
        if api.startswith("mtl_backward"):
            autojac.mtl_backward(losses, features=pooled, shared_params=self.shared, **chunk)
        else:
            torch.autograd.backward(losses, inputs=list(self.heads.parameters()), retain_graph=True)
            if api.startswith("backward"):
                autojac.backward(losses, inputs=self.shared, **chunk)
            else:
                last = len(losses) - 1
                apart = len(pooled) == len(losses)
                rows = [autojac.jac([loss], self.shared, retain_graph=not apart and at < last) for at, loss in enumerate(losses)]
                for parameter, *parts in zip(self.shared, *rows):
                    parameter.jac = torch.cat(parts)
                del rows, parts
        autojac.jac_to_grad(self.shared, self.aggregator, **({"optimize_gramian_computation": True} if gram else {}))

    def choose(self, step, zero):
        """Up to two backward passes by every way of the library; the fastest wins."""
        tried = {}
        if self.args.api.removesuffix("+gram") in self.apis() and (self.by_gram or not self.args.api.endswith("+gram")):
            self.api = self.args.api
            return tried
        # Whichever way comes first would pay for what PyTorch sets up once.
        super().backward(step)
        zero()
        # In turns, so that what else the machine does strikes all alike.
        for api in self.apis() * 2:
            best = min((took for took in tried.values() if not isinstance(took, str)), default=9e9)
            if api not in tried or not isinstance(tried[api], str) and tried[api] <= 3 * best:
                self.trial(api, step, zero, tried)
        worked = {api: seconds for api, seconds in tried.items() if not isinstance(seconds, str)}
        if not worked:
            raise Unusable("; ".join(f"{api}: {why}" for api, why in tried.items()))
        self.api = best = min(worked, key=worked.get)
        if self.by_gram and best != "autogram":
            for _ in range(2):
                self.trial(f"{best}+gram", step, zero, tried)
            took = tried[f"{best}+gram"]
            self.api = f"{best}+gram" if not isinstance(took, str) and took < worked[best] else best
        return tried

    def trial(self, api, step, zero, tried):
        """Notes the least seconds so far, or what went wrong."""
        self.api = api
        with self.engine_for(api):
            begin = time.perf_counter()
            try:
                self.backward(step)
                took = round(time.perf_counter() - begin, 3)
                tried[api] = min(took, tried.get(api, took))
            except Exception as error:  # noqa: BLE001: whatever a library raises, another of its ways may do
                tried[api] = f"{type(error).__name__}: {str(error)[:200]}"
            self.forget(zero)

    def forget(self, zero):
        zero()
        for parameter in self.shared:
            if hasattr(parameter, "jac"):
                del parameter.jac

    @contextlib.contextmanager
    def engine_for(self, api):
        """The engine hooks every layer for good, so that its trial gets a trunk of its own."""
        if api != "autogram":
            yield
            return
        from torchjd.autogram import Engine
        kept, self.trunk = self.trunk, trunk(self.args.model).train()
        self.engine = Engine(self.trunk, batch_dim=None)
        try:
            yield
        finally:
            self.trunk, self.engine = kept, None


class LibMTL:
    """LibMTL's HPS and a weighting, joined and called as its Trainer does. Of the Trainer itself nothing
    is used: it wants the device cuda:0, torchvision, and loaders with a method `next`."""

    def __init__(self, args, classes):
        import torch
        # The packages themselves would import torchvision for other architectures.
        for name in ("LibMTL", "LibMTL.architecture"):
            package = types.ModuleType(name)
            package.__path__ = importlib.util.find_spec(name).submodule_search_locations if name == "LibMTL" else \
                [str(Path(sys.modules["LibMTL"].__path__[0]) / "architecture")]
            sys.modules[name] = package
        from LibMTL import weighting
        from LibMTL.architecture.HPS import HPS
        name, _, rep = args.way.split(":")[1].partition("+")
        method = getattr(weighting, name, None)
        if method is None:
            raise Unusable(f"LibMTL as published on PyPI has no {name}: {', '.join(weighting.__all__)}")

        class Model(HPS, method):
            def __init__(self, names, decoders):
                super().__init__(names, lambda: trunk(args.model), decoders, bool(rep), args.setting == "batch-per-task", torch.device("cpu"))
                self.init_param()

            def zero_grad_share_params(self):
                # PyTorch 2 would drop the gradients that _reset_grad then writes into.
                self.encoder.zero_grad(set_to_none=False)

        self.args, self.name = args, name
        names = [f"task{number}" for number in range(args.tasks)]
        decoders = torch.nn.ModuleDict({task: torch.nn.Linear(384, number) for task, number in zip(names, classes)})
        self.model = Model(names, decoders).train()
        self.modules = [self.model]

    def backward(self, step):
        import torch
        from torch.nn.functional import cross_entropy
        losses = torch.zeros(self.args.tasks)
        if self.args.setting == "shared-input":
            found = self.model(step[0])
            for at, task in enumerate(self.model.task_name):
                losses[at] = cross_entropy(found[task], step[0]["labels"][at])
        else:
            for at, (task, batch) in enumerate(zip(self.model.task_name, step)):
                losses[at] = cross_entropy(self.model(batch, task)[task], batch["labels"])
        self.model.backward(losses, **WEIGHT_ARGS.get(self.name, {}))


def reset_peak():
    """So that trials do not count."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def measure(args):
    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging

    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    classes, steps, padding = steps_of(args, AutoTokenizer.from_pretrained(args.model))
    kind = {"libmtl": LibMTL, "torchjd": TorchJD}.get(args.way.split(":")[0], Plain)
    peer = kind(args, classes)
    parameters = [parameter for module in peer.modules for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, fused=True)
    more = {}
    if kind is TorchJD:
        more["tried"] = peer.choose(steps[0], optimizer.zero_grad)
        more["api"] = peer.api
        reset_peak()
    with peer.engine_for(more["api"]) if kind is TorchJD else contextlib.nullcontext():
        if kind is TorchJD and peer.engine is not None:
            parameters = [*peer.trunk.parameters(), *peer.heads.parameters()]
            optimizer = torch.optim.AdamW(parameters, lr=args.lr, fused=True)
        seconds, busy = [], []
        for step in steps:
            begin, working = time.perf_counter(), time.process_time()
            # LibMTL keeps gradients as zeros: _reset_grad writes into them.
            optimizer.zero_grad(set_to_none=kind is not LibMTL)
            peer.backward(step)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            seconds.append(time.perf_counter() - begin)
            busy.append(time.process_time() - working)
    return {"seconds": round(statistics.median(seconds[args.warmup:]), 4),
            # All threads' together: a machine with other work shows in the difference.
            "cpu_seconds": round(statistics.median(busy[args.warmup:]), 4), "peak_rss_mb": round(peak_rss_mb(), 1),
            "padding": round(padding, 3), "steps": args.steps, "threads": args.threads, **more}


def child(args):
    head = {"setting": args.setting, "tasks": args.tasks, "way": args.way}
    try:
        found = measure(args)
    except Exception as error:  # noqa: BLE001: a library's own failure is a finding
        found = {"unusable": str(error) if isinstance(error, Unusable) else f"{type(error).__name__}: {str(error)[:300]}"}
    print(json.dumps({**head, **found}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hugging Face directory")
    parser.add_argument("--data", required=True, nargs="+", help="files of JSON Lines with text and label")
    parser.add_argument("--setting", choices=list(WAYS), default="batch-per-task")
    parser.add_argument("--tasks", default="2,4,8", help="numbers of tasks, comma-separated")
    parser.add_argument("--ways", help="comma-separated; without: all of the setting")
    parser.add_argument("--batch", type=int, default=32, help="over all tasks")
    parser.add_argument("--steps", type=int, default=8, help="measured steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--api", default="", help="TorchJD's way to differentiate; without: the fastest is sought")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        args.tasks = int(args.tasks)
        return child(args)
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "TOKENIZERS_PARALLELISM": "false"}
    for tasks in args.tasks.split(","):
        if args.batch % int(tasks):
            sys.exit(f"a batch of {args.batch} can't be split evenly over {tasks} tasks")
        api = args.api
        for way in args.ways.split(",") if args.ways else WAYS[args.setting]:
            # What was fastest for one aggregator is for all: they differ in small problems only.
            more = ["--tasks", tasks, "--way", way, *(["--api", api] if api else [])]
            done = subprocess.run([sys.executable, *sys.argv, *more], env=env, stdout=subprocess.PIPE, text=True)
            if done.returncode != 0:
                sys.exit(f"{way} with {tasks} tasks ended with {done.returncode}")
            print(done.stdout, end="", flush=True)
            api = api or json.loads(done.stdout.splitlines()[-1]).get("api", "")


if __name__ == "__main__":
    main()

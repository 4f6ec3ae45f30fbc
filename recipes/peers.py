"""What the recipes' peers share: the same training in plain PyTorch, by the numbers of the job file.

A peer reads its recipe's job.yaml, so that both sides train alike, and refuses fields that it does not know.
The peers differ from a job in the order of samples, in first weights and dropout masks, and in padding.
Needs PyTorch, PyYAML and pyarrow: PYTHONPATH=.espalier/pysite after 'make parity'.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

# Before torch and tokenizers are imported.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pyarrow.parquet as parquet
import torch
import yaml
from torch import nn

from cluster import DemoError

# The defaults of a job file, of the fields that peers know.
BACKBONE = {"path": None, "init": "pretrained", "max_tokens": 128, "pooling": "mean", "dropout": None, "cache_features": True,
            "extend_vocabulary": False}
TRAINING = {"steps": None, "epochs": None, "batch_size": 32, "clip_norm": 1.0, "optimizer": {}, "schedule": {}}
OPTIMIZER = {"learning_rate": 5e-5, "head_learning_rate": None, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}
SCHEDULE = {"kind": "linear", "final_ratio": 0.0, "warmup_ratio": 0.06, "warmup_steps": None}
EVALUATION = {"every_steps": None, "batch_size": 64, "select_best": True}
JOB = {"name": None, "seed": 0, "backbone": {}, "tuning": "all", "tasks": [], "balancer": "mean", "training": {}, "evaluation": {},
       "checkpoint": {}, "sampler": None}
TASK = {"name": None, "head": None, "input_group": None, "adapter": None, "data": {}, "metric": None, "loss": {}, "zero_shot": None}


def known(given, defaults, where):
    """A mapping with its defaults; a field that peers know nothing of is an error."""
    for field in given:
        if field not in defaults:
            raise DemoError(f"{where} has the field {field}, which its peer does not know: teach it, or the comparison is none")
    return {**defaults, **given}


class Job:
    """A job file as peers read it."""

    def __init__(self, path, args):
        self.path, self.folder = Path(path), Path(path).parent
        spec = known(yaml.safe_load(self.path.read_text()), JOB, self.path)
        self.backbone = known(spec["backbone"], BACKBONE, f"{path}: backbone")
        self.training = known(spec["training"], TRAINING, f"{path}: training")
        self.optimizer = known(self.training["optimizer"], OPTIMIZER, f"{path}: optimizer")
        self.schedule = known(self.training["schedule"], SCHEDULE, f"{path}: schedule")
        self.evaluation = known(spec["evaluation"], EVALUATION, f"{path}: evaluation")
        self.tasks = [known(task, TASK, f"{path}: tasks") for task in spec["tasks"]]
        self.tuning, self.balancer = spec["tuning"], spec["balancer"]
        if self.balancer not in ("mean", "equal"):
            raise DemoError(f"{path}: the balancer is {self.balancer}; its peer knows mean and equal")
        if args.epochs and self.training["steps"]:
            raise DemoError(f"{path} counts steps, not epochs: change them by --steps")
        if args.steps or args.epochs:
            self.training.update(steps=args.steps, epochs=args.epochs)
        self.batch = self.training["batch_size"]
        self.dropout = 0.1 if self.backbone["dropout"] is None else self.backbone["dropout"]

    def file(self, path):
        """A path of the job file, from its folder."""
        return (self.folder / path).resolve()

    def steps(self, samples):
        """Steps of the run, where an epoch has so many samples."""
        if self.training["steps"]:
            return self.training["steps"]
        return max(1, math.ceil(samples * (self.training["epochs"] or 1) / self.batch))

    def factor(self, done, total):
        """Share of the peak rate in the step that follows `done` steps."""
        share = int(self.schedule["warmup_ratio"] * total + 0.5)
        warm = share if self.schedule["warmup_steps"] is None else min(self.schedule["warmup_steps"], total)
        if done < warm:
            return (done + 1) / warm
        left = (total - done) / max(1, total - warm)
        shape = {"linear": left, "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left))), "constant": 1.0}[self.schedule["kind"]]
        last = 1.0 if self.schedule["kind"] == "constant" else self.schedule["final_ratio"]
        return last + (1 - last) * shape


class Stepper:
    """AdamW at the job's rates: no decay of biases and norms, one clipping of all gradients together."""

    def __init__(self, job, body, heads, total):
        self.job, self.total, self.done = job, total, 0
        how = job.optimizer
        head_rate = how["head_learning_rate"] or 10 * how["learning_rate"]
        groups = []
        for parameters, rate in ((body, how["learning_rate"]), (heads, head_rate)):
            trained = [p for p in parameters if p.requires_grad]
            groups += [{"params": [p for p in trained if p.dim() >= 2], "peak": rate, "weight_decay": how["weight_decay"]},
                       {"params": [p for p in trained if p.dim() < 2], "peak": rate, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        self.all = [p for group in groups for p in group["params"]]
        self.adamw = torch.optim.AdamW(groups, lr=0.0, betas=tuple(how["betas"]), eps=how["eps"])

    def step(self, loss):
        factor = self.job.factor(self.done, self.total)
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * factor
        self.adamw.zero_grad(set_to_none=True)
        loss.backward()
        if self.job.training["clip_norm"]:
            nn.utils.clip_grad_norm_(self.all, self.job.training["clip_norm"])
        self.adamw.step()
        self.done += 1


class Order:
    """Rows of each group of tasks in each step: as many as its share of all samples, each row once in an epoch."""

    def __init__(self, sizes, batch, seed):
        self.sizes, self.batch, self.seed, self.epochs = sizes, batch, seed, {}

    def drawn(self, step):
        """Samples of each group that were drawn before a step."""
        count, weight, drawn = step * self.batch, sum(self.sizes), []
        for size in self.sizes:
            own = (2 * count * size + weight) // (2 * weight)
            drawn.append(own)
            count, weight = count - own, weight - size
        return drawn

    def row(self, group, draw):
        epoch, place = divmod(draw, self.sizes[group])
        if (group, epoch) not in self.epochs:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch * 1009 + group)
            self.epochs = {key: rows for key, rows in self.epochs.items() if key[0] != group or key[1] == epoch - 1}
            self.epochs[group, epoch] = torch.randperm(self.sizes[group], generator=generator, device="cpu").tolist()
        return self.epochs[group, epoch][place]

    def step(self, step):
        """A list of rows for each group."""
        before, after = self.drawn(step), self.drawn(step + 1)
        return [[self.row(group, draw) for draw in range(*both)] for group, both in enumerate(zip(before, after))]


def rows_of(job, files, columns, limit=None):
    """[{column: cell}] of a task's files, one after another; of more than `limit` rows that many, evenly spread."""
    rows = []
    for file in [files] if isinstance(files, str) else files:
        path = job.file(file)
        if path.suffix == ".parquet":
            rows += parquet.read_table(path, columns=columns).to_pylist()
        else:
            lines = (json.loads(line) for line in path.read_text().splitlines())
            rows += [{column: line[column] for column in columns} for line in lines]
    return rows if not limit or len(rows) <= limit else rows[:: len(rows) // limit][:limit]


def use_device(name):
    """Makes tensors of this device from now on, where nothing else is said."""
    torch.set_default_device(name)
    return name


def here(thing):
    """A tensor or module that was made elsewhere, where all is computed."""
    return thing.to(torch.get_default_device())


def arguments(doc):
    """A parser with what all peers take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(seed) for seed in text.split(",")]
    parser.add_argument("--seeds", type=numbers, default=[1], metavar="1,2,3", help="train once with each")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; default: %(default)s")
    parser.add_argument("--device", type=use_device, metavar="NAME", help="where all is computed, such as cuda; default: the CPU")
    parser.add_argument("--steps", type=int, help="in place of the job file's steps or epochs")
    parser.add_argument("--epochs", type=float, help="in place of the job file's steps or epochs")
    parser.add_argument("--limit", type=int, metavar="ROWS", help="of each file of samples: to try it out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    return parser


def begin(args, seed):
    """Threads and seed of a run; the time it began."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(seed)
    return time.monotonic()


def linear_head(inputs, outputs):
    """A head as jobs begin it: weights normal with deviation 0.02, biases 0."""
    head = nn.Linear(inputs, outputs)
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


class ConvNet(nn.Module):
    """A recipe's `espalier-convnet`: convolution, group norm, GELU; each block after the first halves the input by its
    stride, or each by the largest of two by two.

    Features [b, h] of [b, channels, height, width]: means over places, or a dense layer that reads all of them.
    """

    def __init__(self, folder):
        super().__init__()
        config = json.loads((folder / "config.json").read_text())
        side, before = config["image_size"], config["num_channels"]
        self.shape = (before, *(side if isinstance(side, list) else [side, side]))
        _, height, width = self.shape
        stages = []
        kernel, pool = config.get("kernel_size", 3), config.get("max_pool", False)
        around = config.get("padding", kernel // 2)
        act = {"gelu": nn.GELU, "relu": nn.ReLU}[config.get("hidden_act", "gelu")]
        after = (lambda size: [nn.GroupNorm(1, size), act()]) if config.get("norm", True) else (lambda size: [act()])
        last = len(config["hidden_sizes"]) - 1
        for index, size in enumerate(config["hidden_sizes"]):
            stride = 1 if index == 0 or pool else 2
            stages += [nn.Conv2d(before, size, kernel, stride, around), *after(size)]
            if index == last and config.get("channel_dropout"):
                stages += [nn.Dropout2d(config["channel_dropout"])]
            stages += [nn.MaxPool2d(2, ceil_mode=True)] if pool else []
            before = size
            height, width = ((side + 2 * around - kernel) // stride + 1 for side in (height, width))
            if pool:
                height, width = (height + 1) // 2, (width + 1) // 2
        self.width = config.get("dense_size") or before
        if config.get("dense_size"):
            stages += [nn.Flatten(), nn.Linear(before * height * width, self.width), *after(self.width)]
        else:
            stages += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.stages = nn.Sequential(*stages)
        for layer in self.stages:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.zeros_(layer.bias)

    def forward(self, x):
        return self.stages(x)

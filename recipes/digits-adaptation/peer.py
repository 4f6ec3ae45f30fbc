#!/usr/bin/env python3
"""The same training in plain PyTorch: what the jobs of this recipe are to be measured against.

    pip install torch pyarrow pillow numpy
    ESPALIER_DATA=/path/to/data python3 recipes/digits-adaptation/peer.py --methods dann,cdan,mmd,coral,mcc,mdd --seeds 1,2,3

Same network, sizes, optimizer, schedule and losses; another order of the images and other first weights.
"""

import argparse
import io
import math
import os
import statistics
import time
from pathlib import Path

import numpy
import pyarrow.parquet as parquet
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

SIZES, DENSE = [16, 32, 64], 128
WEIGHTS = {"coral": 100.0, "mdd": 0.1}
HIDDEN = 256


def load(folder):
    """Images [n, 1, 28, 28] from 0 to 1, and digits."""
    def pixels(cell):
        image = Image.open(io.BytesIO(cell["bytes"])).convert("L").resize((28, 28), Image.Resampling.BILINEAR)
        return numpy.asarray(image, dtype=numpy.float32)[None] / 255

    table = parquet.read_table(folder).to_pydict()
    return torch.from_numpy(numpy.stack([pixels(cell) for cell in table["image"]])), torch.tensor([int(label) for label in table["label"]])


class Net(nn.Module):
    """recipes/digits-adaptation/convnet: convolution, group norm, GELU; halves after the first; a dense layer."""

    def __init__(self):
        super().__init__()
        stages, before = [], 1
        for index, size in enumerate(SIZES):
            stages += [nn.Conv2d(before, size, 3, 1 if index == 0 else 2, 1), nn.GroupNorm(1, size), nn.GELU()]
            before = size
        side = math.ceil(28 / 2 ** (len(SIZES) - 1))
        dense = [nn.Flatten(), nn.Linear(before * side * side, DENSE), nn.GroupNorm(1, DENSE), nn.GELU()]
        self.stages, self.head = nn.Sequential(*stages, *dense), nn.Linear(DENSE, 10)

    def forward(self, x):
        return self.stages(x)


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -ctx.strength * grad, None


def mlp(*sizes):
    layers = []
    for before, after in zip(sizes, sizes[1:]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def domain_loss(judged):
    half = len(judged) // 2
    return F.binary_cross_entropy_with_logits(judged[:, 0], torch.cat([torch.ones(half), torch.zeros(half)]))


class Method:
    """Loss of features f and outputs g of the source, then of the target."""

    def __init__(self, name):
        self.name = name
        sizes = {"dann": (128, HIDDEN, HIDDEN, 1), "cdan": (1280, HIDDEN, HIDDEN, 1), "mdd": (128, HIDDEN, 10)}
        self.own = mlp(*sizes[name]) if name in sizes else nn.Sequential()

    def loss(self, f, g, strength):
        n = len(f) // 2
        weight = WEIGHTS.get(self.name, 1.0)
        if self.name in ("dann", "cdan", "mdd"):
            f = Reverse.apply(f, strength)
        else:
            weight *= strength
        return weight * getattr(self, self.name)(f, g, n)

    def dann(self, f, g, n):
        return domain_loss(self.own(f))

    def cdan(self, f, g, n):
        p = g.softmax(1).detach()
        return domain_loss(self.own(torch.einsum("ni,nj->nij", p, f).flatten(1)))

    def mdd(self, f, g, n):
        logs, said = self.own(f).log_softmax(1), g.argmax(1, keepdim=True)
        own = logs.gather(1, said)[:, 0]
        return -4 * own[:n].mean() - (1 - own[n:].exp()).clamp_min(1e-6).log().mean()

    def mmd(self, f, g, n):
        squares = torch.cdist(f, f) ** 2
        mean = squares.mean().detach()
        kernel = sum(torch.exp(-squares / (2 * 2.0**k * mean)) for k in range(-3, 2))
        return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()

    def coral(self, f, g, n):
        return ((torch.cov(f[:n].T) - torch.cov(f[n:].T)) ** 2).sum() / (4 * f.shape[1] ** 2)

    def mcc(self, f, g, n):
        p = (g[n:] / 2.5).softmax(1)
        sure = (1 + torch.exp((p * p.log()).sum(1))).detach()
        confusion = (p * (sure / sure.mean()).unsqueeze(1)).T @ p
        confusion = confusion / confusion.sum(1, keepdim=True)
        return (confusion.sum() - confusion.trace()) / p.shape[1]


def batches(count, size, steps, generator):
    """Rows of each step: every row once in an epoch."""
    rows = torch.cat([torch.randperm(count, generator=generator) for _ in range(steps * size // count + 1)])
    return rows[: steps * size].view(steps, size)


def train(name, source, target, test, args, seed):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net, method = Net(), None if name == "source" else Method(name)
    trained = list(net.parameters()) + (list(method.own.parameters()) if method else [])
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    warm = round(0.06 * args.steps)
    factor = lambda s: (s + 1) / warm if s < warm else (args.steps - s) / (args.steps - warm)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    picks = zip(*(batches(len(x), args.batch, args.steps, generator) for x, _ in (source, target)))
    for step, (rows, others) in enumerate(picks):
        labels = source[1][rows]
        if method is None:
            loss = F.cross_entropy(net.head(net(source[0][rows])), labels)
        else:
            f = net(torch.cat([source[0][rows], target[0][others]]))
            g = net.head(f)
            strength = 2 / (1 + math.exp(-10 * step / args.steps)) - 1
            loss = F.cross_entropy(g[: args.batch], labels) + method.loss(f, g, strength)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        found = torch.cat([net.head(net(part)).argmax(1) for part in test[0].split(500)])
    return 100 * (found == test[1]).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="source,dann,cdan,mmd,coral,mcc,mdd")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1])
    parser.add_argument("--direction", default="mnist-usps", choices=["mnist-usps", "usps-mnist"])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    folder = Path(os.environ["ESPALIER_DATA"])
    source, target = args.direction.split("-")
    source, test, target = (load(folder / name / f"{split}.parquet") for name, split in ((source, "train"), (target, "test"), (target, "train")))
    print(f"{'method':<10}{'accuracy':>9}{'sd':>7}{'minutes':>9}   each")
    for name in args.methods.split(","):
        begin = time.monotonic()
        scores = [train(name, source, target, test, args, seed) for seed in args.seeds]
        minutes = (time.monotonic() - begin) / 60 / len(scores)
        deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
        each = ", ".join(f"{score:.1f}" for score in scores)
        print(f"{name:<10}{statistics.mean(scores):>9.2f}{deviation:>7.2f}{minutes:>9.1f}   {each}", flush=True)


if __name__ == "__main__":
    main()

"""Golden numbers of whole training steps with domain adaptation, by PyTorch in 64-bit.

    python3 tests/golden/adaptation_steps.py > worker/src/adapt/steps.json    # needs torch

A small convolutional network, a linear head, and what a method adds: which factor stands beside the mean loss of the
labels, what comes back through the reversal and when, and one clipping of all gradients before AdamW.
"""

import json
import math
import sys

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(31)
torch.set_default_dtype(torch.float64)
N, SIDE, SIZES, C, HIDDEN, STEPS = 6, 8, [4, 6], 3, 5, 8
SETTINGS = {"learning_rate": 5e-3, "head_learning_rate": 1e-2, "betas": [0.9, 0.99], "eps": 1e-4, "weight_decay": 0.1}
WARM_UP, CLIP_NORM = 4, 0.2

labels = [row % C for row in range(N)]
# As 32-bit numbers, which is what the engine reads.
source = torch.rand(N, 1, SIDE, SIDE, dtype=torch.float32).double()
target = (0.4 + 0.5 * torch.rand(N, 1, SIDE, SIDE, dtype=torch.float32)).double()


def filled(parameter):
    """A matrix or kernel with numbers that depend on its size alone."""
    count = parameter.numel()
    values = 0.5 * torch.sin(1.0 + torch.arange(count, dtype=torch.float64) + count)
    with torch.no_grad():
        parameter.copy_(values.float().double().view_as(parameter))


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -ctx.strength * grad, None


def network():
    stages, before = [], 1
    for index, size in enumerate(SIZES):
        stages += [nn.Conv2d(before, size, 3, 1 if index == 0 else 2, 1), nn.GroupNorm(1, size), nn.GELU()]
        before = size
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def classifier(inputs):
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))


def domains(judged, weights=None):
    """The mean over both domains together, the source being 1."""
    truth = torch.cat([torch.ones(N), torch.zeros(N)])
    return F.binary_cross_entropy(torch.sigmoid(judged[:, 0]), truth, weights)


def dann(f, g, own, strength):
    return domains(own(Reverse.apply(f, strength))), 1.0


def cdan(f, g, own, strength):
    p = g.softmax(1).detach()
    joint = torch.einsum("ni,nj->nij", p, Reverse.apply(f, strength)).flatten(1)
    weights = 1 + torch.exp((p * p.log()).sum(1))
    return domains(own(joint), weights * len(p) / weights.sum()), 1.0


def entropy(f, g, own, strength):
    p = g[N:].softmax(1)
    return -(p * p.log()).sum(1).mean(), strength


def run(method, weight, inputs):
    net, head, own = network(), nn.Linear(SIZES[-1], C), classifier(inputs) if inputs else nn.Sequential()
    everything = [*net.parameters(), *head.parameters(), *own.parameters()]
    for layer in [*net.modules(), head, *own.modules()]:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            filled(layer.weight)
            nn.init.zeros_(layer.bias)
    groups = []
    for parameters, rate in ((net.parameters(), "learning_rate"), ([*head.parameters(), *own.parameters()], "head_learning_rate")):
        parameters = list(parameters)
        for decays in (True, False):
            chosen = [p for p in parameters if (p.dim() >= 2) == decays]
            groups.append({"params": chosen, "lr": SETTINGS[rate], "weight_decay": SETTINGS["weight_decay"] if decays else 0.0})
    optimizer = torch.optim.AdamW(groups, betas=tuple(SETTINGS["betas"]), eps=SETTINGS["eps"])
    found = {"losses": [], "adaptation": [], "gradient_norms": []}
    for step in range(STEPS):
        strength = 2 / (1 + math.exp(-10 * min(step / WARM_UP, 1))) - 1
        f = net(torch.cat([source, target]))
        g = head(f)
        loss = F.cross_entropy(g[:N], torch.tensor(labels))
        more, factor = method(f, g, own, strength)
        optimizer.zero_grad()
        (loss + weight * factor * more).backward()
        norm = nn.utils.clip_grad_norm_(everything, CLIP_NORM)
        optimizer.step()
        for name, value in zip(found, (loss, more, norm)):
            found[name].append(value.item())
    return found


golden = {
    "torch": torch.__version__,
    "settings": SETTINGS | {"warm_up": WARM_UP, "clip_norm": CLIP_NORM, "side": SIDE, "sizes": SIZES, "classes": C},
    "labels": labels,
    "source": source.flatten(1).tolist(),
    "target": target.flatten(1).tolist(),
    "runs": [
        {"method": "dann", "weight": 2.0, "params": {"hidden": HIDDEN}} | run(dann, 2.0, SIZES[-1]),
        {"method": "cdan", "weight": 0.5, "params": {"hidden": HIDDEN, "entropy": 1}} | run(cdan, 0.5, SIZES[-1] * C),
        {"method": "entropy", "weight": 1.5, "params": {}} | run(entropy, 1.5, 0),
    ],
}
json.dump(golden, sys.stdout, separators=(",", ":"))
print()

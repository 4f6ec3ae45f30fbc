"""Methods of domain adaptation for the peers: losses of features and outputs of the source, then of the target."""

import math

import torch
from torch import nn
from torch.nn import functional as F

HIDDEN = 256


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -ctx.strength * grad, None


def mlp(*sizes, dropout=0.0):
    layers = []
    for before, after in zip(sizes, sizes[1:]):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


def domain_loss(judged, weights=None):
    half = len(judged) // 2
    each = F.binary_cross_entropy_with_logits(judged[:, 0], torch.cat([torch.ones(half), torch.zeros(half)]), reduction="none")
    return each.mean() if weights is None else (each * weights).mean()


class Method:
    """Loss of features f [2n, h] and outputs g [2n, c]: n of the source, then n of the target.

    What a loss measures over a batch it measures over each of `ranks` parts of the pairs, as the ranks of a cluster and
    of DistributedDataParallel do."""

    KNOWN = ["dann", "cdan", "mmd", "coral", "mcc", "mdd"]

    def __init__(self, name, features, classes, weight=1.0, warm_up=None, ranks=2, hidden=HIDDEN, dropout=0.0,
                 entropy=False, reversed_entropy=False):
        self.name, self.weight, self.warm_up, self.ranks = name, weight, warm_up, ranks
        self.entropy, self.reversed_entropy = entropy, reversed_entropy
        sizes = {"dann": (features, hidden, hidden, 1), "cdan": (features * classes, hidden, hidden, 1),
                 "mdd": (features, hidden, classes)}
        self.own = mlp(*sizes[name], dropout=dropout) if name in sizes else nn.Sequential()

    def loss(self, f, g, done, total):
        """The weighed loss of the step that follows `done` of `total` steps."""
        share = min(done / self.warm_up, 1) if self.warm_up else done / total
        strength = self.strength = 2 / (1 + math.exp(-10 * share)) - 1
        weight = self.weight
        if self.name in ("dann", "cdan", "mdd"):
            f = Reverse.apply(f, strength)
        else:
            weight *= strength
        sides = [x.unflatten(0, (2, -1)) for x in (f, g)]
        parts = [[x.flatten(0, 1) for x in part] for part in zip(*(x.tensor_split(self.ranks, 1) for x in sides))]
        return weight * sum(getattr(self, self.name)(a, b, len(a) // 2) * len(a) for a, b in parts if len(a)) / len(f)

    def dann(self, f, g, n):
        return domain_loss(self.own(f))

    def cdan(self, f, g, n):
        p = g.softmax(1).detach()
        return domain_loss(self.own(torch.einsum("ni,nj->nij", p, f).flatten(1)), self.sure(g, n))

    def sure(self, g, n):
        """What a sample weighs by its entropy; with `reversed_entropy` as in the script of CDAN's authors."""
        if not self.entropy:
            return None
        p = g.softmax(1)
        entropies = -(p * g.log_softmax(1)).sum(1)
        if not self.reversed_entropy:
            sure = (1 + torch.exp(-entropies)).detach()
            return sure / sure.mean()
        sure = 1 + torch.exp(-Reverse.apply(entropies, self.strength))
        return torch.cat([part / part.detach().mean() for part in (sure[:n], sure[n:])])

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
        logs = (g[n:] / 2.5).log_softmax(1)
        p = logs.exp()
        sure = (1 + torch.exp((p * logs).sum(1))).detach()
        confusion = (p * (sure / sure.mean()).unsqueeze(1)).T @ p
        confusion = confusion / confusion.sum(1, keepdim=True)
        return (confusion.sum() - confusion.trace()) / p.shape[1]

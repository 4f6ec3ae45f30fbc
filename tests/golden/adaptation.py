"""Golden numbers of the tests of domain adaptation, by PyTorch.

    python3 tests/golden/adaptation.py > worker/src/adapt/golden.json    # needs torch

Losses as the papers (and, where the files in worker/src/adapt say so, TLLib) have them, written with what
PyTorch has for it: singular values by its own SVD, MMD by sums over pairs.
"""

import json
import sys

import torch
from torch.nn import functional as F

torch.manual_seed(23)
N, WIDTH, C, HIDDEN = 5, 4, 3, 6
STRENGTH = 0.6
source = torch.randn(N, WIDTH)
target = torch.randn(N, WIDTH) * 0.7 + 0.5
source_logits = torch.randn(N, C) * 2
target_logits = torch.randn(N, C) * 2


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(_, grad):
        return -STRENGTH * grad


def layers(*sizes):
    """Weights and biases of linear layers."""
    return [(torch.randn(o, i) / i**0.5, torch.randn(o) * 0.1) for i, o in zip(sizes, sizes[1:])]


def through(x, own):
    for index, (weight, bias) in enumerate(own):
        x = F.linear(F.relu(x) if index else x, weight, bias)
    return x


def entropy(probabilities):
    return -(probabilities * probabilities.log()).sum(1)


def domain_loss(x, own, weights=None):
    """Of x, the first half of which is the source."""
    judged = torch.sigmoid(through(Reverse.apply(x) if weights is None else x, own))[:, 0]
    truth = torch.cat([torch.ones(N), torch.zeros(N)])
    return F.binary_cross_entropy(judged, truth, weights if weights is not None else None)


def dann(s, t, gs, gt, own):
    return domain_loss(torch.cat([s, t]), own)


def cdan(with_entropy):
    def loss(s, t, gs, gt, own):
        p = torch.cat([gs, gt]).softmax(1).detach()
        f = Reverse.apply(torch.cat([s, t]))
        joint = torch.stack([torch.outer(a, b).flatten() for a, b in zip(p, f)])
        weights = 1 + torch.exp(-entropy(p)) if with_entropy else torch.ones(2 * N)
        return domain_loss(joint, own, weights / weights.sum() * 2 * N)

    return loss


def kernels(x, alphas):
    distances = torch.stack([((a - b) ** 2).sum() for a in x for b in x]).view(len(x), len(x))
    mean = distances.mean().detach()
    return sum(torch.exp(-distances / (2 * alpha * mean)) for alpha in alphas)


ALPHAS = [2.0**k for k in range(-3, 2)]


def discrepancy(kernel):
    return kernel[:N, :N].mean() + kernel[N:, N:].mean() - 2 * kernel[:N, N:].mean()


def mmd(s, t, gs, gt, own):
    return discrepancy(kernels(torch.cat([s, t]), ALPHAS))


def jan(s, t, gs, gt, own):
    p = torch.cat([gs, gt]).softmax(1)
    distances = torch.stack([((a - b) ** 2).sum() for a in p for b in p]).view(2 * N, 2 * N)
    return discrepancy(kernels(torch.cat([s, t]), ALPHAS) * torch.exp(-distances / (2 * 0.92**2)))


def coral(s, t, gs, gt, own):
    return ((torch.cov(s.T) - torch.cov(t.T)) ** 2).sum() / (4 * WIDTH**2)


def mcc(s, t, gs, gt, own):
    p = (gt / 2.5).softmax(1)
    weights = (1 + torch.exp(-entropy(p))).detach()
    weights = (N * weights / weights.sum()).unsqueeze(1)
    confusion = (p * weights).T @ p
    confusion = confusion / confusion.sum(1, keepdim=True)
    return (confusion.sum() - confusion.trace()) / C


def mdd(s, t, gs, gt, own):
    said_s, said_t = (through(Reverse.apply(x), own) for x in (s, t))
    other = 1 - said_t.softmax(1)[range(N), gt.argmax(1)]
    return 4 * F.cross_entropy(said_s, gs.argmax(1)) - other.log().mean()


def least_entropy(s, t, gs, gt, own):
    return entropy(gt.softmax(1)).mean()


def self_training(s, t, gs, gt, own):
    sure, said = gt.softmax(1).max(1)
    return (F.cross_entropy(gt, said, reduction="none") * (sure >= 0.7)).mean()


def bsp(s, t, gs, gt, own):
    spectra = sum(torch.linalg.svdvals(x)[0] ** 2 for x in (s, t))
    return dann(s, t, gs, gt, own) + 0.01 * spectra


def afn(s, t, gs, gt, own):
    return sum(((x.norm(dim=1) - (x.norm(dim=1).detach() + 1)) ** 2).mean() for x in (s, t))


def hard_afn(s, t, gs, gt, own):
    return sum((x.norm(dim=1).mean() - 3) ** 2 for x in (s, t))


def information(s, t, gs, gt, own):
    p = gt.softmax(1)
    mean = p.mean(0)
    return entropy(p).mean() + 0.5 * (mean * mean.log()).sum()


def case(method, loss, params=None, sizes=()):
    """The loss, and its gradients of features, outputs and own layers."""
    own = [(w.requires_grad_(), b.requires_grad_()) for w, b in layers(*sizes)]
    seen = [x.clone().requires_grad_() for x in (source, target, source_logits, target_logits)]
    value = loss(*seen, own)
    value.backward()
    grad = lambda x: (x.grad if x.grad is not None else torch.zeros_like(x)).tolist()
    return {
        "method": method,
        "params": params or {},
        "own": [[w.tolist(), b.tolist()] for w, b in own],
        "loss": value.item(),
        "gradients": [grad(x) for x in seen],
        "own_gradients": [[grad(w), grad(b)] for w, b in own],
    }


HIDDEN_ONLY = {"hidden": HIDDEN}
golden = {
    "torch": torch.__version__,
    "strength": STRENGTH,
    "seen": [x.tolist() for x in (source, target, source_logits, target_logits)],
    "cases": [
        case("dann", dann, HIDDEN_ONLY, (WIDTH, HIDDEN, HIDDEN, 1)),
        case("cdan", cdan(False), HIDDEN_ONLY, (WIDTH * C, HIDDEN, HIDDEN, 1)),
        case("cdan", cdan(True), HIDDEN_ONLY | {"entropy": 1}, (WIDTH * C, HIDDEN, HIDDEN, 1)),
        case("mmd", mmd),
        case("jan", jan),
        case("coral", coral),
        case("mcc", mcc),
        case("mdd", mdd, HIDDEN_ONLY, (WIDTH, HIDDEN, C)),
        case("entropy", least_entropy),
        case("self_training", self_training, {"threshold": 0.7}),
        case("bsp", bsp, HIDDEN_ONLY | {"penalty": 0.01}, (WIDTH, HIDDEN, HIDDEN, 1)),
        case("afn", afn),
        case("afn", hard_afn, {"radius": 3}),
        case("information_maximisation", information, {"diversity": 0.5}),
    ],
}
json.dump(golden, sys.stdout, separators=(",", ":"))
print()

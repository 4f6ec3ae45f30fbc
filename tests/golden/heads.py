"""Golden numbers of the heads' tests, by PyTorch.

    python3 tests/golden/heads.py > worker/src/heads/golden.json    # needs torch
"""

import json
import sys

import torch
from torch.nn import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss

torch.manual_seed(11)
B, C, H = 6, 4, 5
features = torch.randn(B, H)
mask = (torch.rand(B, H) < 0.8).float() / 0.8


def case(outputs, targets, loss_of, weights=None, smoothing=0.0):
    """Outputs, losses per sample and gradients of the summed loss."""
    weight = torch.randn(outputs, H, requires_grad=True)
    bias = torch.randn(outputs, requires_grad=True)
    inputs = features.clone().requires_grad_()
    logits = torch.nn.functional.linear(inputs * mask, weight, bias) * 3
    logits.retain_grad()
    losses = loss_of(logits)
    losses.sum().backward()
    return {
        "logits": logits.tolist(),
        "targets": targets.int().flatten().tolist() if targets.dtype != torch.float64 else targets.tolist(),
        "weights": weights.tolist() if weights is not None else None,
        "smoothing": smoothing,
        "losses": losses.tolist(),
        "gradients": logits.grad.tolist(),
    }


def single(weights, smoothing):
    targets = torch.tensor([0, 3, 1, 1, 2, 3])
    loss = CrossEntropyLoss(weight=weights, label_smoothing=smoothing, reduction="none")
    return case(C, targets, lambda z: loss(z, targets), weights, smoothing)


def multi(weights):
    targets = (torch.rand(B, C) < 0.4).float()
    loss = BCEWithLogitsLoss(pos_weight=weights, reduction="none")
    return case(C, targets, lambda z: loss(z, targets).mean(1), weights)


def regression():
    targets = torch.randn(B, dtype=torch.float64)
    loss = MSELoss(reduction="none")
    return case(1, targets, lambda z: loss(z.squeeze(1), targets.float()))


def ordinal():
    # Of the linear layer only the outputs count here; CORAL's own has one direction.
    targets = torch.tensor([0, 3, 1, 1, 2, 3])
    above = (targets[:, None] > torch.arange(C - 1)[None]).float()
    loss = BCEWithLogitsLoss(reduction="none")
    return case(C - 1, targets, lambda z: loss(z, above).sum(1))


def sup_con(i, z, same, others, temperature):
    below = torch.logsumexp(torch.stack([z[i] @ z[a] / temperature for a in same + others]), 0)
    logs = [z[i] @ z[p] / temperature - below for p in same]
    return -sum(logs) / len(logs) if logs else 0 * z.sum()


def pairs(i, z, same, others):
    """SetFit's loss over all pairs of a sample: cosines brought to 1 and to 0."""
    loss = lambda rows, aim: torch.nn.functional.mse_loss(z[rows] @ z[i], torch.full([len(rows)], aim)) if rows else 0
    return loss(same, 1.0) / 2 + loss(others, 0.0) / 2


def contrastive(classes, share, temperature=None):
    """Contrastive loss of each sample, share of it, and the gradient of the sum."""
    x = features.clone().requires_grad_()
    z = torch.nn.functional.normalize(x, dim=1)
    losses = []
    for i in range(B):
        same = [a for a in range(B) if a != i and classes[a] == classes[i]]
        others = [a for a in range(B) if classes[a] != classes[i]]
        losses.append(share * (sup_con(i, z, same, others, temperature) if temperature else pairs(i, z, same, others)))
    torch.stack(losses).sum().backward()
    spec = {"kind": "sup_con", "temperature": temperature} if temperature else {"kind": "cosine"}
    return {"classes": classes, "spec": {**spec, "share": share},
            "losses": [loss.item() for loss in losses], "gradients": x.grad.tolist()}


def label_embedding(classes, templates, scale):
    """Cross-entropy over cosines with the mean of a class's texts, times exp(scale), at most 100."""
    x = features.clone().requires_grad_()
    texts = torch.randn(classes * templates, H, requires_grad=True)
    log_scale = torch.tensor([scale], requires_grad=True)
    unit = lambda rows: torch.nn.functional.normalize(rows, dim=-1)
    vectors = unit(unit(texts).reshape(classes, templates, H).mean(1))
    logits = unit(x) @ vectors.T * log_scale.exp().clamp(max=100)
    targets = torch.arange(B) % classes
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    losses.sum().backward()
    return {"templates": templates, "features": x.tolist(), "texts": texts.tolist(), "scale": [scale], "targets": targets.tolist(),
            "losses": losses.tolist(), "feature_gradients": x.grad.tolist(), "text_gradients": texts.grad.tolist(),
            "scale_gradients": log_scale.grad.tolist()}


weights = torch.tensor([0.5, 2.0, 1.0, 3.5])
weight, bias = torch.randn(C, H), torch.randn(C)
golden = {
    "torch": torch.__version__,
    "linear": {
        "features": features.tolist(),
        "mask": mask.tolist(),
        "weight": weight.tolist(),
        "bias": bias.tolist(),
        "plain": torch.nn.functional.linear(features, weight, bias).tolist(),
        "dropped": torch.nn.functional.linear(features * mask, weight, bias).tolist(),
    },
    "single_label": [single(w, s) for w in (None, weights) for s in (0.0, 0.1)],
    "multi_label": [multi(w) for w in (None, weights)],
    "regression": [regression()],
    "contrastive": [contrastive([0, 1, 0, 2, 1, 0], share, t) for share, t in ((0.9, 0.1), (0.5, 1.0), (0.9, None))]
    + [contrastive([1] * B, 1.0)],
    "ordinal": [ordinal()],
    "label_embedding": [label_embedding(3, 1, 1.0), label_embedding(4, 2, 2.0)],
}
json.dump(golden, sys.stdout, separators=(",", ":"))
print()

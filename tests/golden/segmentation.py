"""Golden numbers of the segmentation head's tests, by PyTorch.

    python3 tests/golden/segmentation.py > worker/src/heads/segmentation/golden.json    # needs torch
"""

import json
import sys

import torch
from torch.nn.functional import cross_entropy, interpolate

torch.manual_seed(5)
torch.set_num_threads(1)
BATCH, IGNORE = 3, 255


def flat(tensor):
    return tensor.detach().flatten().tolist()


def case(classes, place, size, weights=None, ignored=0.2, absent=None):
    """Outputs of every pixel, losses per sample, gradients of their sum, and figures of all pixels together.

    No pixel is of the class `absent`, nor is it found anywhere.
    """
    places = torch.randn(BATCH, *place, classes)
    masks = torch.randint(0, classes, (BATCH, *size))
    if absent is not None:
        places[..., absent] = -9.0
        masks[masks == absent] = (absent + 1) % classes
    masks[torch.rand(masks.shape) < ignored] = IGNORE
    # A sample without any pixel that has a class.
    masks[2] = IGNORE
    places.requires_grad_()
    logits = interpolate(places.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False)
    pixels = cross_entropy(logits, masks, weight=weights, ignore_index=IGNORE, reduction="none")
    there = masks != IGNORE
    losses = pixels.sum((1, 2)) / there.sum((1, 2)).clamp(min=1)
    losses.sum().backward()

    found = logits.argmax(1)
    counts = torch.bincount(masks[there] * classes + found[there], minlength=classes * classes)
    counts = counts.reshape(classes, classes).double()
    both = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - both
    known = either > 0
    return {
        "shape": list(places.shape),
        "size": list(size),
        "weights": weights.tolist() if weights is not None else None,
        "places": flat(places),
        "masks": flat(masks),
        "logits": flat(logits),
        "losses": flat(losses),
        "gradients": flat(places.grad),
        "iou": [(both[c] / either[c]).item() if known[c] else None for c in range(classes)],
        "mean_iou": (both[known] / either[known]).mean().item(),
        "accuracy": (both.sum() / counts.sum()).item(),
    }


golden = {
    "torch": torch.__version__,
    "cases": [
        case(3, (2, 2), (4, 4)),
        case(4, (2, 3), (5, 7), weights=torch.tensor([0.5, 2.0, 1.0, 3.5])),
        case(3, (4, 4), (4, 4), ignored=0.0),
        case(4, (3, 2), (6, 6), absent=2),
    ],
}
json.dump(golden, sys.stdout, separators=(",", ":"))
print()

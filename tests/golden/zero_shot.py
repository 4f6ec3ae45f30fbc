"""Golden numbers of heads whose classes are vectors or hypotheses (worker/src/heads/golden_zero_shot.json).

Formulas written out in plain Python (doubles; gradients by central differences), so that they are
independent of any tensor library: python3 zero_shot.py > ../../worker/src/heads/golden_zero_shot.json
"""

import json
import math
import random
import sys

random.seed(7)


def matrix(rows, columns):
    """Numbers that 32 bits hold exactly: multiples of 1/64."""
    return [[random.randint(-128, 128) / 64 for _ in range(columns)] for _ in range(rows)]


def unit(row):
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def losses(features, weight, vectors, log_scale, targets):
    """Cross-entropy of exp(log_scale) cos(W x, v_c), at most 100 cos, over classes."""
    scale = min(math.exp(log_scale), 100.0)
    found = []
    for x, target in zip(features, targets):
        mapped = unit([dot(row, x) for row in weight])
        logits = [scale * dot(mapped, unit(v)) for v in vectors]
        most = max(logits)
        found.append(most + math.log(sum(math.exp(z - most) for z in logits)) - logits[target])
    return found


def gradient(value, numbers, step=1e-5):
    """Of value() by every number of a table, which it reads."""
    result = []
    for row in numbers:
        result.append([])
        for place, was in enumerate(row):
            row[place] = was + step
            above = value()
            row[place] = was - step
            below = value()
            row[place] = was
            result[-1].append((above - below) / (2 * step))
    return result


def bilinear(samples, hidden, classes, width, log_scale):
    features, weight = matrix(samples, hidden), matrix(width, hidden)
    vectors, scale = matrix(classes, width), [[log_scale]]
    targets = [sample % classes for sample in range(samples)]
    value = lambda: sum(losses(features, weight, vectors, scale[0][0], targets))
    return {"features": features, "weight": weight, "vectors": vectors, "scale": scale[0], "targets": targets,
            "losses": losses(features, weight, vectors, log_scale, targets),
            "feature_gradients": gradient(value, features), "weight_gradients": gradient(value, weight),
            "scale_gradients": gradient(value, scale)[0]}


def entailment(samples, columns):
    """Mean over a sample's pairs of the binary cross-entropy of whether a pair is that of its own class."""
    logits = matrix(samples, columns)
    targets = [sample % columns for sample in range(samples)]
    soft = lambda z: max(z, 0.0) + math.log1p(math.exp(-abs(z)))
    each = lambda row, target: sum(soft(-z if c == target else z) for c, z in enumerate(row)) / columns
    every = lambda: [each(row, target) for row, target in zip(logits, targets)]
    return {"logits": logits, "targets": targets, "losses": every(), "gradients": gradient(lambda: sum(every()), logits)}


golden = {"bilinear": [bilinear(4, 3, 3, 2, 1.0), bilinear(5, 4, 4, 6, 0.5)],
          "entailment": [entailment(4, 2), entailment(5, 4)]}
json.dump(golden, sys.stdout, separators=(",", ":"))
print()

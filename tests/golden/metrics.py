"""Golden numbers of the metrics' tests, by scikit-learn and SciPy.

    python3 -m pip install scikit-learn scipy && python3 tests/golden/metrics.py > worker/src/metrics/golden.json
"""

import json
import sys
import warnings

import numpy as np
import scipy
import sklearn
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, mean_absolute_error, mean_squared_error

warnings.simplefilter("ignore")
rng = np.random.default_rng(7)


def single(classes, truth, predicted):
    return {
        "classes": classes,
        "truth": [int(x) for x in truth],
        "predicted": [int(x) for x in predicted],
        "accuracy": accuracy_score(truth, predicted),
        "macro_f1": f1_score(truth, predicted, average="macro"),
    }


def ordered(classes, truth, predicted):
    return {
        "classes": classes,
        "truth": [int(x) for x in truth],
        "predicted": [int(x) for x in predicted],
        "accuracy": accuracy_score(truth, predicted),
        "mae": mean_absolute_error(truth, predicted),
        "quadratic_kappa": cohen_kappa_score(truth, predicted, labels=range(classes), weights="quadratic"),
    }


def multi(truth, predicted):
    return {
        "classes": truth.shape[1],
        "truth": truth.astype(int).ravel().tolist(),
        "predicted": predicted.astype(int).ravel().tolist(),
        "accuracy": accuracy_score(truth, predicted),
        "macro_f1": f1_score(truth, predicted, average="macro"),
    }


def numbers(truth, predicted):
    return {
        "truth": truth.tolist(),
        "predicted": predicted.tolist(),
        "mse": mean_squared_error(truth, predicted),
        "pearson": pearsonr(truth, predicted).statistic,
        "spearman": spearmanr(truth, predicted).statistic,
    }


truth = rng.integers(0, 6, 40)
noisy = np.where(rng.random(40) < 0.6, truth, rng.integers(0, 6, 40))
rows = rng.random((25, 5)) < 0.3
rows[:, 4] = False
guess = rows ^ (rng.random((25, 5)) < 0.15)
guess[:, 4] = False
line = rng.normal(size=30)
golden = {
    "versions": {"scikit-learn": sklearn.__version__, "scipy": scipy.__version__},
    "single": [
        single(6, truth, noisy),
        # Class 2 is only predicted, 3 is only true, 4 and 5 are in neither.
        single(6, [0, 0, 1, 3, 1, 0], [0, 2, 1, 0, 1, 0]),
        single(3, [1, 1, 1], [1, 1, 1]),
        single(3, [0, 0, 1], [1, 1, 2]),
    ],
    "multi": [
        # The last class is in neither side.
        multi(rows, guess),
        multi(np.zeros((4, 3), bool), np.zeros((4, 3), bool)),
        multi(np.array([[1, 0], [1, 1], [0, 0]], bool), np.array([[1, 0], [0, 1], [0, 1]], bool)),
    ],
    "numbers": [
        numbers(line, 0.5 * line + rng.normal(size=30)),
        # Many ties on both sides.
        numbers(rng.integers(0, 5, 30).astype(float), rng.integers(0, 4, 30).astype(float)),
        numbers(line, -3 * line + 100),
        # A large offset, where one-pass formulas lose all digits; whole numbers, so that reading
        # the file rounds nothing.
        numbers(np.round(line * 50) + 1e9, np.round(line * 70) + 1e9),
    ],
    "ordered": [
        ordered(6, truth, noisy),
        # Classes 1 and 3 are in neither.
        ordered(5, [0, 2, 4, 4, 2, 0], [0, 4, 4, 2, 2, 2]),
        ordered(3, [0, 1, 2], [2, 1, 0]),
    ],
}
json.dump(golden, sys.stdout, indent=None, separators=(",", ":"))
print()

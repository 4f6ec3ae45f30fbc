"""What the peers of zero-shot recipes measure; classes are numbered with those trained on first."""

import math
import statistics

import torch


def classes_of(truth, seen):
    """Classes that samples have: those trained on, and the others."""
    there = sorted(set(truth.tolist()))
    return [one for one in there if one < seen], [one for one in there if one >= seen]


def figures(cosines, truth, seen, calibration=0.0):
    """Figures of cosines [n, classes], each a mean over classes, after `calibration` was taken from those of trained classes."""
    lowered = cosines.clone()
    lowered[:, :seen] -= calibration
    among_all = (lowered.argmax(1) == truth).float()
    among_unseen = (cosines[:, seen:].argmax(1) + seen == truth).float()

    def mean(right, wanted):
        return statistics.mean(right[truth == one].mean().item() for one in wanted)

    trained, unseen = classes_of(truth, seen)
    own, other = mean(among_all, trained), mean(among_all, unseen)
    harmonic = 2 * own * other / (own + other) if own + other else 0.0
    return {"zero_shot_accuracy": mean(among_unseen, unseen), "seen_accuracy": own, "unseen_accuracy": other, "harmonic_mean": harmonic}


def error_of(cosines, truth, seen, calibration):
    """Standard error of the harmonic mean, from those of the shares of classes."""
    lowered = cosines.clone()
    lowered[:, :seen] -= calibration
    right, parts = (lowered.argmax(1) == truth).float(), []
    for classes in classes_of(truth, seen):
        shares = [(right[truth == one].mean().item(), int((truth == one).sum())) for one in classes]
        variance = sum(share * (1 - share) / count for share, count in shares)
        parts.append((statistics.mean(share for share, _ in shares), math.sqrt(variance) / len(shares)))
    (own, own_error), (other, other_error) = parts
    if own + other == 0:
        return 0.0
    return math.hypot(2 * (other / (own + other)) ** 2 * own_error, 2 * (own / (own + other)) ** 2 * other_error)


def chosen(cosines, truth, seen):
    """The calibration nearest to 0 whose harmonic mean is within a standard error of the best."""
    gaps = torch.unique(cosines[:, :seen].max(1).values - cosines[:, seen:].max(1).values)
    middles = sorted(((gaps[1:] + gaps[:-1]) / 2).tolist(), key=abs)
    tried = [0.0, *middles[:: -(-len(middles) // 512) or 1]]
    means = [figures(cosines, truth, seen, one)["harmonic_mean"] for one in tried]
    best = max(range(len(tried)), key=means.__getitem__)
    enough = means[best] - error_of(cosines, truth, seen, tried[best])
    return next(one for one, mean in zip(tried, means) if mean >= enough)

"""What the peers of zero-shot recipes measure; classes are numbered with those trained on first."""

import statistics

import torch


def figures(cosines, truth, seen, calibration=0.0):
    """Figures of cosines [n, classes], each a mean over classes, after `calibration` was taken from those of trained classes."""
    lowered = cosines.clone()
    lowered[:, :seen] -= calibration
    among_all = (lowered.argmax(1) == truth).float()
    among_unseen = (cosines[:, seen:].argmax(1) + seen == truth).float()

    def mean(right, wanted):
        return statistics.mean(right[truth == one].mean().item() for one in wanted)

    there = sorted(set(truth.tolist()))
    trained, unseen = [one for one in there if one < seen], [one for one in there if one >= seen]
    own, other = mean(among_all, trained), mean(among_all, unseen)
    harmonic = 2 * own * other / (own + other) if own + other else 0.0
    return {"zero_shot_accuracy": mean(among_unseen, unseen), "seen_accuracy": own, "unseen_accuracy": other, "harmonic_mean": harmonic}


def chosen(cosines, truth, seen):
    """The calibration with the best harmonic mean, of equal ones the nearest to 0."""
    gaps = torch.unique(cosines[:, :seen].max(1).values - cosines[:, seen:].max(1).values)
    middles = sorted(((gaps[1:] + gaps[:-1]) / 2).tolist(), key=abs)
    tried = [0.0, *middles[:: -(-len(middles) // 512) or 1]]
    return max(tried, key=lambda one: (figures(cosines, truth, seen, one)["harmonic_mean"], -abs(one)))

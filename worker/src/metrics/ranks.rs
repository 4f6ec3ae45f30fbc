//! Figures of rankings: where in a list what is right stands.

use espalier_spec::job::Metric;
use std::collections::BTreeMap;

/// Mean of 1 / rank over samples, whose ranks count from 1; 0 without samples.
#[must_use]
pub fn mean_reciprocal_rank(ranks: &[u32]) -> f64 {
    let sum: f64 = ranks
        .iter()
        .map(|rank| 1.0 / f64::from((*rank).max(1)))
        .sum();
    sum / ranks.len().max(1) as f64
}

/// Share of samples with rank 1; 0 without samples.
#[must_use]
pub fn recall_at_1(ranks: &[u32]) -> f64 {
    let first = ranks.iter().filter(|rank| **rank <= 1).count();
    first as f64 / ranks.len().max(1) as f64
}

/// Both figures of samples with these ranks.
#[must_use]
pub fn rank_scores(ranks: &[u32]) -> BTreeMap<Metric, f64> {
    BTreeMap::from([
        (Metric::Mrr, mean_reciprocal_rank(ranks)),
        (Metric::RecallAt1, recall_at_1(ranks)),
    ])
}

/// What is to be expected of both figures where lists of so many candidates are in random order: the mean over all
/// places.
#[must_use]
pub fn random_rank_scores(candidates: u32) -> BTreeMap<Metric, f64> {
    let all: Vec<u32> = (1..=candidates.max(1)).collect();
    rank_scores(&all)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: figures are those of the definitions, and by chance those of every place once.
    #[test]
    fn places_make_figures() {
        let ranks = [1, 2, 4, 1];
        assert_eq!(mean_reciprocal_rank(&ranks), 2.75 / 4.0);
        assert_eq!(recall_at_1(&ranks), 0.5);
        assert_eq!((mean_reciprocal_rank(&[]), recall_at_1(&[])), (0.0, 0.0));
        let chance = random_rank_scores(2);
        assert_eq!(chance[&Metric::Mrr], 0.75);
        assert_eq!(chance[&Metric::RecallAt1], 0.5);
    }
}

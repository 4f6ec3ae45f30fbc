//! Error rates of texts.

/// Texts one after another: where each ends, and all their characters.
type Texts<'a> = (&'a [u32], &'a [u32]);

/// The characters of text `index`, which ends at `ends[index]`; none beyond the last.
#[must_use]
pub fn part<'a>(ends: &[u32], values: &'a [u32], index: usize) -> &'a [u32] {
    let before = index.checked_sub(1).and_then(|index| ends.get(index));
    let start = before.map_or(0, |end| *end as usize);
    let end = ends.get(index).map_or(start, |end| *end as usize);
    values.get(start..end).unwrap_or_default()
}

/// Character error rate: the least characters that have to be inserted, deleted and replaced in all texts
/// (Levenshtein 1966), by the characters of the truth.
#[must_use]
pub fn cer(truth: Texts<'_>, found: Texts<'_>) -> f64 {
    let each = pairs(truth, found);
    rate(each.map(|(truth, found)| (distance(truth, found), truth.len())))
}

/// Word error rate: the same of words, which are parted by one `space` or more.
#[must_use]
pub fn wer(space: Option<u32>, truth: Texts<'_>, found: Texts<'_>) -> f64 {
    let words = |text: &[u32]| -> Vec<Vec<u32>> {
        let words = text.split(|character| Some(*character) == space);
        words
            .filter(|word| !word.is_empty())
            .map(<[u32]>::to_vec)
            .collect()
    };
    let each = pairs(truth, found);
    rate(each.map(|(truth, found)| {
        let truth = words(truth);
        (distance(&truth, &words(found)), truth.len())
    }))
}

fn pairs<'a>(truth: Texts<'a>, found: Texts<'a>) -> impl Iterator<Item = (&'a [u32], &'a [u32])> {
    let text = |(ends, values): Texts<'a>, index| part(ends, values, index);
    (0..truth.0.len()).map(move |index| (text(truth, index), text(found, index)))
}

/// The sum of changes by the sum of lengths.
fn rate(each: impl Iterator<Item = (usize, usize)>) -> f64 {
    let (changes, length) = each.fold((0_usize, 0_usize), |sum, one| {
        (sum.0 + one.0, sum.1 + one.1)
    });
    #[expect(clippy::cast_precision_loss, reason = "counts of characters")]
    let rate = changes as f64 / length.max(1) as f64;
    rate
}

/// The least items to be inserted, deleted and replaced to make `truth` of `found`.
fn distance<T: PartialEq>(truth: &[T], found: &[T]) -> usize {
    // Of the first so many of `found`, to the part of `truth` seen so far.
    let mut row: Vec<usize> = (0..=found.len()).collect();
    for (seen, item) in truth.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = seen + 1;
        for (place, other) in found.iter().enumerate() {
            let replaced = diagonal + usize::from(item != other);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[found.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Baseline, Values, scores};
    use espalier_spec::job::Metric;

    fn texts(all: &[&str]) -> (Vec<u32>, Vec<u32>) {
        let values: Vec<u32> = all.concat().chars().map(u32::from).collect();
        let ends = all.iter().scan(0, |end, text| {
            *end += text.len() as u32;
            Some(*end)
        });
        (ends.collect(), values)
    }

    // Promise: distances are Levenshtein's, and rates are over all texts together, not means of texts.
    #[test]
    fn rates_count_changes() {
        for (truth, found, expected) in [
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
        ] {
            let (truth, found): (Vec<char>, Vec<char>) =
                (truth.chars().collect(), found.chars().collect());
            assert_eq!(distance(&truth, &found), expected, "{truth:?}, {found:?}");
        }
        let (truth, found) = (texts(&["a b", "kitten"]), texts(&["a  c", "sitten"]));
        let (truth, found) = ((&truth.0[..], &truth.1[..]), (&found.0[..], &found.1[..]));
        assert_eq!(cer(truth, found), 3.0 / 9.0);
        // Two spaces part words like one.
        assert_eq!(wer(Some(u32::from(' ')), truth, found), 2.0 / 3.0);
        assert_eq!(wer(None, truth, found), 1.0);
    }

    // Promise: the baseline always says the most frequent text of the training; texts of other alphabets
    // cannot be compared.
    #[test]
    fn the_baseline_is_the_most_frequent_text() {
        let of = |classes: usize, all: &[&[u32]]| Values::Text {
            classes,
            space: Some(0),
            ends: all
                .iter()
                .scan(0, |end, text| {
                    *end += text.len() as u32;
                    Some(*end)
                })
                .collect(),
            values: all.concat(),
        };
        let baseline = Baseline::fit(&of(3, &[&[2], &[1, 2], &[1], &[1, 2]]));
        assert_eq!(baseline, Baseline::Text(vec![1, 2]));
        let truth = of(3, &[&[1, 2], &[1, 0, 2]]);
        assert_eq!(baseline.predict(&truth), of(3, &[&[1, 2], &[1, 2]]));
        let found = baseline.scores(&truth).unwrap();
        assert_eq!(found[&Metric::Cer], 1.0 / 5.0);
        assert_eq!(found[&Metric::Wer], 2.0 / 3.0);
        assert!(scores(&truth, &of(4, &[&[1, 2], &[1, 2]])).is_err());
    }

    // Promise: fewer texts than there should be count as empty, and nothing is read beyond the end.
    #[test]
    fn missing_texts_are_empty() {
        let (truth, found) = (texts(&["ab", "cd"]), texts(&["ab"]));
        let (truth, found) = ((&truth.0[..], &truth.1[..]), (&found.0[..], &found.1[..]));
        assert_eq!(cer(truth, found), 0.5);
    }
}

//! Spans of tagged words, with the conventions of seqeval and conlleval.

use std::collections::BTreeMap;

/// What stands in place of a tag for a word that got none: its text was cut before it.
pub const NO_TAG: u32 = u32::MAX;

/// What a tag says of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// In no span.
    Outside,
    /// First word of a span of a type.
    Begin(u32),
    /// Next word of a span of a type.
    Inside(u32),
}

/// The tags of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagSet {
    tags: Vec<Tag>,
}

impl TagSet {
    /// Reads tags by their names: `B-x` and `I-x` are words of a span of type x, `O` is outside; any
    /// other name is a type of which every run of words is a span.
    #[must_use]
    pub fn of(names: &[String]) -> Self {
        let mut kinds = BTreeMap::new();
        let mut kind = |name: &str| {
            let next = u32::try_from(kinds.len()).unwrap_or(u32::MAX);
            *kinds.entry(name.to_owned()).or_insert(next)
        };
        let tags = names.iter().map(|name| match name.split_once('-') {
            Some(("B", rest)) => Tag::Begin(kind(rest)),
            Some(("I", rest)) => Tag::Inside(kind(rest)),
            _ if name == "O" => Tag::Outside,
            _ => Tag::Inside(kind(name)),
        });
        Self {
            tags: tags.collect(),
        }
    }

    /// Number of tags.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tags.len()
    }

    /// Whether there are no tags.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    fn get(&self, tag: u32) -> Tag {
        self.tags.get(tag as usize).copied().unwrap_or(Tag::Outside)
    }

    /// Spans (type, first word, word after the last) of a text's tags. An `I-x` that follows no word
    /// of type x begins a span, as in conlleval.
    #[must_use]
    pub fn spans(&self, tags: &[u32]) -> Vec<(u32, usize, usize)> {
        let mut spans: Vec<(u32, usize, usize)> = Vec::new();
        for (word, &tag) in tags.iter().enumerate() {
            match (self.get(tag), spans.last_mut()) {
                (Tag::Inside(kind), Some(last)) if last.0 == kind && last.2 == word => last.2 += 1,
                (Tag::Begin(kind) | Tag::Inside(kind), _) => spans.push((kind, word, word + 1)),
                (Tag::Outside, _) => {}
            }
        }
        spans
    }
}

/// Micro-averaged F1 of spans: 2·right / (spans there + spans found); 0 if there are none (seqeval's
/// `f1_score` in its default mode).
#[must_use]
pub fn span_f1(set: &TagSet, ends: &[u32], truth: &[u32], predicted: &[u32]) -> f64 {
    let (mut both, mut all) = (0_u32, 0_u32);
    let count = |spans: &Vec<_>| u32::try_from(spans.len()).unwrap_or(u32::MAX);
    for range in ranges(ends) {
        let there = set.spans(&truth[range.clone()]);
        let found = set.spans(&predicted[range]);
        all += count(&there) + count(&found);
        both += count(&there.into_iter().filter(|s| found.contains(s)).collect());
    }
    if all == 0 {
        return 0.0;
    }
    2.0 * f64::from(both) / f64::from(all)
}

/// Share of texts with every tag right.
#[expect(clippy::cast_precision_loss, reason = "counts of samples")]
pub(super) fn exact(ends: &[u32], truth: &[u32], predicted: &[u32]) -> f64 {
    let right = ranges(ends).filter(|range| truth[range.clone()] == predicted[range.clone()]);
    right.count() as f64 / ends.len().max(1) as f64
}

/// The words of each text.
fn ranges(ends: &[u32]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let both = starts.zip(ends.iter().copied());
    both.map(|(start, end)| start as usize..end as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> TagSet {
        TagSet::of(&["B-city", "B-time", "I-city", "I-time", "O"].map(str::to_owned))
    }

    // Promise: spans are those of conlleval: a change of type or a new B ends one, a stray I begins one.
    #[test]
    fn spans_are_read_as_conlleval_does() {
        let (b_city, b_time, i_city, i_time, o) = (0, 1, 2, 3, 4);
        let spans = set().spans(&[
            b_city, i_city, o, b_time, b_time, i_time, i_city, NO_TAG, i_time,
        ]);
        assert_eq!(
            spans,
            [(0, 0, 2), (1, 3, 4), (1, 4, 6), (0, 6, 7), (1, 8, 9)]
        );
    }

    // Promise: F1 counts whole spans over all texts, as seqeval does: 2 right of 3 there and 3 found.
    #[test]
    fn f1_counts_whole_spans() {
        let truth = [0, 2, 4, 1, 4, 0];
        let predicted = [0, 2, 4, 1, 3, 0];
        let f1 = span_f1(&set(), &[3, 6], &truth, &predicted);
        assert!((f1 - 2.0 * 2.0 / 6.0).abs() < 1e-12, "{f1}");
        assert!((exact(&[3, 6], &truth, &predicted) - 0.5).abs() < 1e-12);
        assert_eq!(span_f1(&set(), &[1], &[4], &[4]), 0.0);
    }

    // Promise: without B and I every run of one tag is a span.
    #[test]
    fn other_tags_are_types_of_their_own() {
        let set = TagSet::of(&["NOUN", "VERB"].map(str::to_owned));
        assert_eq!(set.spans(&[0, 0, 1]), [(0, 0, 2), (1, 2, 3)]);
    }
}

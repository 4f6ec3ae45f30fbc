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
    /// Last word of a span of a type.
    End(u32),
    /// The only word of a span of a type.
    Single(u32),
}

impl Tag {
    /// The type of the span that the word is in.
    fn kind(self) -> Option<u32> {
        match self {
            Tag::Outside => None,
            Tag::Begin(kind) | Tag::Inside(kind) | Tag::End(kind) | Tag::Single(kind) => Some(kind),
        }
    }
}

/// The type of spans whose tags name none, as seqeval calls it.
const UNTYPED: &str = "_";

/// The tags of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagSet {
    tags: Vec<Tag>,
    /// Whether a tag only goes on with a span that has begun: `I-x`.
    strict: Vec<bool>,
}

impl TagSet {
    /// Reads tags by their names: `B-x`, `I-x`, `E-x` and `S-x` are words of a span of type x, a `B`, `I`,
    /// `E` or `S` alone those of a span without a type, `O` is outside; any other name is a type of which
    /// every run of words is a span.
    #[must_use]
    pub fn of(names: &[String]) -> Self {
        let mut kinds = BTreeMap::new();
        let mut kind = |name: &str| {
            let next = u32::try_from(kinds.len()).unwrap_or(u32::MAX);
            *kinds.entry(name.to_owned()).or_insert(next)
        };
        let tags = names.iter().map(|name| {
            let (prefix, rest) = name.split_once('-').unwrap_or((name.as_str(), UNTYPED));
            let rest = if rest.is_empty() { UNTYPED } else { rest };
            match prefix {
                "B" => Tag::Begin(kind(rest)),
                "I" => Tag::Inside(kind(rest)),
                "E" => Tag::End(kind(rest)),
                "S" => Tag::Single(kind(rest)),
                _ if name == "O" => Tag::Outside,
                _ => Tag::Inside(kind(name)),
            }
        });
        Self {
            tags: tags.collect(),
            strict: names.iter().map(|name| name.starts_with("I-")).collect(),
        }
    }

    /// Whether a word may have this tag behind a word with the tag `before`, or as a text's first: `I-x` stands only
    /// behind another word of a span of type x, as in the files of samples; all others anywhere.
    #[must_use]
    pub fn may_follow(&self, before: Option<u32>, tag: u32) -> bool {
        let strict = self.strict.get(tag as usize).copied().unwrap_or(false);
        !strict || before.is_some_and(|before| self.get(before).kind() == self.get(tag).kind())
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

    /// Spans (type, first word, word after the last) of a text's tags, by the rules of conlleval and of
    /// seqeval's default mode: a change of type begins a span, as do `B` and `S` always, and `I` and `E`
    /// where none goes on (after `O`, `E` and `S`).
    #[must_use]
    pub fn spans(&self, tags: &[u32]) -> Vec<(u32, usize, usize)> {
        let mut spans: Vec<(u32, usize, usize)> = Vec::new();
        // The type of the span that the next word may go on with.
        let mut open = None;
        for (word, &tag) in tags.iter().enumerate() {
            let (kind, begins, ends) = match self.get(tag) {
                Tag::Outside => {
                    open = None;
                    continue;
                }
                Tag::Begin(kind) => (kind, true, false),
                Tag::Inside(kind) => (kind, false, false),
                Tag::End(kind) => (kind, false, true),
                Tag::Single(kind) => (kind, true, true),
            };
            match spans.last_mut() {
                Some(last) if !begins && open == Some(kind) => last.2 = word + 1,
                _ => spans.push((kind, word, word + 1)),
            }
            open = (!ends).then_some(kind);
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

    /// Spans of a text whose tags are given by name.
    fn spans_of(text: &[&str]) -> Vec<(u32, usize, usize)> {
        let names: Vec<String> = text.iter().map(|&name| name.to_owned()).collect();
        let words: Vec<u32> = (0..).take(text.len()).collect();
        TagSet::of(&names).spans(&words)
    }

    // Promise: E and S end spans and S begins one, as in seqeval: what follows them begins another, though
    // it be an I or an E of the same type.
    #[test]
    fn last_and_only_words_end_spans() {
        let spans = spans_of(&["B-x", "I-x", "E-x", "O", "S-x", "S-x", "B-x", "E-x"]);
        assert_eq!(spans, [(0, 0, 3), (0, 4, 5), (0, 5, 6), (0, 6, 8)]);
        let spans = spans_of(&["E-x", "E-x", "I-x", "E-x", "I-x", "S-x", "I-x", "O", "I-x"]);
        assert_eq!(
            spans,
            [
                (0, 0, 1),
                (0, 1, 2),
                (0, 2, 4),
                (0, 4, 5),
                (0, 5, 6),
                (0, 6, 7),
                (0, 8, 9)
            ]
        );
        // A change of type ends a span that no E has ended.
        let spans = spans_of(&["B-x", "E-y", "B-y", "S-y", "E-x"]);
        assert_eq!(
            spans,
            [(0, 0, 1), (1, 1, 2), (1, 2, 3), (1, 3, 4), (0, 4, 5)]
        );
    }

    // Promise: B, I, E and S alone are words of spans of one type, not types of their own.
    #[test]
    fn tags_without_a_type_have_one_in_common() {
        let spans = spans_of(&["B", "I", "B", "O", "I", "I", "O"]);
        assert_eq!(spans, [(0, 0, 2), (0, 2, 3), (0, 4, 6)]);
        let spans = spans_of(&["B", "I", "E", "S", "O", "B-", "I-x"]);
        assert_eq!(spans, [(0, 0, 3), (0, 3, 4), (0, 5, 6), (1, 6, 7)]);
    }
}

//! A question with the context that its answer is searched in: where tokens stand in the context, and the
//! way back from tokens to its characters.

/// Tokens of a context, among which an answer begins and ends. Place 0 is the sample's first token, which
/// stands for no answer; the context's tokens follow in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// The token at each place.
    pub tokens: Vec<u32>,
    /// Characters of the context that each place covers: the first, and the one behind the last.
    pub characters: Vec<[u32; 2]>,
    /// Place of the first token of the second text, where the model tells both texts apart.
    pub second: Option<u32>,
    /// Places of the first and the last token of the answer to learn; both 0 if there is none.
    pub target: [u32; 2],
    /// The context, where nothing else keeps it.
    pub context: Option<Box<str>>,
}

/// An answer as it stands in a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// Its text.
    pub text: &'a str,
    /// Number of its first character in the context.
    pub start: u32,
    /// Number of the character behind its last one.
    pub end: u32,
}

impl Passage {
    /// Places of the first and the last token of characters `start..end`; none if some of them have no
    /// token, because the context was cut.
    #[must_use]
    pub fn places(&self, [start, end]: [u32; 2]) -> Option<[u32; 2]> {
        let covered = self.characters.last().is_some_and(|last| last[1] >= end);
        let context = || (0..).zip(&self.characters).skip(1);
        let (first, _) = context().find(|(_, characters)| characters[1] > start)?;
        let (last, _) = context()
            .filter(|(_, characters)| characters[0] < end)
            .last()?;
        (covered && first <= last).then_some([first, last])
    }

    /// What stands in the context from the token at one place to that at another, without white space
    /// around it; none for place 0 and beyond the last.
    #[must_use]
    pub fn answer<'a>(&self, context: &'a str, [first, last]: [u32; 2]) -> Option<Found<'a>> {
        let at = |place: u32| self.characters.get(place as usize).filter(|_| place > 0);
        let (start, end) = (at(first)?[0], at(last)?[1]);
        let text = part(context, start, end)?;
        let trimmed = text.trim_start();
        let start = start + count(text) - count(trimmed);
        let text = trimmed.trim_end();
        let end = start + count(text);
        Some(Found { text, start, end })
    }
}

/// Characters `start..end` of a text; none if they are not there.
#[must_use]
pub fn part(text: &str, start: u32, end: u32) -> Option<&str> {
    let ends = text
        .char_indices()
        .map(|(byte, _)| byte)
        .chain(std::iter::once(text.len()));
    let mut ends = ends.skip(start as usize);
    let first = ends.next()?;
    let last = match end.checked_sub(start)? {
        0 => first,
        length => ends.nth(length as usize - 1)?,
    };
    text.get(first..last)
}

/// Characters of a text.
fn count(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage(characters: &[[u32; 2]]) -> Passage {
        let characters = [&[[0, 0]][..], characters].concat();
        Passage {
            tokens: (0..characters.len() as u32).collect(),
            characters,
            second: None,
            target: [0, 0],
            context: None,
        }
    }

    // Promise: characters are counted, not bytes, and none beyond the end are given.
    #[test]
    fn parts_are_counted_in_characters() {
        assert_eq!(part("ähm, öl", 0, 3), Some("ähm"));
        assert_eq!(part("ähm, öl", 5, 7), Some("öl"));
        assert_eq!(part("ab", 2, 2), Some(""));
        assert_eq!(part("ab", 1, 3), None);
        assert_eq!(part("ab", 3, 3), None);
        assert_eq!(part("ab", 2, 1), None);
    }

    // Promise: an answer's tokens are those that cover any of it, and its text comes back from them; one
    // that is cut off, or was never there, has none.
    #[test]
    fn answers_become_tokens_and_text_again() {
        let context = "der Öl-preis fiel";
        // `fiel` is beyond the limit; the second token begins with a space, as some tokenizers count.
        let passage = passage(&[[0, 3], [3, 6], [6, 7], [7, 12]]);
        let text = |places| passage.answer(context, places).map(|found| found.text);
        assert_eq!(passage.places([4, 12]), Some([2, 4]));
        assert_eq!(text([2, 4]), Some("Öl-preis"));
        let found = passage.answer(context, [2, 2]).unwrap();
        assert_eq!((found.start, found.end), (4, 6));
        // In the middle of a token.
        assert_eq!(passage.places([8, 9]), Some([4, 4]));
        assert_eq!(passage.places([13, 17]), None);
        assert_eq!(passage.places([7, 17]), None);
        assert_eq!(
            (text([0, 0]), text([0, 2]), text([1, 5])),
            (None, None, None)
        );
    }
}

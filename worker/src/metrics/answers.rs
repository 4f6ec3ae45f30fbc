//! Answers that stand in a context, compared as in SQuAD's evaluation (Rajpurkar et al. 2016, arXiv
//! 1606.05250, section 6.1; 2018, arXiv 1806.03822, for questions without an answer).

use std::collections::BTreeMap;
use std::sync::Arc;

/// Share of samples whose answer is one of the right ones, in lower case and without punctuation and
/// articles. A sample without a right answer wants none.
#[must_use]
pub fn exact_match(truth: &[Arc<[String]>], predicted: &[Arc<[String]>]) -> f64 {
    mean(truth, predicted, |right, found| {
        f64::from(u8::from(right == found))
    })
}

/// F1 of words, 2 · common / (words of both), against the right answer with which it is largest; mean over
/// samples. Where one of both has no words, it is 1 if the other has none either, else 0.
#[must_use]
pub fn answer_f1(truth: &[Arc<[String]>], predicted: &[Arc<[String]>]) -> f64 {
    mean(truth, predicted, |right, found| {
        if right.is_empty() || found.is_empty() {
            return f64::from(u8::from(right.is_empty() && found.is_empty()));
        }
        let mut left: BTreeMap<&str, u32> = BTreeMap::new();
        for word in right {
            *left.entry(word).or_default() += 1;
        }
        let mut common = 0_u32;
        for word in found {
            if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
                *count -= 1;
                common += 1;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "words of two answers")]
        let words = (right.len() + found.len()) as f64;
        2.0 * f64::from(common) / words
    })
}

/// Words of an answer: in lower case, without punctuation (of ASCII) and without the articles a, an, the.
fn normalised(answer: &str) -> Vec<String> {
    let lower = answer.to_lowercase();
    let is_word = |c: char| c.is_alphanumeric();
    let kept = lower.chars().filter(|c| !c.is_ascii_punctuation());
    let kept: String = kept.collect();
    let mut words = Vec::new();
    for part in kept.split_whitespace() {
        // An article may stand between signs that are no ASCII, too; what is left of both sides is then two
        // words.
        let mut rest = String::new();
        let mut run = String::new();
        for c in part.chars().chain(std::iter::once(' ')) {
            if is_word(c) {
                run.push(c);
                continue;
            }
            match run.as_str() {
                "a" | "an" | "the" => words.extend(taken(&mut rest)),
                _ => rest.push_str(&run),
            }
            run.clear();
            if c != ' ' {
                rest.push(c);
            }
        }
        words.extend(taken(&mut rest));
    }
    words
}

/// A text that is not empty, and leaves an empty one.
fn taken(text: &mut String) -> Option<String> {
    Some(std::mem::take(text)).filter(|text| !text.is_empty())
}

/// Mean over samples of the best score against one of the right answers; those without any words do not
/// count unless there are no others.
#[expect(clippy::cast_precision_loss, reason = "counts of samples")]
fn mean(
    truth: &[Arc<[String]>],
    predicted: &[Arc<[String]>],
    score: impl Fn(&[String], &[String]) -> f64,
) -> f64 {
    let mut sum = 0.0;
    for (right, found) in truth.iter().zip(predicted) {
        let found = found.first().map(|text| normalised(text));
        let found = found.unwrap_or_default();
        let right = right.iter().map(|text| normalised(text));
        let right: Vec<_> = right.filter(|words| !words.is_empty()).collect();
        sum += match right.is_empty() {
            true => score(&[], &found),
            false => right
                .iter()
                .map(|words| score(words, &found))
                .fold(0.0, f64::max),
        };
    }
    sum / truth.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn list(answers: &[&[&str]]) -> Vec<Arc<[String]>> {
        let texts = |texts: &&[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        answers.iter().map(texts).collect()
    }

    // Promise: case, ASCII punctuation, articles and spaces do not count; words that only begin like an
    // article do; punctuation goes without a trace, articles leave a space.
    #[test]
    fn answers_are_normalised_as_in_squad() {
        assert_eq!(normalised("  The U.S. \t Army's"), ["us", "armys"]);
        assert_eq!(
            normalised("An apple, a day; theory"),
            ["apple", "day", "theory"]
        );
        assert_eq!(normalised("1–the–2"), ["1–", "–2"]);
        assert_eq!(normalised("“The” Ärzte"), ["“", "”", "ärzte"]);
        assert!(normalised("the, a.").is_empty());
    }

    // Promise: exact match and F1 are those of SQuAD's evaluation, as transformers has it.
    #[test]
    fn scores_agree_with_squad() {
        let golden: Value = serde_json::from_str(include_str!("../heads/span.json")).unwrap();
        for case in golden["answers"].as_array().unwrap() {
            let right: Vec<String> = serde_json::from_value(case["right"].clone()).unwrap();
            let found: String = serde_json::from_value(case["found"].clone()).unwrap();
            let truth: [Arc<[String]>; 1] = [Arc::from(right)];
            let predicted: [Arc<[String]>; 1] = [Arc::from([found])];
            let close = |score: f64, name: &str| {
                let expected = case[name].as_f64().unwrap();
                assert!((score - expected).abs() < 1e-12, "{case}: {name} {score}");
            };
            close(exact_match(&truth, &predicted), "exact");
            close(answer_f1(&truth, &predicted), "f1");
        }
    }

    // Promise: the nearest of several right answers counts; where there is none, only no answer is right.
    #[test]
    fn the_best_match_counts() {
        let truth = list(&[
            &["in the park", "a park"],
            &["red fox"],
            &[],
            &["the"],
            &["one"],
        ]);
        let predicted = list(&[&["Park."], &["the quick red red fox"], &["x"], &[], &[]]);
        assert!((exact_match(&truth, &predicted) - 2.0 / 5.0).abs() < 1e-12);
        // 1; 2 of 2 and 4 words: 4 / 6; 0; 1; 0.
        let expected = (1.0 + 4.0 / 6.0 + 0.0 + 1.0 + 0.0) / 5.0;
        assert!((answer_f1(&truth, &predicted) - expected).abs() < 1e-12);
    }
}

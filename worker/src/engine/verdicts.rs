//! What ranks tell each other of an evaluation: one verdict on each sample, written by whoever judged it and read by
//! all.

use super::Error;
use crate::metrics::{NO_TAG, Values};
use std::sync::Arc;

/// One sample's result on its way between ranks.
pub(super) struct Verdict {
    pub(super) sample: u32,
    pub(super) loss: f32,
    pub(super) decision: Vec<u8>,
}

/// Each verdict: sample, loss, length of the decision, decision.
pub(super) fn encode(verdicts: &[Verdict]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for verdict in verdicts {
        bytes.extend(verdict.sample.to_le_bytes());
        bytes.extend(verdict.loss.to_le_bytes());
        bytes.extend((verdict.decision.len() as u32).to_le_bytes());
        bytes.extend(&verdict.decision);
    }
    bytes
}

/// What [`encode`] wrote.
///
/// # Errors
/// If it is something else.
pub(super) fn decode(mut bytes: &[u8], all: &mut Vec<Verdict>) -> Result<(), Error> {
    let broken = || Error::Plan("a peer sent a broken evaluation".to_owned());
    while !bytes.is_empty() {
        let (sample, rest) = bytes.split_first_chunk().ok_or_else(broken)?;
        let (loss, rest) = rest.split_first_chunk().ok_or_else(broken)?;
        let (length, rest) = rest.split_first_chunk().ok_or_else(broken)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (decision, rest) = rest.split_at_checked(length).ok_or_else(broken)?;
        bytes = rest;
        all.push(Verdict {
            sample: u32::from_le_bytes(*sample),
            loss: f32::from_le_bytes(*loss),
            decision: decision.to_vec(),
        });
    }
    Ok(())
}

/// Decisions of the kind of `truth`, in order of samples.
pub(super) fn decisions(truth: &Values, verdicts: &[Verdict]) -> Values {
    let word = |verdict: &Verdict| verdict.decision.first_chunk().copied().unwrap_or_default();
    let long = |verdict: &Verdict| verdict.decision.first_chunk().copied().unwrap_or_default();
    match truth {
        Values::Single { classes, .. } => Values::Single {
            classes: *classes,
            values: verdicts
                .iter()
                .map(|v| u32::from_le_bytes(word(v)))
                .collect(),
        },
        Values::Ordered { classes, .. } => Values::Ordered {
            classes: *classes,
            values: verdicts
                .iter()
                .map(|v| u32::from_le_bytes(word(v)))
                .collect(),
        },
        Values::Multi { classes, .. } => Values::Multi {
            classes: *classes,
            values: verdicts
                .iter()
                .flat_map(|v| v.decision.iter().map(|&byte| byte != 0))
                .collect(),
        },
        Values::Tags { set, ends, values } => {
            let mut found = Vec::with_capacity(values.len());
            for (verdict, &end) in verdicts.iter().zip(ends) {
                let (words, _) = verdict.decision.as_chunks::<4>();
                found.extend(words.iter().map(|word| u32::from_le_bytes(*word)));
                // As many as there are words, whatever came.
                found.resize(end as usize, NO_TAG);
            }
            Values::Tags {
                set: set.clone(),
                ends: ends.clone(),
                values: found,
            }
        }
        Values::Text { classes, space, .. } => {
            let (mut ends, mut values) = (Vec::with_capacity(verdicts.len()), Vec::new());
            for verdict in verdicts {
                let (characters, _) = verdict.decision.as_chunks::<4>();
                values.extend(characters.iter().map(|one| u32::from_le_bytes(*one)));
                ends.push(values.len() as u32);
            }
            Values::Text {
                classes: *classes,
                space: *space,
                ends,
                values,
            }
        }
        // They are scored by themselves.
        Values::Next { .. } | Values::Masks { .. } | Values::Spans { .. } => truth.clone(),
        Values::Answers(_) => {
            let text = |verdict: &Verdict| -> Arc<[String]> {
                match verdict.decision.as_slice() {
                    [] => Arc::default(),
                    bytes => Arc::from([String::from_utf8_lossy(bytes).into_owned()]),
                }
            };
            Values::Answers(verdicts.iter().map(text).collect())
        }
        Values::Numbers(_) => Values::Numbers(
            verdicts
                .iter()
                .map(|v| f64::from_le_bytes(long(v)))
                .collect(),
        ),
    }
}

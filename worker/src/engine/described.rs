//! Evaluation of classes that are known by what they are: their vectors, made of descriptions once or given,
//! and what samples are nearest to.

use super::Error;
use super::trainer::Trainer;
use crate::agent::watched::{Phase, enter};
use crate::data::Input;
use crate::heads;
use crate::metrics::Nearest;
use crate::model::Context;
use std::sync::Arc;
use tch::Tensor;

/// Stands for no unseen class.
const NONE: u32 = u32::MAX;

impl Trainer {
    /// Vectors [C, h] of all classes of a task; none if it does not know them by what they are. All
    /// ranks call it together.
    ///
    /// # Errors
    /// What model and communicator say.
    pub(super) fn class_vectors(&mut self, task: usize) -> Result<Option<Tensor>, Error> {
        let tasks = Arc::clone(&self.tasks);
        let Some(classes) = &tasks[task].classes else {
            return Ok(None);
        };
        if let Some(vectors) = self.heads.vectors(task) {
            return Ok(Some(vectors.shallow_clone()));
        }
        let mut parts = Vec::new();
        let inputs: Vec<&Input> = classes.inputs(true);
        for part in inputs.chunks(self.spec.evaluation.batch_size.max(1) as usize) {
            enter(Phase::Evaluating);
            let batch = self.batch(part, &vec![0; part.len()])?;
            if let Some(leaves) = self.features(Some(&batch), &Context::eval())? {
                parts.push(leaves.features);
            }
        }
        let each = classes.templates.len();
        let vectors = tch::no_grad(|| heads::class_vectors(&Tensor::f_cat(&parts, 0)?, each))?;
        Ok(Some(vectors))
    }
}

/// The nearest classes by cosines f32 [b, C]; of equal ones the first.
///
/// # Errors
/// If libtorch refuses.
pub(super) fn nearest(cosines: &Tensor, seen: &[bool]) -> Result<Vec<Nearest>, Error> {
    let all = Vec::<f32>::try_from(&cosines.f_contiguous()?.f_flatten(0, -1)?)?;
    let of_row = |row: &[f32]| {
        let best = |wanted: bool| {
            let own = (0_u32..)
                .zip(row)
                .zip(seen)
                .filter(|(_, is)| **is == wanted);
            own.map(|((class, cosine), _)| (class, *cosine))
                .reduce(|best, next| if next.1 > best.1 { next } else { best })
        };
        Nearest {
            seen: best(true).unwrap_or((NONE, f32::NEG_INFINITY)),
            unseen: best(false),
        }
    };
    Ok(all.chunks_exact(seen.len().max(1)).map(of_row).collect())
}

/// As it travels between ranks.
pub(super) fn write(nearest: &Nearest) -> Vec<u8> {
    let (class, cosine) = nearest.unseen.unwrap_or((NONE, 0.0));
    let words = [
        nearest.seen.0,
        nearest.seen.1.to_bits(),
        class,
        cosine.to_bits(),
    ];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// What [`write`] wrote; nothing near where it is something else.
pub(super) fn read(bytes: &[u8]) -> Nearest {
    let (words, _) = bytes.as_chunks::<4>();
    let word = |place: usize| {
        words
            .get(place)
            .map_or(NONE, |word| u32::from_le_bytes(*word))
    };
    let unseen = (word(2), f32::from_bits(word(3)));
    Nearest {
        seen: (word(0), f32::from_bits(word(1))),
        unseen: (unseen.0 != NONE).then_some(unseen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: the nearest class of each kind is found, and arrives as it was sent.
    #[test]
    fn nearest_of_each_kind_travels() {
        let cosines =
            Tensor::from_slice(&[0.1_f32, 0.9, 0.3, 0.3, -0.5, -0.2, 0.0, -0.1]).view([2, 4]);
        let found = nearest(&cosines, &[true, false, true, false]).unwrap();
        assert_eq!(found[0].seen, (2, 0.3));
        assert_eq!(found[0].unseen, Some((1, 0.9)));
        assert_eq!(found[1].seen, (2, 0.0));
        assert_eq!(found[1].unseen, Some((3, -0.1)));
        for one in &found {
            assert_eq!(read(&write(one)), *one);
        }
        let all_seen = nearest(&cosines, &[true; 4]).unwrap();
        assert_eq!(all_seen[0].unseen, None);
        assert_eq!(read(&write(&all_seen[0])), all_seen[0]);
    }
}

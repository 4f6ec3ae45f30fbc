//! Tokens that a pretrained decoder does not know yet: rows added to its word table and its vocabulary matrix.

use super::Error;
use crate::torch;
use tch::{Kind, Tensor};

/// `values` [n, h] as f32 with rows added up to `rows`, each the mean of the old ones: a new token is then
/// about as probable as an old one, and never far more probable, as it may be with a random row (Hewitt 2021,
/// "Initializing New Word Embeddings for Pretrained Language Models"). The mean is summed row by row, so it is
/// the same on every rank. What has `rows` rows or more is given back as it is.
///
/// # Errors
/// If `values` is no matrix with a row, or libtorch refuses.
pub(super) fn extended(values: &Tensor, rows: usize) -> Result<Tensor, Error> {
    let (count, width) = match values.size()[..] {
        [count, width] if count > 0 && width > 0 => (count as usize, width as usize),
        _ => {
            let size = values.size();
            let message = format!("a matrix of shape {size:?} has no row to begin new ones with");
            return Err(Error::Input(message));
        }
    };
    if rows <= count {
        return Ok(values.shallow_clone());
    }
    let values = values.f_to_kind(Kind::Float)?.f_contiguous()?;
    let mut all = torch::data(&values)?.to_vec();
    let mut sums = vec![0f64; width];
    for row in all.chunks_exact(width) {
        let numbers = sums.iter_mut().zip(row);
        numbers.for_each(|(sum, number)| *sum += f64::from(*number));
    }
    let mean: Vec<f32> = sums.iter().map(|sum| (sum / count as f64) as f32).collect();
    for _ in count..rows {
        all.extend_from_slice(&mean);
    }
    Ok(Tensor::f_from_slice(&all)?.f_view([rows as i64, width as i64])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: old rows stay as they are, new ones are their mean, and nothing is ever taken away.
    #[test]
    fn new_rows_are_the_mean_of_the_old_ones() {
        let old = Tensor::from_slice(&[1f32, 2.0, 3.0, 6.0]).view([2, 2]);
        let new = extended(&old, 4).unwrap();
        let expected = Tensor::from_slice(&[1f32, 2.0, 3.0, 6.0, 2.0, 4.0, 2.0, 4.0]);
        assert!(new.equal(&expected.view([4, 2])), "{new:?}");
        assert!(extended(&old, 2).unwrap().equal(&old));
        assert!(extended(&old, 1).unwrap().equal(&old));
        let half = extended(&old.to_kind(Kind::Half), 3).unwrap();
        assert_eq!(half.kind(), Kind::Float);
        assert!(extended(&Tensor::from_slice(&[1f32]), 3).is_err());
    }
}

//! The Gram matrix of the tasks' gradients.

use crate::error::Error;

/// G = J·Jᵀ: scalar products of K gradients, K×K, row-major, symmetric.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    k: usize,
    values: Vec<f64>,
}

impl Gram {
    /// A matrix from its values, row by row. What is not finite passes: [`crate::Balancer`] deals
    /// with it.
    ///
    /// # Errors
    /// The number of values is no square, or (i, j) and (j, i) differ by more than rounding.
    pub fn new(values: Vec<f64>) -> Result<Self, Error> {
        let mut k = 0;
        while k * k < values.len() {
            k += 1;
        }
        if k * k != values.len() || k == 0 {
            return Err(Error::Shape {
                what: "a Gram matrix",
                expected: "K times K numbers, K at least 1".to_owned(),
                found: format!("{} numbers", values.len()),
            });
        }
        let mut gram = Self { k, values };
        for i in 0..k {
            for j in 0..i {
                let (low, high) = (gram.get(i, j), gram.get(j, i));
                if (low - high).abs() > 1e-6 * gram.norm(i) * gram.norm(j) {
                    return Err(Error::Shape {
                        what: "a Gram matrix",
                        expected: "a symmetric matrix".to_owned(),
                        found: format!("{low} at ({i}, {j}) and {high} at ({j}, {i})"),
                    });
                }
                let mean = if low == high { low } else { (low + high) / 2.0 };
                gram.values[i * k + j] = mean;
                gram.values[j * k + i] = mean;
            }
        }
        Ok(gram)
    }

    /// The Gram matrix of gradients.
    ///
    /// # Errors
    /// There is none, or they have different lengths.
    pub fn of_gradients(gradients: &[Vec<f64>]) -> Result<Self, Error> {
        let length = gradients.first().map_or(0, Vec::len);
        if let Some(other) = gradients.iter().find(|row| row.len() != length) {
            return Err(Error::Shape {
                what: "gradients",
                expected: format!("{length} numbers each"),
                found: format!("{}", other.len()),
            });
        }
        let dot = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(x, y)| x * y).sum();
        Self::new(
            gradients
                .iter()
                .flat_map(|a| gradients.iter().map(move |b| dot(a, b)))
                .collect(),
        )
    }

    /// Number of tasks K.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// The values, row by row.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// g_i · g_j.
    #[must_use]
    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.k + j]
    }

    /// The scalar products of g_i with all.
    #[must_use]
    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.k..(i + 1) * self.k]
    }

    /// ‖g_i‖.
    #[must_use]
    pub fn norm(&self, i: usize) -> f64 {
        self.get(i, i).max(0.0).sqrt()
    }

    /// The norms of all gradients.
    #[must_use]
    pub fn norms(&self) -> Vec<f64> {
        (0..self.k).map(|i| self.norm(i)).collect()
    }

    /// Cosine between g_i and g_j; 0 if one of them is 0.
    #[must_use]
    pub fn cosine(&self, i: usize, j: usize) -> f64 {
        let norms = self.norm(i) * self.norm(j);
        if norms > 0.0 {
            (self.get(i, j) / norms).clamp(-1.0, 1.0)
        } else {
            0.0
        }
    }

    /// Σ_i G_ii.
    #[must_use]
    pub fn trace(&self) -> f64 {
        (0..self.k).map(|i| self.get(i, i)).sum()
    }

    /// G w: for the update Σ w_k g_k the rate at which each task's loss falls.
    #[must_use]
    pub fn times(&self, w: &[f64]) -> Vec<f64> {
        (0..self.k).map(|i| dot(self.row(i), w)).collect()
    }

    /// wᵀ G w, the square of the update's norm; never below 0.
    #[must_use]
    pub fn quadratic(&self, w: &[f64]) -> f64 {
        dot(&self.times(w), w).max(0.0)
    }

    /// The matrix of some of the tasks, by position.
    #[must_use]
    pub fn part(&self, of: &[usize]) -> Self {
        let values = of
            .iter()
            .flat_map(|&i| of.iter().map(move |&j| self.get(i, j)))
            .collect();
        Self {
            k: of.len(),
            values,
        }
    }

    /// The matrix of the gradients d_i·g_i.
    #[must_use]
    pub fn scaled(&self, d: &[f64]) -> Self {
        let values = (0..self.k)
            .flat_map(|i| (0..self.k).map(move |j| self.get(i, j) * (d[i] * d[j])))
            .collect();
        Self { k: self.k, values }
    }
}

/// Σ a_i b_i, in order.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::Gram;

    #[test]
    fn shapes_are_checked() {
        // Only square, symmetric matrices pass, and the message says what is wrong.
        let message = |values: &[f64]| Gram::new(values.to_vec()).unwrap_err().to_string();
        assert!(message(&[1.0, 2.0]).contains("found 2 numbers"));
        assert!(message(&[]).contains("found 0 numbers"));
        assert!(message(&[1.0, 0.5, 0.4, 1.0]).contains("0.4 at (1, 0) and 0.5 at (0, 1)"));
        assert_eq!(Gram::new(vec![f64::NAN]).unwrap().k(), 1);
    }

    #[test]
    fn figures_of_a_matrix() {
        // Norms, cosines, products and parts agree with the gradients.
        let gram = Gram::of_gradients(&[vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.0]]).unwrap();
        assert_eq!(gram.values(), [18.0, -22.0, -22.0, 38.0]);
        assert_eq!(gram.trace(), 56.0);
        assert_eq!(gram.times(&[1.0, 1.0]), [-4.0, 16.0]);
        assert_eq!(gram.quadratic(&[1.0, 1.0]), 12.0);
        assert!((gram.cosine(0, 1) + 22.0 / (18.0_f64 * 38.0).sqrt()).abs() < 1e-15);
        assert_eq!(gram.part(&[1]).values(), [38.0]);
        assert_eq!(
            gram.scaled(&[2.0, 1.0]).values(),
            [72.0, -44.0, -44.0, 38.0]
        );
    }
}

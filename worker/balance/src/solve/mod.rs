//! Small exact solvers on K×K matrices, K up to a few dozens.

mod cholesky;
mod complementary;
mod eigen;
mod fair;
mod simplex;

pub(crate) use cholesky::Cholesky;
pub(crate) use complementary::complementary;
pub(crate) use eigen::{Eigen, pseudo_inverse_times};
pub(crate) use fair::fair;
pub(crate) use simplex::{min_norm, onto_simplex};

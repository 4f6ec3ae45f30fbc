//! A contrastive loss beside a task's own: samples of a class come together, others apart.
//!
//! Shapes: b samples, h hidden width.

use super::Error;
use crate::metrics::Values;
use espalier_spec::job::ContrastiveSpec;
use tch::{Kind, Tensor};

/// Features as the task's head is to read them, f32 [b, h]: the same numbers, but of the gradient
/// that comes back through them only (1 - share) goes on. So the head learns the whole of its loss.
///
/// # Errors
/// If libtorch refuses.
pub fn dampened(features: &Tensor, spec: ContrastiveSpec) -> Result<Tensor, Error> {
    let still = features.f_detach()?;
    // x + (1 - share) · (x - x): not a bit of x changes.
    let moving = features.f_sub(&still)?.f_mul_scalar(1.0 - spec.share)?;
    Ok(still.f_add(&moving)?)
}

/// Supervised contrastive loss of each sample times `share`, f32 `[b]`, from `features` f32 `[b, h]`
/// (Khosla et al. 2020, arXiv 2004.11362, L_out): with z the features at length 1, t the temperature,
/// A(i) all other samples and P(i) those of them with i's class,
/// -1/|P(i)| · Σ_{p in P(i)} log( exp(z_i·z_p / t) / Σ_{a in A(i)} exp(z_i·z_a / t) );
/// 0 where P(i) is empty.
///
/// # Errors
/// Targets that are no single classes; errors of torch.
pub fn contrastive(
    features: &Tensor,
    targets: &Values,
    spec: ContrastiveSpec,
) -> Result<Tensor, Error> {
    let rows = features.size()[0] as usize;
    let Values::Single { values, .. } = targets else {
        return Err(super::targets_error(
            "one class a sample".to_owned(),
            targets,
        ));
    };
    if values.len() != rows {
        return Err(super::targets_error(format!("{rows} classes"), targets));
    }
    if rows < 2 {
        return Ok(features.f_select(1, 0)?.f_mul_scalar(0.0)?);
    }
    // What every row adds up, 1/|P(i)| for those of its class.
    let mut shares = Vec::with_capacity(rows * rows);
    for (i, class) in values.iter().enumerate() {
        let same = |j: usize| j != i && values[j] == *class;
        let count = (0..rows).filter(|&j| same(j)).count().max(1);
        #[expect(clippy::cast_precision_loss, reason = "samples of a batch")]
        shares.extend((0..rows).map(|j| f32::from(u8::from(same(j))) / count as f32));
    }
    let side = rows as i64;
    let shares_bb = Tensor::f_from_slice(&shares)?
        .f_view([side, side])?
        .f_to_device(features.device())?;
    let length_b1 = features.f_norm_scalaropt_dim(2.0, [1i64], true)?;
    let unit_bh = features.f_div(&length_b1.f_clamp_min(1e-12)?)?;
    let cosines_bb = unit_bh.f_matmul(&unit_bh.f_transpose(0, 1)?)?;
    let own = Tensor::f_eye(side, (Kind::Bool, features.device()))?;
    let logs_bb = cosines_bb
        .f_div_scalar(spec.temperature)?
        .f_masked_fill(&own, f64::NEG_INFINITY)?
        .f_log_softmax(1, Kind::Float)?
        .f_masked_fill(&own, 0.0)?;
    let sums_b = logs_bb
        .f_mul(&shares_bb)?
        .f_sum_dim_intlist(&[1i64][..], false, Kind::Float)?;
    Ok(sums_b.f_mul_scalar(-spec.share)?)
}

//! A contrastive loss beside a task's own: samples of a class come together, others apart.
//!
//! Shapes: b samples, h hidden width.

use super::Error;
use crate::metrics::Values;
use espalier_spec::job::{ContrastiveKind, ContrastiveSpec};
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

/// Contrastive loss of each sample times `share`, f32 `[b]`, from `features` f32 `[b, h]`. With z the features at
/// length 1, A(i) all samples but i, P(i) those of them with i's class and N(i) the others, it is
///
/// - `sup_con` (Khosla et al. 2020, arXiv 2004.11362, L_out), t the temperature:
///   -1/|P(i)| · Σ_{p in P(i)} log( exp(z_i·z_p / t) / Σ_{a in A(i)} exp(z_i·z_a / t) );
/// - `cosine`, SetFit's loss (Tunstall et al. 2022, arXiv 2209.11055) over all pairs there are instead of drawn ones:
///   1/2 · mean_{p in P(i)} (z_i·z_p - 1)² + 1/2 · mean_{n in N(i)} (z_i·z_n)²;
///
/// a mean over nothing is 0.
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
    let length_b1 = features.f_norm_scalaropt_dim(2.0, [1i64], true)?;
    let unit_bh = features.f_div(&length_b1.f_clamp_min(1e-12)?)?;
    let cosines_bb = unit_bh.f_matmul(&unit_bh.f_transpose(0, 1)?)?;
    let losses_b = match spec.kind {
        ContrastiveKind::SupCon => by_softmax(&cosines_bb, values, spec.temperature)?,
        ContrastiveKind::Cosine => by_pairs(&cosines_bb, values)?,
    };
    Ok(losses_b.f_mul_scalar(spec.share)?)
}

/// `sup_con` of each sample, f32 `[b]`, from cosines f32 `[b, b]` and classes [b].
fn by_softmax(cosines_bb: &Tensor, classes: &[u32], temperature: f64) -> Result<Tensor, Error> {
    let device = cosines_bb.device();
    let shares_bb = shares(classes, |own, other| own == other)?.f_to_device(device)?;
    let own_bb = Tensor::f_eye(classes.len() as i64, (Kind::Bool, device))?;
    let logs_bb = cosines_bb
        .f_div_scalar(temperature)?
        .f_masked_fill(&own_bb, f64::NEG_INFINITY)?
        .f_log_softmax(1, Kind::Float)?
        .f_masked_fill(&own_bb, 0.0)?;
    Ok(summed(&logs_bb.f_mul(&shares_bb)?)?.f_neg()?)
}

/// `cosine` of each sample, f32 `[b]`, from cosines f32 `[b, b]` and classes [b].
fn by_pairs(cosines_bb: &Tensor, classes: &[u32]) -> Result<Tensor, Error> {
    let device = cosines_bb.device();
    let same_bb = shares(classes, |own, other| own == other)?.f_to_device(device)?;
    let others_bb = shares(classes, |own, other| own != other)?.f_to_device(device)?;
    let together_bb = cosines_bb.f_sub_scalar(1.0)?.f_square()?.f_mul(&same_bb)?;
    let apart_bb = cosines_bb.f_square()?.f_mul(&others_bb)?;
    Ok(summed(&together_bb.f_add(&apart_bb)?)?.f_mul_scalar(0.5)?)
}

/// What makes a row's sum the mean over those of the other samples that are `counted` with it, f32 `[b, b]`; rows
/// with none are 0.
fn shares(classes: &[u32], counted: impl Fn(u32, u32) -> bool) -> Result<Tensor, Error> {
    let rows = classes.len();
    let mut shares = Vec::with_capacity(rows * rows);
    for (i, class) in classes.iter().enumerate() {
        let counts = |j: usize| j != i && counted(*class, classes[j]);
        let count = (0..rows).filter(|&j| counts(j)).count().max(1);
        #[expect(clippy::cast_precision_loss, reason = "samples of a batch")]
        shares.extend((0..rows).map(|j| f32::from(u8::from(counts(j))) / count as f32));
    }
    Ok(Tensor::f_from_slice(&shares)?.f_view([rows as i64, rows as i64])?)
}

fn summed(values_bb: &Tensor) -> Result<Tensor, Error> {
    Ok(values_bb.f_sum_dim_intlist(&[1i64][..], false, Kind::Float)?)
}

//! Positions of keys relative to queries (MPNet; Song et al. 2020, arXiv 2004.09297, with the buckets of
//! Raffel et al. 2020, arXiv 1910.10683): a number for each bucket of distances and each head is added to
//! attention's scores, the same ones in every layer.
//!
//! The numbers are a parameter of the first block and are used in all others. Where the graph is cut between
//! blocks they go along as rows behind those of the batch: so they are there wherever a block runs, and their
//! gradient comes back block by block.
//!
//! Shapes: t rows of the packed batch, r buckets, n heads, h hidden width, b samples, l length, d = h/n.

use super::super::layout::Layout;
use super::super::{Context, Error};
use tch::{Kind, Tensor};

/// Buckets r: half of them for keys before the query, half for those behind.
pub(super) const BUCKETS: i64 = 32;
/// Distances from here on share a bucket.
const FARTHEST: f32 = 128.0;

/// Rows of a batch [t, h] with the buckets' numbers [r, n] behind: [t + r, h].
pub(super) fn append(x_th: &Tensor, bias_rn: &Tensor) -> Result<Tensor, Error> {
    let room = x_th.size()[1] - bias_rn.size()[1];
    let bias_rh = bias_rn.f_constant_pad_nd([0, room])?;
    Ok(Tensor::f_cat(&[x_th, &bias_rh], 0)?)
}

/// The rows of a batch [t, h], and what stands behind them [r, h].
pub(super) fn split(x: &Tensor) -> Result<(Tensor, Tensor), Error> {
    let t = x.size()[0] - BUCKETS;
    Ok((x.f_narrow(0, 0, t)?, x.f_narrow(0, t, BUCKETS)?))
}

/// Attention within each sample, [t, h] from queries, keys and values [t, h] and buckets' numbers [r, n]
/// in the first columns of `bias` [r, h].
pub(super) fn attend(
    [q, k, v]: [&Tensor; 3],
    bias: &Tensor,
    layout: &Layout,
    (heads, rate): (i64, f64),
    (ctx, site): (&Context, u64),
) -> Result<Tensor, Error> {
    let (n, h) = (heads, q.size()[1]);
    let d = h / n;
    let bias_rn = bias.f_narrow(1, 0, n)?;
    let keys = match ctx.train && rate > 0.0 {
        true => layout.attention_keys(n),
        false => Vec::new(),
    };
    let parts = |x: &Tensor| layout.split(x);
    let (q_parts, k_parts, v_parts) = (parts(q)?, parts(k)?, parts(v)?);
    let mut outputs = Vec::with_capacity(layout.groups.len());
    for (place, group) in layout.groups.iter().enumerate() {
        let (b, l) = (group.samples, group.length);
        let by_head = |x: &Tensor| x.f_view([b, l, n, d])?.f_transpose(1, 2);
        let (q, k) = (by_head(&q_parts[place])?, by_head(&k_parts[place])?);
        let v = by_head(&v_parts[place])?;
        let distances: Vec<i64> = (0..l)
            .flat_map(|query| (0..l).map(move |key| bucket(key - query)))
            .collect();
        let distances = Tensor::f_from_slice(&distances)?.f_to_device(q.device())?;
        let bias_nll = bias_rn
            .f_index_select(0, &distances)?
            .f_view([l, l, n])?
            .f_permute([2, 0, 1])?;
        let probs_bnll = q
            .f_matmul(&k.f_transpose(-2, -1)?)?
            .f_mul_scalar(1.0 / (d as f64).sqrt())?
            .f_add(&bias_nll)?
            .f_softmax(-1, Kind::Float)?;
        let probs_bnll = match keys.get(place) {
            Some(keys) => ctx.dropout(probs_bnll, keys, site, rate)?,
            None => probs_bnll,
        };
        let y_blnd = probs_bnll.f_matmul(&v)?.f_transpose(1, 2)?;
        outputs.push(y_blnd.f_reshape([b * l, h])?);
    }
    Ok(Tensor::f_cat(&outputs, 0)?)
}

/// The bucket of a key that stands `distance` behind its query: near ones have one each, farther ones share
/// them by the logarithm.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "32-bit, as in transformers"
)]
fn bucket(distance: i64) -> i64 {
    let half = BUCKETS / 2;
    let near = half / 2;
    let behind = if distance > 0 { half } else { 0 };
    let distance = distance.abs();
    if distance < near {
        return behind + distance;
    }
    let scale = f64::from(FARTHEST / near as f32).ln() as f32;
    let far = (distance as f32 / near as f32).ln() / scale * (half - near) as f32;
    behind + (near + far as i64).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: buckets are those of transformers, for distances of -200 to 200; `tests/golden/backbones.py`
    // made the numbers.
    #[test]
    fn buckets_are_those_of_transformers() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../golden.json")).unwrap();
        let expected: Vec<i64> = serde_json::from_value(golden["buckets"].clone()).unwrap();
        let found: Vec<i64> = (-200..=200).map(bucket).collect();
        assert_eq!(found, expected);
    }
}

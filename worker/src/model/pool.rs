//! From the rows of a packed batch to one vector of each sample.

use super::Error;
use super::hf::Source;
use super::layout::Layout;
use espalier_spec::job::Pooling;
use tch::{Kind, Tensor};

/// Features of each sample in packed order, [b, h], from rows [t, h]. `pooler` is the first row: what
/// its block reads.
///
/// # Errors
/// If libtorch refuses.
pub(super) fn pool(pooling: Pooling, x_th: &Tensor, layout: &Layout) -> Result<Tensor, Error> {
    let h = x_th.size()[1];
    let mut features = Vec::with_capacity(layout.groups.len());
    for (part, group) in layout.split(x_th)?.iter().zip(&layout.groups) {
        let x_blh = part.f_view([group.samples, group.length, h])?;
        features.push(match pooling {
            Pooling::Mean => x_blh.f_mean_dim(&[1i64][..], false, Kind::Float)?,
            Pooling::Cls | Pooling::Pooler => x_blh.f_select(1, 0)?,
            Pooling::Max => x_blh.f_amax(&[1i64][..], false)?,
            Pooling::Last => x_blh.f_select(1, group.length - 1)?,
        });
    }
    Ok(Tensor::f_cat(&features, 0)?)
}

/// Refuses a way of pooling that a backbone does not have; these are those it has.
///
/// # Errors
/// [`Error::Content`] that names both.
pub(super) fn check(source: &Source, pooling: Pooling, has: &[Pooling]) -> Result<(), Error> {
    if has.contains(&pooling) {
        return Ok(());
    }
    let names: Vec<&str> = has.iter().copied().map(name).collect();
    let message = format!(
        "backbone.pooling is {}, but {} has only {}: set it to one it has, or leave it out",
        name(pooling),
        source.model_type(),
        names.join(", ")
    );
    Err(source.wrong("config.json", message))
}

/// As the job file has it.
fn name(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::Mean => "mean",
        Pooling::Cls => "cls",
        Pooling::Max => "max",
        Pooling::Last => "last",
        Pooling::Pooler => "pooler",
    }
}

//! What a method makes of a Gram matrix and losses.

use espalier_balance::{Balancer, Facts, Gradients, Gram, build};
use espalier_spec::balancer::BalancerSpec;
use serde::Serialize;

/// A method's answer.
#[derive(Serialize)]
pub(super) struct Found {
    pub(super) method: &'static str,
    pub(super) class: &'static str,
    /// Of the gradients as given.
    pub(super) weights: Vec<f64>,
    /// √(wᵀGw).
    pub(super) update_norm: f64,
    /// (Gw)_k: the rate at which task k's loss falls.
    pub(super) gains: Vec<f64>,
    /// Why all weights are equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fallback: Option<String>,
}

/// Asks a new balancer for its first step. Errors: why it has no answer.
pub(super) fn solve(spec: &BalancerSpec, gram: &Gram, losses: &[f64]) -> Result<Found, String> {
    let k = gram.k();
    let mut balancer = build(spec, &vec![1.0; k]).map_err(|error| error.to_string())?;
    let tasks: Vec<usize> = (0..k).collect();
    let facts = Facts {
        tasks: &tasks,
        losses,
        gram: Some(gram),
        ..Facts::default()
    };
    let (weights, fallback) = match balancer.needs().gradients {
        Gradients::Losses | Gradients::Gram | Gradients::Representation => {
            ask(balancer.as_mut(), &facts)?
        }
        Gradients::Buffers => buffered(balancer.as_mut(), &facts, gram)?,
        Gradients::Excess | Gradients::Elementwise => {
            return Err("needs the gradients themselves, not only their products".to_owned());
        }
        Gradients::TwoBatches => {
            return Err("needs the products between two batches' gradients".to_owned());
        }
    };
    let info = spec.method.info();
    Ok(Found {
        method: info.name,
        class: info.class.as_str(),
        update_norm: gram.quadratic(&weights).sqrt(),
        gains: gram.times(&weights),
        weights,
        fallback,
    })
}

fn ask(
    balancer: &mut dyn Balancer,
    facts: &Facts<'_>,
) -> Result<(Vec<f64>, Option<String>), String> {
    let answer = balancer.weights(facts).map_err(|error| error.to_string())?;
    let why = answer.fallback.map(|fallback| fallback.to_string());
    Ok((answer.values, why))
}

/// At the first step a buffer is `add` times the gradient.
fn buffered(
    balancer: &mut dyn Balancer,
    facts: &Facts<'_>,
    gram: &Gram,
) -> Result<(Vec<f64>, Option<String>), String> {
    let mixes = match balancer.buffers() {
        Some(buffers) => buffers.mix(facts).map_err(|error| error.to_string())?,
        None => Vec::new(),
    };
    let add: Vec<f64> = mixes
        .iter()
        .map(|mix| mix.map_or(0.0, |mix| mix.add))
        .collect();
    let buffers = gram.scaled(&add);
    let facts = Facts {
        gram: Some(&buffers),
        ..*facts
    };
    let (weights, why) = ask(balancer, &facts)?;
    Ok((weights.iter().zip(&add).map(|(w, a)| w * a).collect(), why))
}

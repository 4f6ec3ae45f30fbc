//! Rotary positions (Su et al. 2021, arXiv 2104.09864): the angles that queries and keys are turned by, plain or for
//! longer texts than a model was first trained on, as `modeling_rope_utils` of transformers has them.

use super::Error;
use super::hf::Source;
use serde::Deserialize;
use serde_json::Value;
use std::f32::consts::TAU;

/// The base of angles where a configuration names none.
const THETA: f64 = 10_000.0;

/// The fields of `config.json` about rotary positions.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Config {
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    /// Where transformers 5 and later keep all that is said of rotary positions.
    rope_parameters: Option<Value>,
    partial_rotary_factor: Option<Value>,
}

/// What becomes of the plain angles.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scaling {
    /// Nothing.
    Plain,
    /// Positions lie closer by a factor (Chen et al. 2023, arXiv 2306.15595).
    Linear { factor: f32 },
    /// Slow turns are slower by a factor, fast ones as they were, those between partly (Llama 3.1; Grattafiori et al.
    /// 2024, arXiv 2407.21783).
    Llama3 {
        factor: f32,
        /// Turns in `positions` up to which a frequency is slow, and from which on it is fast.
        slow: f32,
        fast: f32,
        /// Positions that the model was first trained on.
        positions: f32,
    },
}

/// Angles of one position, f32 [width/2], for heads of `width` numbers. Ways to scale them that are not known here are
/// refused: the angles would be others than the model was trained with, and nothing else would say so.
///
/// # Errors
/// [`Error::Content`] naming the field.
pub(super) fn frequencies(source: &Source, config: &Config, width: i64) -> Result<Vec<f32>, Error> {
    let wrong = |message: String| source.wrong("config.json", message);
    let base = base(config).map_err(wrong)?;
    let scaling = scaling(config).map_err(wrong)?;
    // In 32 bits, as transformers computes them.
    let theta = base as f32;
    let plain = (0..width / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / width as f32));
    Ok(plain.map(|frequency| scaling.of(frequency)).collect())
}

impl Scaling {
    fn of(self, frequency: f32) -> f32 {
        match self {
            Self::Plain => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 {
                factor,
                slow,
                fast,
                positions,
            } => {
                let length = TAU / frequency;
                if length > positions / slow {
                    frequency / factor
                } else if length < positions / fast {
                    frequency
                } else {
                    let share = (positions / length - slow) / (fast - slow);
                    (1.0 - share) * frequency / factor + share * frequency
                }
            }
        }
    }
}

/// What is said of scaling in either place.
fn scaling(config: &Config) -> Result<Scaling, String> {
    let mut said = Scaling::Plain;
    let fields = [
        ("rope_scaling", &config.rope_scaling),
        ("rope_parameters", &config.rope_parameters),
    ];
    for (field, value) in fields {
        let Some(value) = value else { continue };
        let found = scaling_of(field, value)?;
        if said != Scaling::Plain && found != Scaling::Plain && found != said {
            return Err(
                "rope_scaling and rope_parameters ask for different positions: remove the one that the \
                 model was not trained with"
                    .to_owned(),
            );
        }
        if found != Scaling::Plain {
            said = found;
        }
    }
    Ok(said)
}

fn scaling_of(field: &str, value: &Value) -> Result<Scaling, String> {
    let number = |name: &str| -> Result<f32, String> {
        let found = value.get(name).and_then(Value::as_f64);
        let found = found.filter(|number| *number > 0.0 && number.is_finite());
        found.map(|number| number as f32).ok_or_else(|| {
            format!("{field} {value}: {name} is missing or no number above 0; add the model's own")
        })
    };
    let kind = value.get("rope_type").or_else(|| value.get("type"));
    match kind.and_then(Value::as_str) {
        Some("default") => Ok(Scaling::Plain),
        Some("linear") => Ok(Scaling::Linear {
            factor: number("factor")?,
        }),
        Some("llama3") => {
            let (slow, fast) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if slow >= fast {
                return Err(format!(
                    "{field} {value}: expected low_freq_factor below high_freq_factor"
                ));
            }
            Ok(Scaling::Llama3 {
                factor: number("factor")?,
                slow,
                fast,
                positions: number("original_max_position_embeddings")?,
            })
        }
        _ => Err(format!(
            "{field} {value} is not supported, only rope_type \"default\", \"linear\" and \"llama3\""
        )),
    }
}

/// The base of the angles; whole heads are turned.
fn base(config: &Config) -> Result<f64, String> {
    let parameters = config.rope_parameters.as_ref();
    let inner = |name: &str| {
        let value = parameters.and_then(|all| all.get(name));
        value.filter(|value| !value.is_null())
    };
    let factors = [
        config.partial_rotary_factor.as_ref(),
        inner("partial_rotary_factor"),
    ];
    for factor in factors.into_iter().flatten() {
        if factor.as_f64() != Some(1.0) {
            return Err(format!(
                "partial_rotary_factor {factor} is not supported, only 1: whole heads are turned"
            ));
        }
    }
    let base = match (inner("rope_theta"), parameters, config.rope_theta) {
        (Some(value), ..) => value.as_f64(),
        (None, _, Some(beside)) => Some(beside),
        (None, None, None) => Some(THETA),
        (None, Some(_), None) => {
            return Err(
                "rope_parameters names no rope_theta: add the one that the model was trained with"
                    .to_owned(),
            );
        }
    };
    let base = base.filter(|base| *base > 0.0 && base.is_finite());
    base.ok_or_else(|| "rope_theta must be a number above 0, such as 10000".to_owned())
}

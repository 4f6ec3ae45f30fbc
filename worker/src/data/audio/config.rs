//! What `preprocessor_config.json` says of sounds: of spectrograms as they are described here, and of those that the
//! audio spectrogram transformer was trained on.

use super::super::media::fields;
use super::mel::{Edges, Filter, MelScale, bank};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::f64::consts::TAU;

/// `feature_extractor_type` of what is described here, and of the audio spectrogram transformer's. Others in use
/// (Whisper's) differ in details that a pretrained model would notice.
const TYPE: &str = "EspalierLogMel";
const AST: &str = "ASTFeatureExtractor";

/// How a sound becomes a spectrogram.
pub(super) struct Plan {
    pub(super) rate: u32,
    pub(super) frames: usize,
    pub(super) framing: Framing,
    pub(super) filters: Vec<Filter>,
    pub(super) floor: f64,
    pub(super) normalise: Normalise,
    /// What stands in frames behind the end of a sound.
    pub(super) padding: f32,
}

/// How a sound is cut into frames.
pub(super) struct Framing {
    pub(super) window: Vec<f64>,
    pub(super) hop: usize,
    pub(super) n_fft: usize,
    pub(super) how: Cut,
}

/// Which frames there are, and what is done to one before the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The first one is centred on the first sample; the sound is mirrored at both ends.
    Centred,
    /// Those that lie within the sound, each without its mean and with the share 0.97 of the sample before taken off
    /// (Kaldi).
    Within,
}

/// What is taken out of a spectrogram.
#[derive(Clone, Copy, Debug)]
pub(super) enum Normalise {
    None,
    By { mean: f64, std: f64 },
    PerSample,
}

/// Fields of a spectrogram as they are described here.
#[derive(Debug, Deserialize)]
struct Config {
    sampling_rate: u32,
    #[serde(alias = "feature_size")]
    num_mel_bins: usize,
    n_fft: usize,
    win_length: Option<usize>,
    hop_length: usize,
    max_length: Option<usize>,
    #[serde(default)]
    mel_scale: MelScale,
    norm: Option<Norm>,
    #[serde(default)]
    frequency_min: f64,
    frequency_max: Option<f64>,
    #[serde(default = "floor")]
    mel_floor: f64,
    do_normalize: Option<bool>,
    mean: Option<f64>,
    std: Option<f64>,
    #[serde(default)]
    padding_value: f32,
}

fn floor() -> f64 {
    1e-10
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Norm {
    /// Every filter has the same area.
    Slaney,
}

impl Plan {
    /// By a configuration, for a backbone that takes `shape`: 1, mel bins, frames. The error names the field.
    pub(super) fn new(config: &Map<String, Value>, shape: [usize; 3]) -> Result<Self, String> {
        let kind = config.get("feature_extractor_type").and_then(Value::as_str);
        match kind {
            Some(TYPE) => Self::described(&fields(config)?, shape),
            Some(AST) => Self::ast(&fields(config)?, shape),
            found => Err(format!(
                "field feature_extractor_type is {}; expected {TYPE} or {AST}: the features of others are \
                 computed differently",
                found.unwrap_or("missing")
            )),
        }
    }

    fn described(config: &Config, shape: [usize; 3]) -> Result<Self, String> {
        fits(config.num_mel_bins, config.max_length, shape)?;
        let length = config.win_length.unwrap_or(config.n_fft);
        for (name, value, most) in [
            ("n_fft", config.n_fft, 1 << 20),
            ("win_length", length, config.n_fft),
            ("hop_length", config.hop_length, usize::MAX),
            ("sampling_rate", config.sampling_rate as usize, usize::MAX),
        ] {
            if value == 0 || value > most {
                return Err(format!(
                    "field {name} is {value}; expected a number above 0{}",
                    if most == usize::MAX {
                        String::new()
                    } else {
                        format!(", {most} at most")
                    }
                ));
            }
        }
        let half = f64::from(config.sampling_rate) / 2.0;
        let range = config.frequency_min..config.frequency_max.unwrap_or(half);
        if !(range.start >= 0.0 && range.start < range.end && range.end <= half) {
            return Err(format!(
                "frequency_min and frequency_max are {} and {} Hz; expected 0 <= min < max <= {half}",
                range.start, range.end
            ));
        }
        if !(config.mel_floor > 0.0 && config.mel_floor.is_finite()) {
            let floor = config.mel_floor;
            return Err(format!(
                "field mel_floor is {floor}; expected a number above 0"
            ));
        }
        let edges = Edges {
            low: range.start,
            high: range.end,
            rate: config.sampling_rate,
        };
        let bins = config.num_mel_bins;
        let area = config.norm.is_some();
        let filters = bank(bins, config.n_fft, config.mel_scale, &edges, area);
        if let Some(empty) = filters.iter().position(|filter| filter.weights.is_empty()) {
            return Err(format!(
                "mel bin {empty} of {bins} (num_mel_bins) covers no frequency of the spectrum; \
                 expected fewer bins, or a larger n_fft"
            ));
        }
        let normalise = match (config.do_normalize, config.mean, config.std) {
            (Some(false), ..) | (None, None, None) => Normalise::None,
            (_, Some(mean), Some(std)) if std > 0.0 && mean.is_finite() => {
                Normalise::By { mean, std }
            }
            (_, None, None) => Normalise::PerSample,
            _ => {
                return Err(
                    "fields mean and std: expected both, with std above 0, or neither: then each \
                     sample is normalised by its own"
                        .to_owned(),
                );
            }
        };
        Ok(Self {
            rate: config.sampling_rate,
            frames: shape[2],
            framing: Framing {
                window: hann(length, length),
                hop: config.hop_length,
                n_fft: config.n_fft,
                how: Cut::Centred,
            },
            filters,
            floor: config.mel_floor,
            normalise,
            padding: config.padding_value,
        })
    }
}

/// Fields of `ASTFeatureExtractor`, with its defaults.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Ast {
    sampling_rate: u32,
    num_mel_bins: usize,
    max_length: usize,
    do_normalize: bool,
    mean: f64,
    std: f64,
}

impl Default for Ast {
    fn default() -> Self {
        Self {
            sampling_rate: Self::RATE,
            num_mel_bins: 128,
            max_length: 1024,
            do_normalize: true,
            mean: -4.267_739_3,
            std: 4.568_997_4,
        }
    }
}

impl Ast {
    /// Samples a second. A frame has 25 ms, begins 10 ms after the one before, and is filled up to a power of two.
    const RATE: u32 = 16_000;
    const WINDOW: usize = 400;
    const HOP: usize = 160;
    const N_FFT: usize = 512;
    /// In Hz.
    const LOWEST: f64 = 20.0;
}

impl Plan {
    /// The filter banks of Kaldi that the audio spectrogram transformer reads (Gong et al. 2021, arXiv 2104.01778), as
    /// `ASTFeatureExtractor` of transformers computes them. Bins that no frequency of the spectrum falls in are at the
    /// floor there, too; frames behind the end are filled up before mean and deviation are taken out.
    fn ast(config: &Ast, shape: [usize; 3]) -> Result<Self, String> {
        fits(config.num_mel_bins, Some(config.max_length), shape)?;
        if config.sampling_rate != Ast::RATE {
            return Err(format!(
                "field sampling_rate is {}; expected {} where feature_extractor_type is {AST}",
                config.sampling_rate,
                Ast::RATE
            ));
        }
        let (mean, std) = match config.do_normalize {
            true => (config.mean, 2.0 * config.std),
            false => (0.0, 1.0),
        };
        if !(std > 0.0 && std.is_finite() && mean.is_finite()) {
            return Err("fields mean and std: expected numbers, with std above 0".to_owned());
        }
        let edges = Edges {
            low: Ast::LOWEST,
            high: f64::from(Ast::RATE) / 2.0,
            rate: Ast::RATE,
        };
        let bins = config.num_mel_bins;
        #[expect(clippy::cast_possible_truncation, reason = "a feature is an f32")]
        let padding = (-mean / std) as f32;
        Ok(Self {
            rate: Ast::RATE,
            frames: shape[2],
            framing: Framing {
                window: hann(Ast::WINDOW, Ast::WINDOW - 1),
                hop: Ast::HOP,
                n_fft: Ast::N_FFT,
                how: Cut::Within,
            },
            filters: bank(bins, Ast::N_FFT, MelScale::Kaldi, &edges, false),
            floor: f64::from(f32::EPSILON),
            normalise: Normalise::By { mean, std },
            padding,
        })
    }
}

/// Whether bins and frames are those that a backbone takes.
fn fits(num_mel_bins: usize, max_length: Option<usize>, shape: [usize; 3]) -> Result<(), String> {
    let [channels, bins, frames] = shape;
    if channels != 1 || bins != num_mel_bins {
        return Err(format!(
            "field num_mel_bins is {num_mel_bins}, but the backbone takes {channels} x {bins} x {frames} \
             (channels, height, width); expected 1 channel and mel bins as height"
        ));
    }
    match max_length.filter(|&found| found != frames) {
        Some(found) => Err(format!(
            "field max_length is {found} frames, but the width in image_size of config.json is \
             {frames}; make them the same"
        )),
        None => Ok(()),
    }
}

/// A Hann window of `length` samples that comes back to 0 after `period`.
#[expect(clippy::cast_precision_loss, reason = "at most 2^20")]
fn hann(length: usize, period: usize) -> Vec<f64> {
    let at = |index: usize| index as f64 / period as f64;
    (0..length)
        .map(|index| 0.5 - 0.5 * (TAU * at(index)).cos())
        .collect()
}

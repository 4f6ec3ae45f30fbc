//! Sounds: WAV and FLAC to samples, samples to a log-mel spectrogram.
//!
//! Frames of `win_length` samples, `hop_length` apart, the first one centred on the first sample (the
//! sound is mirrored at both ends), times a periodic Hann window, padded with zeros to `n_fft`; squared
//! magnitudes of their Fourier transform; triangular filters that are equally spaced on the mel scale;
//! natural logarithm. Then mean and deviation are taken out, and frames are cut or added at the end.
//! As `spectrogram` and `mel_filter_bank` of `transformers.audio_utils` do it; all in 64 bits.

pub(super) mod flac;

use super::cell::describe_bytes;
use super::media::fields;
use hound::{SampleFormat, WavReader};
use realfft::{RealFftPlanner, RealToComplex};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::f64::consts::TAU;
use std::fmt;
use std::sync::Arc;

/// `feature_extractor_type` of what is computed here. Others in use (Whisper's, AST's) differ in
/// details that a pretrained model would notice.
const TYPE: &str = "EspalierLogMel";

/// Fields of `preprocessor_config.json` for sounds.
#[derive(Debug, Deserialize)]
struct Config {
    feature_extractor_type: Option<String>,
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

/// How frequencies become mels.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MelScale {
    /// 2595 · log10(1 + f / 700).
    #[default]
    Htk,
    /// Linear below 1 kHz, logarithmic above (Slaney's Auditory Toolbox).
    Slaney,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Norm {
    /// Every filter has the same area.
    Slaney,
}

impl MelScale {
    fn mel(self, hertz: f64) -> f64 {
        match self {
            MelScale::Htk => 2595.0 * (1.0 + hertz / 700.0).log10(),
            MelScale::Slaney if hertz < 1000.0 => 3.0 * hertz / 200.0,
            MelScale::Slaney => 15.0 + (hertz / 1000.0).ln() * 27.0 / 6.4_f64.ln(),
        }
    }

    fn hertz(self, mel: f64) -> f64 {
        match self {
            MelScale::Htk => 700.0 * (10.0_f64.powf(mel / 2595.0) - 1.0),
            MelScale::Slaney if mel < 15.0 => 200.0 * mel / 3.0,
            MelScale::Slaney => 1000.0 * (6.4_f64.ln() / 27.0 * (mel - 15.0)).exp(),
        }
    }
}

/// A triangle over some frequencies of a spectrum.
#[derive(Clone, Debug)]
struct Filter {
    first: usize,
    weights: Vec<f64>,
}

/// What is taken out of a spectrogram.
#[derive(Clone, Copy, Debug)]
enum Normalise {
    None,
    By { mean: f64, std: f64 },
    PerSample,
}

/// Computes spectrograms [mel bins, frames].
pub(super) struct AudioReader {
    rate: u32,
    hop: usize,
    frames: usize,
    n_fft: usize,
    window: Vec<f64>,
    filters: Vec<Filter>,
    floor: f64,
    normalise: Normalise,
    padding: f32,
    fft: Arc<dyn RealToComplex<f64>>,
}

impl fmt::Debug for AudioReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AudioReader")
            .field("rate", &self.rate)
            .field("bins", &self.filters.len())
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

impl AudioReader {
    /// As the configuration says, for a backbone that takes `shape`: 1, mel bins, frames. The error
    /// names the field.
    pub(super) fn new(config: &Map<String, Value>, shape: [usize; 3]) -> Result<Self, String> {
        let config: Config = fields(config)?;
        let [channels, bins, frames] = shape;
        if config.feature_extractor_type.as_deref() != Some(TYPE) {
            let found = config
                .feature_extractor_type
                .as_deref()
                .unwrap_or("missing");
            return Err(format!(
                "field feature_extractor_type is {found}; expected {TYPE}: the features of others \
                 are computed differently"
            ));
        }
        if channels != 1 || bins != config.num_mel_bins {
            return Err(format!(
                "field num_mel_bins is {}, but the backbone takes {channels} x {bins} x {frames} \
                 (channels, height, width); expected 1 channel and mel bins as height",
                config.num_mel_bins
            ));
        }
        if let Some(found) = config.max_length.filter(|&found| found != frames) {
            return Err(format!(
                "field max_length is {found} frames, but the width in image_size of config.json is \
                 {frames}; make them the same"
            ));
        }
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
        let (scale, norm) = (config.mel_scale, config.norm);
        let filters = bank(bins, config.n_fft, scale, &edges, norm.is_some());
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
            hop: config.hop_length,
            frames,
            n_fft: config.n_fft,
            window: hann(length),
            filters,
            floor: config.mel_floor,
            normalise,
            padding: config.padding_value,
            fft: RealFftPlanner::new().plan_fft_forward(config.n_fft),
        })
    }

    /// Samples a second.
    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    /// Samples (-1 to 1, the mean over channels) and sample rate of a WAV or FLAC file. The error says
    /// what is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Vec<f32>, u32), String> {
        match bytes.get(..4) {
            Some(b"RIFF") => Self::wav(bytes),
            Some(b"fLaC") => flac::decode(bytes),
            _ => Err(format!(
                "expected a WAV or FLAC sound, found {}",
                describe_bytes(bytes)
            )),
        }
    }

    fn wav(bytes: &[u8]) -> Result<(Vec<f32>, u32), String> {
        let damaged = |error: hound::Error| match error {
            hound::Error::Unsupported => {
                "the WAV is of a kind that is not read; expected PCM of 8, 16, 24 or 32 bits, or \
                 floats of 32"
                    .to_owned()
            }
            other => format!("the WAV is damaged: {other}"),
        };
        let reader = WavReader::new(bytes).map_err(damaged)?;
        let spec = reader.spec();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a float has 24 bits for the highest ones"
        )]
        let samples: Result<Vec<f32>, hound::Error> = match spec.sample_format {
            SampleFormat::Float => reader.into_samples::<f32>().collect(),
            SampleFormat::Int => {
                let full = 2.0_f32.powi(i32::from(spec.bits_per_sample) - 1);
                let samples = reader.into_samples::<i32>();
                samples
                    .map(|sample| sample.map(|sample| sample as f32 / full))
                    .collect()
            }
        };
        let samples = samples.map_err(damaged)?;
        if samples.iter().any(|sample| !sample.is_finite()) {
            return Err("the WAV holds samples that are no finite numbers".to_owned());
        }
        Ok((mono(samples, spec.channels), spec.sample_rate))
    }

    /// The spectrogram [mel bins, frames] of at least one sample, and whether it was longer.
    pub(super) fn features(&self, wave: &[f32]) -> (Vec<f32>, bool) {
        let whole = self.whole_frames(wave.len());
        let kept = whole.min(self.frames);
        let mut logs = self.log_mel(wave, kept);
        let (mean, std) = match self.normalise {
            Normalise::None => (0.0, 1.0),
            Normalise::By { mean, std } => (mean, std),
            Normalise::PerSample => moments(&logs),
        };
        for value in &mut logs {
            *value = (*value - mean) / std;
        }
        let bins = self.filters.len();
        let mut features = vec![self.padding; bins * self.frames];
        #[expect(clippy::cast_possible_truncation, reason = "logarithms are small")]
        for (frame, column) in logs.chunks_exact(bins).enumerate() {
            for (bin, value) in column.iter().enumerate() {
                features[bin * self.frames + frame] = *value as f32;
            }
        }
        (features, whole > self.frames)
    }

    /// Frames of a sound of `samples` samples.
    fn whole_frames(&self, samples: usize) -> usize {
        let window = self.window.len();
        1 + (samples + 2 * (window / 2)).saturating_sub(window) / self.hop
    }

    /// Logarithms of the first `frames` frames, one frame after another.
    fn log_mel(&self, wave: &[f32], frames: usize) -> Vec<f64> {
        let mut frame = vec![0.0; self.n_fft];
        let mut scratch = self.fft.make_scratch_vec();
        let mut spectrum = self.fft.make_output_vec();
        let before = self.window.len() / 2;
        let mut logs = Vec::with_capacity(frames * self.filters.len());
        for index in 0..frames {
            for (place, weight) in self.window.iter().enumerate() {
                let at = mirrored(index * self.hop + place, before, wave.len());
                frame[place] = f64::from(wave[at]) * weight;
            }
            frame[self.window.len()..].fill(0.0);
            let done = self
                .fft
                .process_with_scratch(&mut frame, &mut spectrum, &mut scratch);
            debug_assert!(done.is_ok(), "lengths are those that the plan asked for");
            for filter in &self.filters {
                let part = spectrum.iter().skip(filter.first).zip(&filter.weights);
                let power: f64 = part.map(|(value, weight)| value.norm_sqr() * weight).sum();
                logs.push(power.max(self.floor).ln());
            }
        }
        logs
    }
}

/// The mean over channels, whose samples stand side by side.
fn mono(samples: Vec<f32>, channels: u16) -> Vec<f32> {
    if channels <= 1 {
        return samples;
    }
    let frames = samples.chunks_exact(usize::from(channels));
    frames
        .map(|frame| frame.iter().sum::<f32>() / f32::from(channels))
        .collect()
}

/// Where sample `place - before` of a sound of `length` samples is, mirrored at both ends as often as
/// it takes, without doubling the first and last sample.
fn mirrored(place: usize, before: usize, length: usize) -> usize {
    let period = 2 * length.saturating_sub(1).max(1);
    // The offset is a multiple of the period, so that nothing falls below 0.
    let at = (place + before * (period - 1)) % period;
    if length == 1 { 0 } else { at.min(period - at) }
}

/// The periodic Hann window.
fn hann(length: usize) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "at most 2^20")]
    let at = |index: usize| index as f64 / length as f64;
    (0..length)
        .map(|index| 0.5 - 0.5 * (TAU * at(index)).cos())
        .collect()
}

/// Frequencies of a filter bank, in Hz.
struct Edges {
    low: f64,
    high: f64,
    rate: u32,
}

/// `bins` triangles over the n_fft / 2 + 1 frequencies of a spectrum.
#[expect(clippy::cast_precision_loss, reason = "at most 2^20")]
fn bank(bins: usize, n_fft: usize, scale: MelScale, edges: &Edges, area: bool) -> Vec<Filter> {
    let (low, high) = (scale.mel(edges.low), scale.mel(edges.high));
    let corner = |index: usize| scale.hertz(low + (high - low) * index as f64 / (bins + 1) as f64);
    let filter = |bin: usize| {
        let (left, top, right) = (corner(bin), corner(bin + 1), corner(bin + 2));
        let height = if area { 2.0 / (right - left) } else { 1.0 };
        let weight = |index: usize| {
            let hertz = f64::from(edges.rate) * index as f64 / n_fft as f64;
            let up = (hertz - left) / (top - left);
            let down = (right - hertz) / (right - top);
            (up.min(down) * height).max(0.0)
        };
        let all = 0..=n_fft / 2;
        let first = all.clone().find(|&index| weight(index) > 0.0);
        let first = first.unwrap_or(n_fft);
        let weights = all.skip(first).map(weight).take_while(|w| *w > 0.0);
        Filter {
            first,
            weights: weights.collect(),
        }
    };
    (0..bins).map(filter).collect()
}

/// Mean and deviation; a deviation of 0 counts as 1.
#[expect(clippy::cast_precision_loss, reason = "counts of numbers in memory")]
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
    let std = variance.sqrt();
    (mean, if std > 0.0 { std } else { 1.0 })
}

#[cfg(test)]
mod tests;

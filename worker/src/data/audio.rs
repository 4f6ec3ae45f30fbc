//! Sounds: WAV and FLAC to samples, samples to a log-mel spectrogram.
//!
//! As `preprocessor_config.json` describes it: frames of `win_length` samples, `hop_length` apart, the first one centred on the first sample (the
//! sound is mirrored at both ends), times a periodic Hann window, padded with zeros to `n_fft`; squared
//! magnitudes of their Fourier transform; triangular filters that are equally spaced on the mel scale;
//! natural logarithm. Then mean and deviation are taken out, and frames are cut or added at the end.
//! As `spectrogram` and `mel_filter_bank` of `transformers.audio_utils` do it; all in 64 bits. Or as the audio
//! spectrogram transformer has it: [`config`].

mod config;
pub(super) mod flac;
mod mel;

use super::cell::describe_bytes;
use config::{Cut, Framing, Normalise, Plan};
use hound::{SampleFormat, WavReader};
use realfft::{RealFftPlanner, RealToComplex};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;

/// Computes spectrograms [mel bins, frames].
pub(super) struct AudioReader {
    plan: Plan,
    fft: Arc<dyn RealToComplex<f64>>,
}

impl fmt::Debug for AudioReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AudioReader")
            .field("rate", &self.plan.rate)
            .field("bins", &self.plan.filters.len())
            .field("frames", &self.plan.frames)
            .finish_non_exhaustive()
    }
}

impl AudioReader {
    /// As the configuration says, for a backbone that takes `shape`: 1, mel bins, frames. The error
    /// names the field.
    pub(super) fn new(config: &Map<String, Value>, shape: [usize; 3]) -> Result<Self, String> {
        let plan = Plan::new(config, shape)?;
        let fft = RealFftPlanner::new().plan_fft_forward(plan.framing.n_fft);
        Ok(Self { plan, fft })
    }

    /// Samples a second.
    pub(super) fn rate(&self) -> u32 {
        self.plan.rate
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
        let plan = &self.plan;
        let whole = plan.framing.frames(wave.len());
        let kept = whole.min(plan.frames);
        let mut logs = self.log_mel(wave, kept);
        let (mean, std) = match plan.normalise {
            Normalise::None => (0.0, 1.0),
            Normalise::By { mean, std } => (mean, std),
            Normalise::PerSample => moments(&logs),
        };
        for value in &mut logs {
            *value = (*value - mean) / std;
        }
        let bins = plan.filters.len();
        let mut features = vec![plan.padding; bins * plan.frames];
        #[expect(clippy::cast_possible_truncation, reason = "logarithms are small")]
        for (frame, column) in logs.chunks_exact(bins).enumerate() {
            for (bin, value) in column.iter().enumerate() {
                features[bin * plan.frames + frame] = *value as f32;
            }
        }
        (features, whole > plan.frames)
    }

    /// Logarithms of the first `frames` frames, one frame after another.
    fn log_mel(&self, wave: &[f32], frames: usize) -> Vec<f64> {
        let plan = &self.plan;
        let mut frame = vec![0.0; plan.framing.n_fft];
        let mut scratch = self.fft.make_scratch_vec();
        let mut spectrum = self.fft.make_output_vec();
        let mut logs = Vec::with_capacity(frames * plan.filters.len());
        for index in 0..frames {
            plan.framing.fill(wave, index, &mut frame);
            let done = self
                .fft
                .process_with_scratch(&mut frame, &mut spectrum, &mut scratch);
            debug_assert!(done.is_ok(), "lengths are those that the plan asked for");
            for filter in &plan.filters {
                let part = spectrum.iter().skip(filter.first).zip(&filter.weights);
                let power: f64 = part.map(|(value, weight)| value.norm_sqr() * weight).sum();
                logs.push(power.max(plan.floor).ln());
            }
        }
        logs
    }
}

impl Framing {
    /// Frames of a sound of `samples` samples.
    fn frames(&self, samples: usize) -> usize {
        let window = self.window.len();
        match self.how {
            Cut::Centred => 1 + (samples + 2 * (window / 2)).saturating_sub(window) / self.hop,
            Cut::Within if samples < window => 0,
            Cut::Within => 1 + (samples - window) / self.hop,
        }
    }

    /// Writes frame `index` of a sound, as the Fourier transform takes it.
    fn fill(&self, wave: &[f32], index: usize, frame: &mut [f64]) {
        let (own, rest) = frame.split_at_mut(self.window.len());
        match self.how {
            Cut::Centred => {
                let before = self.window.len() / 2;
                for (place, number) in own.iter_mut().enumerate() {
                    let at = mirrored(index * self.hop + place, before, wave.len());
                    *number = f64::from(wave[at]);
                }
            }
            Cut::Within => {
                let wave = &wave[index * self.hop..][..own.len()];
                for (number, sample) in own.iter_mut().zip(wave) {
                    *number = f64::from(*sample);
                }
                emphasise(own);
            }
        }
        for (number, weight) in own.iter_mut().zip(&self.window) {
            *number *= weight;
        }
        rest.fill(0.0);
    }
}

/// Takes the mean out of a frame, and from each sample a share of the one before; the first counts as its own.
fn emphasise(frame: &mut [f64]) {
    const SHARE: f64 = 0.97;
    #[expect(clippy::cast_precision_loss, reason = "lengths of windows")]
    let mean = frame.iter().sum::<f64>() / frame.len() as f64;
    let mut before = frame.first().map_or(0.0, |first| first - mean);
    for number in frame {
        let own = *number - mean;
        *number = own - SHARE * before;
        before = own;
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

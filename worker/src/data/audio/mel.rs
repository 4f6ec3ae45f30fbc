//! Mel scales and banks of triangular filters, as `mel_filter_bank` of `transformers.audio_utils` makes them.

use serde::Deserialize;

/// How frequencies become mels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MelScale {
    /// 2595 · log10(1 + f / 700).
    #[default]
    Htk,
    /// Linear below 1 kHz, logarithmic above (Slaney's Auditory Toolbox).
    Slaney,
    /// 1127 · ln(1 + f / 700), with triangles whose sides are straight over mels, not over frequencies (Kaldi).
    #[serde(skip)]
    Kaldi,
}

impl MelScale {
    fn mel(self, hertz: f64) -> f64 {
        match self {
            MelScale::Htk => 2595.0 * (1.0 + hertz / 700.0).log10(),
            MelScale::Slaney if hertz < 1000.0 => 3.0 * hertz / 200.0,
            MelScale::Slaney => 15.0 + (hertz / 1000.0).ln() * 27.0 / 6.4_f64.ln(),
            MelScale::Kaldi => 1127.0 * (1.0 + hertz / 700.0).ln(),
        }
    }

    fn hertz(self, mel: f64) -> f64 {
        match self {
            MelScale::Htk => 700.0 * (10.0_f64.powf(mel / 2595.0) - 1.0),
            MelScale::Slaney if mel < 15.0 => 200.0 * mel / 3.0,
            MelScale::Slaney => 1000.0 * (6.4_f64.ln() / 27.0 * (mel - 15.0)).exp(),
            MelScale::Kaldi => 700.0 * ((mel / 1127.0).exp() - 1.0),
        }
    }
}

/// A triangle over some frequencies of a spectrum.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub(super) first: usize,
    pub(super) weights: Vec<f64>,
}

/// Frequencies of a filter bank, in Hz.
pub(super) struct Edges {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) rate: u32,
}

/// `bins` triangles over the n_fft / 2 + 1 frequencies of a spectrum, each of the same height or, with `area`, area.
#[expect(clippy::cast_precision_loss, reason = "at most 2^20")]
pub(super) fn bank(
    bins: usize,
    n_fft: usize,
    scale: MelScale,
    edges: &Edges,
    area: bool,
) -> Vec<Filter> {
    let (low, high) = (scale.mel(edges.low), scale.mel(edges.high));
    let over_mels = scale == MelScale::Kaldi;
    let corner = |index: usize| {
        let mel = low + (high - low) * index as f64 / (bins + 1) as f64;
        if over_mels { mel } else { scale.hertz(mel) }
    };
    let filter = |bin: usize| {
        let (left, top, right) = (corner(bin), corner(bin + 1), corner(bin + 2));
        let height = if area { 2.0 / (right - left) } else { 1.0 };
        let weight = |index: usize| {
            let hertz = f64::from(edges.rate) * index as f64 / n_fft as f64;
            let place = if over_mels { scale.mel(hertz) } else { hertz };
            let up = (place - left) / (top - left);
            let down = (right - place) / (right - top);
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

use super::*;
use hound::{WavSpec, WavWriter};
use serde_json::json;
use std::io::Cursor;

/// A WAV file of samples, channels side by side.
fn wav(spec: WavSpec, write: impl Fn(&mut WavWriter<&mut Cursor<Vec<u8>>>)) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = WavWriter::new(&mut bytes, spec).unwrap();
    write(&mut writer);
    writer.finalize().unwrap();
    bytes.into_inner()
}

fn spec(bits_per_sample: u16, channels: u16, sample_format: SampleFormat) -> WavSpec {
    WavSpec {
        channels,
        sample_rate: 8000,
        bits_per_sample,
        sample_format,
    }
}

fn config(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// Filters and spectrograms are those of `transformers.audio_utils`, in both mel scales, cut, padded
/// and normalised.
#[test]
fn agrees_with_golden_numbers() {
    let golden: Value = serde_json::from_str(include_str!("../golden.json")).unwrap();
    for (index, case) in golden["sounds"].as_array().unwrap().iter().enumerate() {
        let numbers = |field: &str| serde_json::from_value::<Vec<Vec<f64>>>(case[field].clone());
        let (filters, features) = (numbers("filters").unwrap(), numbers("features").unwrap());
        let frames = case["frames"].as_u64().unwrap() as usize;
        let shape = [1, filters.len(), frames];
        let reader = AudioReader::new(&config(case["config"].clone()), shape).unwrap();
        for (bin, (ours, theirs)) in reader.plan.filters.iter().zip(&filters).enumerate() {
            for (place, theirs) in theirs.iter().enumerate() {
                let ours = place
                    .checked_sub(ours.first)
                    .and_then(|at| ours.weights.get(at))
                    .unwrap_or(&0.0);
                assert!(
                    (ours - theirs).abs() < 1e-8,
                    "case {index}, bin {bin}: {place}"
                );
            }
        }
        let pcm: Vec<f32> = serde_json::from_value(case["pcm"].clone()).unwrap();
        let wave: Vec<f32> = pcm.iter().map(|sample| sample / 32768.0).collect();
        let (ours, cut) = reader.features(&wave);
        assert_eq!(cut, case["cut"].as_bool().unwrap(), "case {index}");
        let theirs: Vec<f64> = features.concat();
        assert_eq!(ours.len(), theirs.len());
        for (place, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let difference = (f64::from(*ours) - theirs).abs();
            assert!(difference < 1e-5, "case {index}, {place}: {ours} {theirs}");
        }
    }
}

/// Every kind of PCM gives the same samples; channels are averaged.
#[test]
fn reads_wav() {
    for bits in [8, 16, 24, 32] {
        let bytes = wav(spec(bits, 1, SampleFormat::Int), |writer| {
            for eighths in [4, -8, 0, 7] {
                writer.write_sample(eighths << (bits - 4)).unwrap();
            }
        });
        let (samples, rate) = AudioReader::decode(&bytes).unwrap();
        assert_eq!(
            (samples, rate),
            (vec![0.5, -1.0, 0.0, 0.875], 8000),
            "{bits}"
        );
    }
    let bytes = wav(spec(32, 2, SampleFormat::Float), |writer| {
        for sample in [0.5_f32, 0.25, -1.0, 0.0] {
            writer.write_sample(sample).unwrap();
        }
    });
    assert_eq!(AudioReader::decode(&bytes).unwrap().0, [0.375, -0.5]);
}

/// What is no sound, or not all of one, is refused and said to be so.
#[test]
fn refuses_what_is_no_sound() {
    let whole = wav(spec(16, 1, SampleFormat::Int), |writer| {
        (0..100_i16).for_each(|sample| writer.write_sample(sample).unwrap());
    });
    let nan = wav(spec(32, 1, SampleFormat::Float), |writer| {
        writer.write_sample(f32::NAN).unwrap();
    });
    for (bytes, said) in [
        (&whole[..whole.len() - 60], "the WAV is damaged: "),
        (&whole[..20], "the WAV is damaged: "),
        (
            &b"\x89PNG\r\n"[..],
            "expected a WAV or FLAC sound, found the bytes of a PNG image",
        ),
        (
            b"OggS....",
            "expected a WAV or FLAC sound, found the bytes of an Ogg sound",
        ),
        (&nan, "the WAV holds samples that are no finite numbers"),
    ] {
        let found = AudioReader::decode(bytes).unwrap_err();
        assert!(found.starts_with(said), "{found}");
    }
}

/// A configuration that cannot be done, or does not fit the backbone, names its field.
#[test]
fn refuses_configurations() {
    let good = json!({
        "feature_extractor_type": "EspalierLogMel", "sampling_rate": 8000, "num_mel_bins": 8,
        "n_fft": 128, "hop_length": 64
    });
    assert!(AudioReader::new(&config(good.clone()), [1, 8, 4]).is_ok());
    for (field, value, said) in [
        (
            "feature_extractor_type",
            json!("WhisperFeatureExtractor"),
            "expected EspalierLogMel or ASTFeatureExtractor",
        ),
        (
            "num_mel_bins",
            json!(9),
            "field num_mel_bins is 9, but the backbone takes 1 x 8 x 4",
        ),
        (
            "max_length",
            json!(5),
            "field max_length is 5 frames, but the width",
        ),
        (
            "hop_length",
            json!(0),
            "field hop_length is 0; expected a number above 0",
        ),
        (
            "win_length",
            json!(129),
            "field win_length is 129; expected a number above 0, 128 at most",
        ),
        ("n_fft", json!("x"), "field n_fft: invalid type"),
        (
            "frequency_max",
            json!(4001),
            "expected 0 <= min < max <= 4000",
        ),
        (
            "frequency_max",
            json!(20),
            "mel bin 0 of 8 (num_mel_bins) covers no frequency",
        ),
        ("mean", json!(1.0), "fields mean and std: expected both"),
        (
            "mel_scale",
            json!("bark"),
            "field mel_scale: unknown variant `bark`",
        ),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let found = AudioReader::new(&config(bad), [1, 8, 4]).unwrap_err();
        assert!(found.contains(said), "{field}: {found}");
    }
}

/// Spectrograms of the audio spectrogram transformer are those of `ASTFeatureExtractor`, cut and filled up.
#[test]
fn agrees_with_the_extractor_of_ast() {
    let golden: Value = serde_json::from_str(include_str!("../golden.json")).unwrap();
    for (index, case) in golden["sounds_of_ast"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let theirs: Vec<Vec<f64>> = serde_json::from_value(case["features"].clone()).unwrap();
        let frames = case["frames"].as_u64().unwrap() as usize;
        let fields = config(case["config"].clone());
        let reader = AudioReader::new(&fields, [1, theirs.len(), frames]).unwrap();
        let pcm: Vec<f32> = serde_json::from_value(case["pcm"].clone()).unwrap();
        let wave: Vec<f32> = pcm.iter().map(|sample| sample / 32768.0).collect();
        let (ours, cut) = reader.features(&wave);
        assert_eq!(cut, case["cut"].as_bool().unwrap(), "case {index}");
        let theirs = theirs.concat();
        assert_eq!(ours.len(), theirs.len());
        for (place, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let difference = (f64::from(*ours) - theirs).abs();
            assert!(difference < 1e-4, "case {index}, {place}: {ours} {theirs}");
        }
    }
}

/// The configuration that transformers writes for the audio spectrogram transformer is taken as it is; what differs from
/// what it can mean names its field.
#[test]
fn refuses_other_sounds_of_ast() {
    let good = json!({
        "do_normalize": true, "feature_extractor_type": "ASTFeatureExtractor", "feature_size": 1, "max_length": 4,
        "mean": -4.2677393, "num_mel_bins": 8, "padding_side": "right", "padding_value": 0.0,
        "return_attention_mask": false, "sampling_rate": 16000, "std": 4.5689974
    });
    let reader = AudioReader::new(&config(good.clone()), [1, 8, 4]).unwrap();
    assert_eq!(reader.rate(), 16000);
    // Too short for a frame: all of it is filled up.
    let (features, cut) = reader.features(&[0.5; 399]);
    assert!(
        !cut && features
            .iter()
            .all(|value| (value - 0.467_031_9).abs() < 1e-6)
    );
    for (field, value, said) in [
        (
            "sampling_rate",
            json!(8000),
            "field sampling_rate is 8000; expected 16000",
        ),
        (
            "max_length",
            json!(1024),
            "field max_length is 1024 frames, but the width",
        ),
        (
            "num_mel_bins",
            json!(128),
            "field num_mel_bins is 128, but the backbone takes 1 x 8 x 4",
        ),
        ("std", json!(0), "with std above 0"),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let found = AudioReader::new(&config(bad), [1, 8, 4]).unwrap_err();
        assert!(found.contains(said), "{field}: {found}");
    }
}

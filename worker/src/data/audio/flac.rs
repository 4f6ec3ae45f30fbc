//! FLAC to samples.

use claxon::FlacReader;

/// Most samples of a sound, hours of it: some bytes may stand for 65536 samples of silence, so that a
/// small file may be more than fits into memory.
const MOST: u64 = 1 << 28;

/// Samples (-1 to 1, the mean over channels) and sample rate of a FLAC file. Every frame's checksum and
/// channels and the count of samples are checked. The error says what is wrong.
pub(super) fn decode(bytes: &[u8]) -> Result<(Vec<f32>, u32), String> {
    decode_within(bytes, MOST)
}

/// The same of a file of at most `most` samples.
fn decode_within(bytes: &[u8], most: u64) -> Result<(Vec<f32>, u32), String> {
    let damaged = |error: claxon::Error| match error {
        claxon::Error::Unsupported(what) => {
            format!("the FLAC is of a kind that is not read: {what}")
        }
        other => format!("the FLAC is damaged: {other}"),
    };
    let mut reader = FlacReader::new(bytes).map_err(damaged)?;
    let info = reader.streaminfo();
    let bits = info.bits_per_sample.clamp(1, 32);
    let full = 2.0_f32.powi(bits as i32 - 1);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a float has 24 bits for the highest ones"
    )]
    let scaled = |sample: i32| sample as f32 / full;
    let channels = u16::try_from(info.channels).unwrap_or(1).max(1);
    let mut samples: Vec<f32> = Vec::new();
    let mut frames = reader.blocks();
    let mut buffer = Vec::new();
    while let Some(frame) = frames.read_next_or_eof(buffer).map_err(damaged)? {
        if frame.channels() != info.channels {
            return Err(format!(
                "the FLAC is damaged: a frame has {} channels, its header says {}",
                frame.channels(),
                info.channels
            ));
        }
        let found = samples.len() as u64 + u64::from(frame.duration());
        if let Some(expected) = info.samples.filter(|&expected| found > expected) {
            return Err(format!(
                "the FLAC is damaged: {found} samples or more, its header says {expected}"
            ));
        }
        if found > most {
            return Err(format!(
                "the FLAC has {found} samples or more, expected {most} at most: cut it into parts"
            ));
        }
        for place in 0..frame.duration() {
            let own = (0..info.channels).map(|channel| scaled(frame.sample(channel, place)));
            samples.push(own.sum::<f32>() / f32::from(channels));
        }
        buffer = frame.into_buffer();
    }
    // A file that was cut between two frames reads like a shorter one.
    let found = samples.len() as u64;
    if let Some(expected) = info.samples.filter(|&expected| expected != found) {
        return Err(format!(
            "the FLAC is damaged: {found} samples, its header says {expected}"
        ));
    }
    Ok((samples, info.sample_rate))
}

/// A FLAC file of 16-bit samples, channels side by side, at least 16 of each: frames of at most
/// 4096, all verbatim (RFC 9639).
#[cfg(test)]
pub(in crate::data) fn encoded(rate: u32, channels: u8, samples: &[i16]) -> Vec<u8> {
    const MOST: usize = 4096;
    let count = samples.len() / usize::from(channels);
    let mut bytes = b"fLaC".to_vec();
    // The last and only block of metadata: STREAMINFO, 34 bytes.
    bytes.extend([0x80, 0, 0, 34]);
    let block = (MOST as u16).to_be_bytes();
    bytes.extend([block, block].concat());
    // Sizes of frames are unknown.
    bytes.extend([0; 6]);
    let shape = (u64::from(rate) << 44) | (u64::from(channels - 1) << 41) | (15 << 36);
    let packed = shape | count as u64;
    bytes.extend(packed.to_be_bytes());
    // So is the digest.
    bytes.extend([0; 16]);
    for (number, block) in samples.chunks(MOST * usize::from(channels)).enumerate() {
        let length = block.len() / usize::from(channels);
        let mut frame = vec![0xff, 0xf8, 0x70, ((channels - 1) << 4) | 0x08, number as u8];
        frame.extend((length as u16 - 1).to_be_bytes());
        frame.push(checksum(&frame, 8, 0x07) as u8);
        for channel in 0..usize::from(channels) {
            frame.push(0x02);
            let own = block.iter().skip(channel).step_by(usize::from(channels));
            frame.extend(own.flat_map(|sample| sample.to_be_bytes()));
        }
        frame.extend(checksum(&frame, 16, 0x8005).to_be_bytes());
        bytes.extend(frame);
    }
    bytes
}

/// The cyclic redundancy check of so many bits, highest bit first, beginning with 0.
#[cfg(test)]
fn checksum(bytes: &[u8], bits: u32, polynomial: u16) -> u16 {
    let (top, mask) = (1_u32 << (bits - 1), (1_u32 << bits) - 1);
    let sum = bytes.iter().fold(0_u32, |sum, &byte| {
        let mixed = sum ^ (u32::from(byte) << (bits - 8));
        (0..8).fold(mixed, |sum, _| {
            let shifted = sum << 1;
            let reduced = shifted ^ u32::from(polynomial);
            mask & if sum & top == 0 { shifted } else { reduced }
        })
    });
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: samples come back as they were, over several frames; channels are averaged.
    #[test]
    fn reads_flac() {
        let ramp: Vec<i16> = (0..5000_i32)
            .map(|place| ((place * 13 % 4096) << 3) as i16)
            .collect();
        let (samples, rate) = decode(&encoded(16_000, 1, &ramp)).unwrap();
        let expected: Vec<f32> = ramp.iter().map(|s| f32::from(*s) / 32_768.0).collect();
        assert_eq!((samples, rate), (expected, 16_000));
        let both = [16_384, -32_768].repeat(20);
        let (samples, rate) = decode(&encoded(8000, 2, &both)).unwrap();
        assert_eq!((samples, rate), (vec![-0.25; 20], 8000));
    }

    /// Promise: what is not all of a FLAC, or changed on its way, is refused and said to be so.
    #[test]
    fn refuses_damaged_flac() {
        let whole = encoded(8000, 1, &[7; 5000]);
        let mut changed = whole.clone();
        changed[3000] ^= 1;
        // The first frame alone: 42 bytes of metadata, 4096 samples, their header and checksum.
        let one_frame = &whole[..42 + 8 + 1 + 2 * 4096 + 2];
        for (bytes, said) in [
            (&whole[..20], "the FLAC is damaged: "),
            (&whole[..whole.len() - 5], "the FLAC is damaged: "),
            (&changed[..], "the FLAC is damaged: "),
            (
                one_frame,
                "the FLAC is damaged: 4096 samples, its header says 5000",
            ),
        ] {
            let found = decode(bytes).unwrap_err();
            assert!(found.starts_with(said), "{found}");
        }
    }

    /// Promise: a file is given up where it has more than it says, or than a sound may have, before all of
    /// it is in memory; channels do not change on the way.
    #[test]
    fn refuses_more_than_there_may_be() {
        let said = |bytes: &[u8], most| decode_within(bytes, most).unwrap_err();
        let whole = encoded(8000, 1, &[7; 9000]);
        let of_count = |count: u16| {
            let mut bytes = whole.clone();
            bytes[24..26].copy_from_slice(&count.to_be_bytes());
            bytes
        };
        assert_eq!(
            said(&of_count(4000), MOST),
            "the FLAC is damaged: 4096 samples or more, its header says 4000"
        );
        // Of a count of 0 nothing is known.
        assert_eq!(decode(&of_count(0)).unwrap().0.len(), 9000);
        assert!(said(&of_count(0), 8191).contains("8192 samples or more, expected 8191 at most"));
        let mut mixed = encoded(8000, 1, &[7; 40]);
        mixed.extend(&encoded(8000, 2, &[7; 40])[42..]);
        assert_eq!(
            said(&mixed, MOST),
            "the FLAC is damaged: a frame has 2 channels, its header says 1"
        );
    }
}

//! Dropout masks made where they are used, by the arithmetic of [`crate::torch::dropout_mask`]: the same bits on every
//! device.

use super::context::mix;
use crate::torch;
use tch::{Device, Kind, TchError, Tensor};

/// A mask f32 [rows, width]: 1/(1-p) with probability 1-p, else 0. Each number is a function of (key, its row's key, its
/// column) alone.
///
/// # Errors
/// If memory cannot be had.
pub(super) fn on(
    device: Device,
    row_keys: &[u64],
    width: usize,
    (key, p): (u64, f64),
) -> Result<Tensor, TchError> {
    let rows: Vec<u64> = row_keys.iter().map(|row| finish(key ^ mix(*row))).collect();
    let low = rows.iter().map(|row| (*row as u32).cast_signed());
    let high = rows.iter().map(|row| ((row >> 32) as u32).cast_signed());
    let halves: Vec<i32> = low.chain(high).collect();
    let halves = Tensor::f_from_slice(&halves)?.f_view([2, -1, 1])?;
    let halves = torch::sent(&halves, device)?;
    let (low_r1, high_r1) = (halves.f_select(0, 0)?, halves.f_select(0, 1)?);
    let places_w = Tensor::f_arange(width as i64, (Kind::Int, device))?;
    let mut mixed_rw = mix_32(places_w.f_add(&low_r1)?)?;
    let mixed_rw = mixed_rw.f_bitwise_xor_tensor_(&high_r1)?;
    let mut mixed_rw = mix_32(mixed_rw)?;
    // Numbers without a sign are in the order of those with one, whose highest bit is the other way round.
    let threshold = (p * 4_294_967_296.0).min(4_294_967_295.0) as u32;
    let threshold = (threshold ^ SIGN).cast_signed();
    let mixed_rw = mixed_rw.f_bitwise_xor_(i64::from(SIGN.cast_signed()))?;
    let kept_rw = mixed_rw.f_ge(i64::from(threshold))?;
    let keep = (1.0 / (1.0 - p)) as f32;
    kept_rw
        .f_to_kind(Kind::Float)?
        .f_mul_scalar_(f64::from(keep))
}

const SIGN: u32 = 1 << 31;

/// The finalizer of splitmix64 (Steele, Lea and Flood 2014) by itself.
fn finish(x: u64) -> u64 {
    mix(x.wrapping_sub(0x9e37_79b9_7f4a_7c15))
}

/// Mixes 32-bit numbers in place (lowbias32). Products wrap as those of numbers without a sign do; a shift to the right
/// brings copies of the sign, which are cut off.
fn mix_32(mut x: Tensor) -> Result<Tensor, TchError> {
    const FACTORS: [u32; 2] = [0x7feb_352d, 0x846c_a68b];
    for (shift, factor) in [(16, Some(FACTORS[0])), (15, Some(FACTORS[1])), (16, None)] {
        let mut high = x.f_bitwise_right_shift_tensor_scalar(shift)?;
        let high = high.f_bitwise_and_((1i64 << (32 - shift)) - 1)?;
        x = x.f_bitwise_xor_tensor_(&high)?;
        if let Some(factor) = factor {
            x = x.f_mul_scalar_(i64::from(factor.cast_signed()))?;
        }
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise: a mask is the same to the bit, whatever device made it.
    #[test]
    fn masks_are_the_same_on_all_devices() {
        let keys: Vec<u64> = (0..300).map(|row| mix(row ^ 0xfeed)).collect();
        for (width, key, p) in [(1, 0, 0.1), (77, 12345, 0.5), (768, u64::MAX, 0.013)] {
            let here = torch::dropout_mask(&keys, width, key, p).unwrap();
            let there = on(Device::Cpu, &keys, width, (key, p)).unwrap();
            assert!(here.equal(&there), "width {width}, rate {p}");
        }
    }
}

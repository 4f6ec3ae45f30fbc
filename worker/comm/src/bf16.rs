//! The 16-bit float that gradients travel in when half the bytes are worth more than the last bits.

/// The upper half of an `f32`: 8 bits of exponent, 7 of mantissa. Plain bits, no arithmetic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(u16);

impl Bf16 {
    /// The nearest one, ties to even; NaN stays NaN.
    pub fn from_f32(value: f32) -> Bf16 {
        let bits = value.to_bits();
        if value.is_nan() {
            // Quiet, so that cutting off the low half can't make an infinity of it.
            return Bf16((bits >> 16) as u16 | 0x0040);
        }
        // Rounds up by carry: half of the last kept bit, minus one where that bit is even.
        let half = 0x7fff + ((bits >> 16) & 1);
        Bf16((bits.wrapping_add(half) >> 16) as u16)
    }

    /// The same value as an `f32`; exact.
    pub fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }

    /// From its bits.
    pub const fn from_bits(bits: u16) -> Bf16 {
        Bf16(bits)
    }

    /// Its bits.
    pub const fn to_bits(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversion_rounds_to_nearest_even() {
        // Promise: every bf16 survives the way to f32 and back; others go to the nearest, ties to even.
        for bits in 0..=u16::MAX {
            let value = Bf16::from_bits(bits);
            let back = Bf16::from_f32(value.to_f32());
            assert!(back == value || value.to_f32().is_nan() && back.to_f32().is_nan());
        }
        let near = |bits: u32| Bf16::from_f32(f32::from_bits(bits)).to_bits();
        assert_eq!(near(0x3f80_7fff), 0x3f80);
        assert_eq!(near(0x3f80_8000), 0x3f80, "a tie, down to even");
        assert_eq!(near(0x3f81_8000), 0x3f82, "a tie, up to even");
        assert_eq!(near(0x3f80_8001), 0x3f81);
        assert_eq!(
            near(0x7f7f_ffff),
            0x7f80,
            "the largest f32 is infinite here"
        );
    }
}

//! Copies to memory that is not read again soon.
#![allow(unsafe_code)]

/// Copies past the caches, where the processor can: the target is not fetched before it is
/// overwritten, and what else is in the caches stays there.
///
/// # Panics
///
/// If the lengths differ.
pub(crate) fn copy(to: &mut [u8], from: &[u8]) {
    assert_eq!(to.len(), from.len(), "both sides of a copy have one length");
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        let (head, lines, tail) = {
            // SAFETY: any bits are a valid __m128i, as they are four valid blocks of bytes.
            let (head, lines, tail) = unsafe { to.align_to_mut::<[__m128i; 4]>() };
            (head, lines, tail)
        };
        let (first, rest) = from.split_at(head.len());
        let (middle, last) = rest.split_at(rest.len() - tail.len());
        head.copy_from_slice(first);
        tail.copy_from_slice(last);
        for (line, bytes) in lines.iter_mut().zip(middle.as_chunks::<64>().0) {
            let bytes: *const __m128i = bytes.as_ptr().cast();
            for (i, word) in line.iter_mut().enumerate() {
                // SAFETY: SSE2 is part of x86_64; `word` is aligned by its type; 16 bytes from
                // `bytes + i` are inside the 64 of this chunk, and the load asks for no alignment.
                unsafe { _mm_stream_si128(word, _mm_loadu_si128(bytes.add(i))) };
            }
        }
        // SAFETY: a fence has no preconditions. Streaming stores are not ordered by the atomics
        // that tell other threads that the bytes are there: the fence does it.
        unsafe { _mm_sfence() };
    }
    #[cfg(not(target_arch = "x86_64"))]
    to.copy_from_slice(from);
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_byte_arrives_whatever_the_alignment() {
        // Promise: streaming is a copy, at any offset and of any length.
        let from: Vec<u8> = (0..1000u32).map(|i| (i * 31 % 251) as u8).collect();
        for offset in 0..70 {
            for len in [0, 1, 15, 16, 63, 64, 65, 200, 900] {
                let mut to = vec![7u8; 1000];
                super::copy(&mut to[offset..offset + len], &from[3..3 + len]);
                assert_eq!(to[offset..offset + len], from[3..3 + len]);
                assert!(
                    to[..offset]
                        .iter()
                        .chain(&to[offset + len..])
                        .all(|&b| b == 7)
                );
            }
        }
    }
}

//! Distance kernels: the only code of this crate that names CPU instructions.
//!
//! The instruction set is chosen once at run time. Integer kernels give the same number on every path, float kernels
//! agree within rounding; the tests below run every path this CPU has against the portable one.
//!
//! **Seven-bit codes.** `maddubs` multiplies unsigned by signed bytes and adds neighbouring products in 16 bits with
//! saturation. Codes use 0..=127 only, so a pair sums to at most 2 · 127 · 127 = 32,258 and never saturates: the loop
//! is load, `maddubs`, `madd`, add. AVX-512 VNNI does it in one instruction, NEON in two.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

/// Code vectors are padded to a multiple of this many bytes, so that integer kernels have no tail.
pub(crate) const CODE_BLOCK: usize = 32;
/// Bits of a query that is compared with one-bit codes: each makes a plane of bits.
pub(crate) const PLANES: usize = 4;

/// An instruction set this crate has kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust.
    Portable,
    /// AVX2 with FMA and POPCNT.
    Avx2,
    /// As AVX2, and AVX-512 VNNI for codes.
    Avx512Vnni,
    /// NEON (always there on 64-bit Arm).
    Neon,
}

impl Isa {
    /// The best instruction set of this CPU, found once.
    pub fn detected() -> Isa {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(|| *Isa::available().last().expect("portable code runs everywhere"))
    }

    /// Every instruction set this CPU can run, the best last.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut, reason = "stays as it is where there is no vector unit")]
        let mut found = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("popcnt") {
            found.push(Isa::Avx2);
            let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            if wide && is_x86_feature_detected!("avx512vnni") {
                found.push(Isa::Avx512Vnni);
            }
        }
        #[cfg(target_arch = "aarch64")]
        found.push(Isa::Neon);
        found
    }
}

/// Picks the kernel for `isa`. Each arm is sound because `Isa::available` is the only source of the non-portable
/// values, and it checked the CPU.
macro_rules! dispatch {
    ($isa:expr, $name:ident ( $($arg:expr),* ), avx512 = $avx512:ident) => {
        match $isa {
            // SAFETY: `Isa::available` saw avx512f, avx512bw, avx512vnni, avx2, fma and popcnt.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => unsafe { x86::$avx512($($arg),*) },
            // SAFETY: `Isa::available` saw avx2, fma and popcnt.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::$name($($arg),*) },
            // SAFETY: NEON is part of the aarch64 base architecture.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { neon::$name($($arg),*) },
            _ => portable::$name($($arg),*),
        }
    };
}

/// Σ code · query. Both have the same length, a multiple of [`CODE_BLOCK`]; codes are at most 127.
#[inline]
pub(crate) fn dot_u7(isa: Isa, codes: &[u8], query: &[i8]) -> i32 {
    assert!(codes.len() == query.len() && codes.len().is_multiple_of(CODE_BLOCK));
    dispatch!(isa, dot_u7(codes, query), avx512 = dot_u7_vnni)
}

/// Σ bit · query, the query as [`PLANES`] planes of as many words, in two's complement.
#[inline]
pub(crate) fn dot_bits(isa: Isa, bits: &[u64], planes: &[u64]) -> i32 {
    assert_eq!(bits.len() * PLANES, planes.len());
    dispatch!(isa, dot_bits(bits, planes), avx512 = dot_bits)
}

/// Inner product of two f32 vectors of the same length.
#[inline]
pub(crate) fn dot_f32(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    dispatch!(isa, dot_f32(a, b), avx512 = dot_f32)
}

/// Squared Euclidean distance of two f32 vectors of the same length.
#[inline]
pub(crate) fn l2_f32(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    dispatch!(isa, l2_f32(a, b), avx512 = l2_f32)
}

/// Inner product of two f32 vectors of the same length, summed in f64: the same on every instruction set up to the last
/// bits of an f64, however much the terms cancel.
#[inline]
pub(crate) fn dot_f64(isa: Isa, a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    dispatch!(isa, dot_f64(a, b), avx512 = dot_f64)
}

/// Squared Euclidean distance of two f32 vectors of the same length, summed in f64.
#[inline]
pub(crate) fn l2_f64(isa: Isa, a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    dispatch!(isa, l2_f64(a, b), avx512 = l2_f64)
}

/// Asks for the cache lines of `words`, which will be read soon. Reads nothing, so any address is allowed.
#[inline]
pub(crate) fn prefetch<T>(words: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = words.as_ptr().cast::<i8>();
        for offset in (0..std::mem::size_of_val(words)).step_by(64) {
            // SAFETY: a prefetch never faults, and the address stays inside `words`.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.add(offset)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = words;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(a: f32, b: f32, magnitude: f32) -> bool {
        (a - b).abs() <= 1e-5 * magnitude.max(1e-3)
    }

    proptest! {
        #[test]
        fn integer_kernels_equal_the_portable_one(
            blocks in 1usize..40,
            seed in any::<u64>(),
        ) {
            let length = blocks * CODE_BLOCK;
            let mut state = seed | 1;
            let mut next = || { state ^= state << 13; state ^= state >> 7; state ^= state << 17; state };
            let codes: Vec<u8> = (0..length).map(|_| (next() % 128) as u8).collect();
            let query: Vec<i8> = (0..length).map(|_| next() as i8).collect();
            let expected: i32 = codes.iter().zip(&query).map(|(c, q)| i32::from(*c) * i32::from(*q)).sum();
            for isa in Isa::available() {
                prop_assert_eq!(dot_u7(isa, &codes, &query), expected, "{:?}", isa);
            }
        }

        #[test]
        fn bit_kernels_equal_the_sum(words in 1usize..70, seed in any::<u64>()) {
            let mut state = seed | 1;
            let mut next = || { state ^= state << 13; state ^= state >> 7; state ^= state << 17; state };
            let bits: Vec<u64> = (0..words).map(|_| next()).collect();
            let query: Vec<i32> = (0..words * 64).map(|_| (next() % 16) as i32 - 8).collect();
            let mut planes = vec![0u64; 4 * words];
            for (at, value) in query.iter().enumerate() {
                for plane in 0..4 {
                    planes[plane * words + at / 64] |= u64::from((value >> plane) & 1 == 1) << (at % 64);
                }
            }
            let is_set = |at: &usize| bits[at / 64] >> (at % 64) & 1 == 1;
            let expected: i32 = (0..words * 64).filter(is_set).map(|at| query[at]).sum();
            for isa in Isa::available() {
                prop_assert_eq!(dot_bits(isa, &bits, &planes), expected, "{:?}", isa);
            }
        }

        #[test]
        fn float_kernels_agree_with_f64(
            (a, b) in (0usize..200).prop_flat_map(|n| (
                proptest::collection::vec(-1000.0f32..1000.0, n),
                proptest::collection::vec(-1000.0f32..1000.0, n),
            )),
        ) {
            let wide = |x: &f32| f64::from(*x);
            let dot: f64 = a.iter().zip(&b).map(|(x, y)| wide(x) * wide(y)).sum();
            let l2: f64 = a.iter().zip(&b).map(|(x, y)| (wide(x) - wide(y)).powi(2)).sum();
            let size: f64 = 1e6 * a.len() as f64;
            for isa in Isa::available() {
                prop_assert!(close(dot_f32(isa, &a, &b), dot as f32, size as f32));
                prop_assert!(close(l2_f32(isa, &a, &b), l2 as f32, size as f32));
                prop_assert!((dot_f64(isa, &a, &b) - dot).abs() <= 1e-14 * size);
                prop_assert!((l2_f64(isa, &a, &b) - l2).abs() <= 1e-14 * size);
            }
        }
    }

    #[test]
    fn largest_codes_do_not_saturate() {
        for isa in Isa::available() {
            for query in [127i8, -128] {
                assert_eq!(dot_u7(isa, &[127; 4_096], &[query; 4_096]), 4_096 * 127 * i32::from(query), "{isa:?}");
            }
        }
    }
}

//! Kernels for x86-64: AVX2 with FMA; AVX-512 VNNI for codes.
//!
//! Callers have checked that slices have equal lengths and that the CPU has the features named at each function.

use std::arch::x86_64::*;

/// Adds the eight lanes.
#[target_feature(enable = "avx2")]
fn sum_f32(v: __m256) -> f32 {
    let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
}

/// Adds the eight lanes.
#[target_feature(enable = "avx2")]
fn sum_i32(v: __m256i) -> i32 {
    let half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let pair = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
    _mm_cvtsi128_si32(_mm_add_epi32(pair, _mm_shuffle_epi32::<1>(pair)))
}

#[target_feature(enable = "avx2")]
pub(super) fn dot_u7(codes: &[u8], query: &[i8]) -> i32 {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_si256(); 2];
    let block = |at: usize| {
        // SAFETY: `at + 32 <= codes.len() == query.len()` by the loops below; unaligned loads.
        let (code, value) = unsafe {
            (_mm256_loadu_si256(codes.as_ptr().add(at).cast()), _mm256_loadu_si256(query.as_ptr().add(at).cast()))
        };
        _mm256_madd_epi16(_mm256_maddubs_epi16(code, value), ones)
    };
    let mut at = 0;
    while at + 64 <= codes.len() {
        sums[0] = _mm256_add_epi32(sums[0], block(at));
        sums[1] = _mm256_add_epi32(sums[1], block(at + 32));
        at += 64;
    }
    if at + 32 <= codes.len() {
        sums[0] = _mm256_add_epi32(sums[0], block(at));
    }
    sum_i32(_mm256_add_epi32(sums[0], sums[1]))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2")]
pub(super) fn dot_u7_vnni(codes: &[u8], query: &[i8]) -> i32 {
    let mut sum = _mm512_setzero_si512();
    let mut at = 0;
    while at < codes.len() {
        let mask = if codes.len() - at >= 64 { u64::MAX } else { u64::from(u32::MAX) };
        // SAFETY: lengths are multiples of 32, so at least 32 bytes remain, and the mask keeps the rest untouched.
        let (code, value) = unsafe {
            (
                _mm512_maskz_loadu_epi8(mask, codes.as_ptr().add(at).cast()),
                _mm512_maskz_loadu_epi8(mask, query.as_ptr().add(at)),
            )
        };
        sum = _mm512_dpbusd_epi32(sum, code, value);
        at += 64;
    }
    _mm512_reduce_add_epi32(sum)
}

#[target_feature(enable = "popcnt,avx2")]
pub(super) fn dot_bits(bits: &[u64], planes: &[u64]) -> i32 {
    super::portable::dot_bits(bits, planes)
}

/// Sums `term` over blocks of eight lanes in four accumulators; `tail` gives single components of the rest.
macro_rules! sum_blocks {
    ($length:expr, $term:expr, $tail:expr) => {{
        let length: usize = $length;
        let mut sums = [_mm256_setzero_ps(); 4];
        let mut at = 0;
        while at + 32 <= length {
            sums[0] = $term(at, sums[0]);
            sums[1] = $term(at + 8, sums[1]);
            sums[2] = $term(at + 16, sums[2]);
            sums[3] = $term(at + 24, sums[3]);
            at += 32;
        }
        while at + 8 <= length {
            sums[0] = $term(at, sums[0]);
            at += 8;
        }
        let tail: f32 = (at..length).map($tail).sum();
        let (low, high) = (_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
        sum_f32(_mm256_add_ps(low, high)) + tail
    }};
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    let term = |at: usize, sum: __m256| {
        // SAFETY: `at + 8` is within both slices; unaligned loads.
        let (x, y) = unsafe { (_mm256_loadu_ps(a.as_ptr().add(at)), _mm256_loadu_ps(b.as_ptr().add(at))) };
        _mm256_fmadd_ps(x, y, sum)
    };
    sum_blocks!(a.len(), term, |i| a[i] * b[i])
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn l2_f32(a: &[f32], b: &[f32]) -> f32 {
    let term = |at: usize, sum: __m256| {
        // SAFETY: `at + 8` is within both slices; unaligned loads.
        let (x, y) = unsafe { (_mm256_loadu_ps(a.as_ptr().add(at)), _mm256_loadu_ps(b.as_ptr().add(at))) };
        let difference = _mm256_sub_ps(x, y);
        _mm256_fmadd_ps(difference, difference, sum)
    };
    sum_blocks!(a.len(), term, |i| (a[i] - b[i]) * (a[i] - b[i]))
}

/// Adds the four lanes.
#[target_feature(enable = "avx2")]
fn sum_f64(v: __m256d) -> f64 {
    let pair = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
    _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)))
}

/// Sums `term` over blocks of four lanes in four accumulators; `tail` gives single components of the rest.
macro_rules! sum_wide {
    ($length:expr, $term:expr, $tail:expr) => {{
        let length: usize = $length;
        let mut sums = [_mm256_setzero_pd(); 4];
        let mut at = 0;
        while at + 16 <= length {
            sums[0] = $term(at, sums[0]);
            sums[1] = $term(at + 4, sums[1]);
            sums[2] = $term(at + 8, sums[2]);
            sums[3] = $term(at + 12, sums[3]);
            at += 16;
        }
        while at + 4 <= length {
            sums[0] = $term(at, sums[0]);
            at += 4;
        }
        let tail: f64 = (at..length).map($tail).sum();
        let (low, high) = (_mm256_add_pd(sums[0], sums[1]), _mm256_add_pd(sums[2], sums[3]));
        sum_f64(_mm256_add_pd(low, high)) + tail
    }};
}

/// Four components of each, in double precision.
///
/// # Safety
/// `at + 4` is within both slices.
#[target_feature(enable = "avx2,fma")]
unsafe fn load_wide(a: &[f32], b: &[f32], at: usize) -> (__m256d, __m256d) {
    // SAFETY: by the caller; unaligned loads.
    let (x, y) = unsafe { (_mm_loadu_ps(a.as_ptr().add(at)), _mm_loadu_ps(b.as_ptr().add(at))) };
    (_mm256_cvtps_pd(x), _mm256_cvtps_pd(y))
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn dot_f64(a: &[f32], b: &[f32]) -> f64 {
    let term = |at: usize, sum: __m256d| {
        // SAFETY: `at + 4` is within both slices by the loops above.
        let (x, y) = unsafe { load_wide(a, b, at) };
        _mm256_fmadd_pd(x, y, sum)
    };
    sum_wide!(a.len(), term, |i| f64::from(a[i]) * f64::from(b[i]))
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn l2_f64(a: &[f32], b: &[f32]) -> f64 {
    let term = |at: usize, sum: __m256d| {
        // SAFETY: `at + 4` is within both slices by the loops above.
        let (x, y) = unsafe { load_wide(a, b, at) };
        let difference = _mm256_sub_pd(x, y);
        _mm256_fmadd_pd(difference, difference, sum)
    };
    sum_wide!(a.len(), term, |i| (f64::from(a[i]) - f64::from(b[i])).powi(2))
}

//! Kernels in plain Rust: the reference for the others, the path of CPUs without them.

use super::PLANES;

/// Sums in eight lanes, which the compiler turns into vector code where it can.
fn sum_lanes(length: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    let blocks = length / 8;
    for block in 0..blocks {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(block * 8 + lane);
        }
    }
    let tail: f32 = (blocks * 8..length).map(term).sum();
    lanes.iter().sum::<f32>() + tail
}

pub(super) fn dot_u7(codes: &[u8], query: &[i8]) -> i32 {
    codes.iter().zip(query).map(|(code, value)| i32::from(*code) * i32::from(*value)).sum()
}

/// The sum over planes, with whatever `count_ones` is where it is inlined.
#[inline(always)]
pub(super) fn dot_bits(bits: &[u64], planes: &[u64]) -> i32 {
    let mut counts = [0u32; PLANES];
    for (count, plane) in counts.iter_mut().zip(planes.chunks_exact(bits.len())) {
        *count = bits.iter().zip(plane).map(|(a, b)| (a & b).count_ones()).sum();
    }
    counts[0] as i32 + 2 * counts[1] as i32 + 4 * counts[2] as i32 - 8 * counts[3] as i32
}

pub(super) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    sum_lanes(a.len(), |i| a[i] * b[i])
}

pub(super) fn l2_f32(a: &[f32], b: &[f32]) -> f32 {
    sum_lanes(a.len(), |i| (a[i] - b[i]) * (a[i] - b[i]))
}

/// As [`sum_lanes`], in double precision.
#[inline(always)]
fn sum_wide(length: usize, term: impl Fn(usize) -> f64) -> f64 {
    let mut lanes = [0.0f64; 8];
    let blocks = length / 8;
    for block in 0..blocks {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(block * 8 + lane);
        }
    }
    let tail: f64 = (blocks * 8..length).map(term).sum();
    lanes.iter().sum::<f64>() + tail
}

#[inline(always)]
pub(super) fn dot_f64(a: &[f32], b: &[f32]) -> f64 {
    sum_wide(a.len(), |i| f64::from(a[i]) * f64::from(b[i]))
}

#[inline(always)]
pub(super) fn l2_f64(a: &[f32], b: &[f32]) -> f64 {
    sum_wide(a.len(), |i| (f64::from(a[i]) - f64::from(b[i])).powi(2))
}

//! Kernels for 64-bit Arm. Codes fit a signed byte too, so widening multiplies of the base architecture do.

use std::arch::aarch64::*;

#[target_feature(enable = "neon")]
pub(super) fn dot_u7(codes: &[u8], query: &[i8]) -> i32 {
    let mut sum = vdupq_n_s32(0);
    for at in (0..codes.len()).step_by(16) {
        // SAFETY: lengths are equal and multiples of 32, so 16 bytes remain at `at`.
        let (code, value) =
            unsafe { (vreinterpretq_s8_u8(vld1q_u8(codes.as_ptr().add(at))), vld1q_s8(query.as_ptr().add(at))) };
        sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(code), vget_low_s8(value)));
        sum = vpadalq_s16(sum, vmull_high_s8(code, value));
    }
    vaddvq_s32(sum)
}

#[target_feature(enable = "neon")]
pub(super) fn dot_bits(bits: &[u64], planes: &[u64]) -> i32 {
    super::portable::dot_bits(bits, planes)
}

#[target_feature(enable = "neon")]
pub(super) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [vdupq_n_f32(0.0); 4];
    let whole = a.len() / 16 * 16;
    for at in (0..whole).step_by(16) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `at + 16 <= a.len() == b.len()`.
            let (x, y) =
                unsafe { (vld1q_f32(a.as_ptr().add(at + lane * 4)), vld1q_f32(b.as_ptr().add(at + lane * 4))) };
            *sum = vfmaq_f32(*sum, x, y);
        }
    }
    let tail: f32 = (whole..a.len()).map(|i| a[i] * b[i]).sum();
    vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3]))) + tail
}

#[target_feature(enable = "neon")]
pub(super) fn l2_f32(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [vdupq_n_f32(0.0); 4];
    let whole = a.len() / 16 * 16;
    for at in (0..whole).step_by(16) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `at + 16 <= a.len() == b.len()`.
            let (x, y) =
                unsafe { (vld1q_f32(a.as_ptr().add(at + lane * 4)), vld1q_f32(b.as_ptr().add(at + lane * 4))) };
            let difference = vsubq_f32(x, y);
            *sum = vfmaq_f32(*sum, difference, difference);
        }
    }
    let tail: f32 = (whole..a.len()).map(|i| (a[i] - b[i]) * (a[i] - b[i])).sum();
    vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3]))) + tail
}

#[target_feature(enable = "neon")]
pub(super) fn dot_f64(a: &[f32], b: &[f32]) -> f64 {
    super::portable::dot_f64(a, b)
}

#[target_feature(enable = "neon")]
pub(super) fn l2_f64(a: &[f32], b: &[f32]) -> f64 {
    super::portable::l2_f64(a, b)
}

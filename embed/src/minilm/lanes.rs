//! Eight f32 at a time, with AVX2 and FMA where the processor has them.
//!
//! The kernels are written once over [`Lanes`] and compiled for each instruction set. A value of [`Avx2`] exists only
//! where detection succeeded, which is what makes its methods safe to call. They are inlined into functions that enable
//! the instructions; called from elsewhere they would still be right, but slow.

/// Vectors of eight f32.
pub(super) trait Lanes: Copy {
    type Vector: Copy;

    fn splat(self, x: f32) -> Self::Vector;
    fn load(self, from: &[f32; 8]) -> Self::Vector;
    fn store(self, x: Self::Vector, to: &mut [f32; 8]);
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a · b + c, with one rounding where the processor can.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// Nearest integer, ties to even.
    fn round(self, x: Self::Vector) -> Self::Vector;
    /// 2 to the power of `x`, for whole `x` from -126 to 127.
    fn power_of_two(self, x: Self::Vector) -> Self::Vector;

    fn to_array(self, x: Self::Vector) -> [f32; 8] {
        let mut array = [0.0; 8];
        self.store(x, &mut array);
        array
    }

    /// Sum of the lanes, in pairs.
    #[inline(always)]
    fn sum(self, x: Self::Vector) -> f32 {
        let x = self.to_array(x);
        ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
    }

    /// Largest of the lanes.
    #[inline(always)]
    fn largest(self, x: Self::Vector) -> f32 {
        self.to_array(x).into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

/// Any processor: arrays, which compilers turn into whatever vectors the target has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portable;

macro_rules! each {
    ($($x:ident),+ => $result:expr) => {{
        let mut out = [0.0; 8];
        for (at, out) in out.iter_mut().enumerate() {
            $(let $x = $x[at];)+
            *out = $result;
        }
        out
    }};
}

impl Lanes for Portable {
    type Vector = [f32; 8];

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    fn load(self, from: &[f32; 8]) -> [f32; 8] {
        *from
    }
    #[inline(always)]
    fn store(self, x: [f32; 8], to: &mut [f32; 8]) {
        *to = x;
    }
    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        each!(a, b => a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        each!(a, b => a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        each!(a, b => a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        each!(a, b => a / b)
    }
    #[inline(always)]
    fn min(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        each!(a, b => if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        each!(a, b => if a > b { a } else { b })
    }
    // `f32::mul_add` would be a library call on targets without the instruction.
    #[inline(always)]
    fn mul_add(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        each!(a, b, c => a * b + c)
    }
    #[inline(always)]
    fn round(self, x: [f32; 8]) -> [f32; 8] {
        each!(x => x.round_ties_even())
    }
    #[inline(always)]
    fn power_of_two(self, x: [f32; 8]) -> [f32; 8] {
        each!(x => f32::from_bits((((x as i32) + 127) as u32) << 23))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Avx2;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// Proof that the processor has AVX2 and FMA.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Avx2(());

    impl Avx2 {
        pub(in super::super) fn detect() -> Option<Self> {
            (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
        }
    }

    // SAFETY of every block below: `self` proves that the processor has the instructions; loads and stores are
    // unaligned and within the array they are given.
    impl Lanes for Avx2 {
        type Vector = __m256;

        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, from: &[f32; 8]) -> __m256 {
            unsafe { _mm256_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, x: __m256, to: &mut [f32; 8]) {
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), x) }
        }
        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        fn div(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        fn min(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        fn max(self, a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn round(self, x: __m256) -> __m256 {
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
        }
        #[inline(always)]
        fn power_of_two(self, x: __m256) -> __m256 {
            unsafe {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            }
        }
    }
}

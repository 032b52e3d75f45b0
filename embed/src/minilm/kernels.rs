//! The network's inner loops: matrix product, layer norm, softmax, GELU.
//!
//! Why a product of our own and not the `gemm` crate: the weights never change, so they are packed once, at load, into
//! panels that the inner loop reads straight through. A general product packs or strides over them on every call, which
//! for the few rows of a query costs as much as the arithmetic (16 rows through the six layers, one thread: 5.4 ms with
//! packed panels, 10.4 ms with `gemm` 0.19; from 200 rows on both run at the same speed). And the bias, the residual and
//! the GELU are applied to a tile while it is in registers or the first-level cache.
//!
//! The tile is 6 rows by 16 columns: 12 accumulators, two panel vectors and one broadcast fill the 16 AVX registers.
//! Loops around it keep a panel slice of `DEPTH_BLOCK` × 16 in the first-level cache and `ROW_BLOCK` input rows of that
//! depth in the second (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008).

#[cfg(target_arch = "x86_64")]
use super::lanes::Avx2;
use super::lanes::{Lanes, Portable};

/// Columns of a panel and of a tile.
pub(super) const PANEL: usize = 16;
const TILE_ROWS: usize = 6;
/// 384 × 16 × 4 bytes = 24 KiB; the hidden size is one block, the intermediate size four.
const DEPTH_BLOCK: usize = 384;
/// 96 × 384 × 4 bytes = 144 KiB.
const ROW_BLOCK: usize = 96;

/// Rows of a row-major matrix that may lie within a wider one: row `r` is `data[r * stride..]`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub count: usize,
}

/// As [`Rows`], to write to.
pub(super) struct RowsMut<'a> {
    pub data: &'a mut [f32],
    pub stride: usize,
}

/// The right-hand matrix of a product, `depth` × `columns`, cut into panels of 16 columns: panel `p` holds, depth by
/// depth, the 16 values of columns `16 p..`. `columns` is a multiple of 16.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    pub values: &'a [f32],
    pub depth: usize,
    pub columns: usize,
}

/// What happens to the product before it is stored.
#[derive(Clone, Copy)]
pub(super) enum Finish<'a> {
    /// Nothing.
    Plain,
    /// output = product + bias
    Bias(&'a [f32]),
    /// output = output + product + bias
    Residual(&'a [f32]),
    /// output = gelu(product + bias)
    BiasGelu(&'a [f32]),
}

/// The instruction set, detected once.
#[derive(Clone, Copy, Debug)]
pub(super) enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Portable(Portable),
}

impl Instructions {
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = Avx2::detect() {
            return Self::Avx2(avx2);
        }
        Self::Portable(Portable)
    }
}

/// Defines a kernel that runs `$body` with the best instructions: `$body` is inlined into a function that enables them.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident = $body:ident($($arg:ident: $type:ty),*)) => {
        $(#[$doc])*
        pub(super) fn $name(instructions: Instructions, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn with_avx2(lanes: Avx2, $($arg: $type),*) {
                $body(lanes, $($arg),*);
            }
            match instructions {
                // SAFETY: an `Avx2` exists only where the processor has AVX2 and FMA.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2(lanes) => unsafe { with_avx2(lanes, $($arg),*) },
                Instructions::Portable(lanes) => $body(lanes, $($arg),*),
            }
        }
    };
}

kernel! {
    /// `output` (`input.count` × `panels.columns`) = `input` (`input.count` × `panels.depth`) · `panels`, finished.
    ///
    /// Panics if a slice is shorter than its shape says.
    multiply = multiply_with(input: Rows<'_>, panels: Panels<'_>, output: RowsMut<'_>, finish: Finish<'_>)
}

kernel! {
    /// Scales each row of `weight.len()` values to mean 0 and variance 1, then by `weight` and `bias`.
    layer_norm = layer_norm_with(rows: &mut [f32], weight: &[f32], bias: &[f32])
}

kernel! {
    /// Replaces each row of `stride` values (a multiple of 8) by the softmax of `scale` times its first `width`; the rest
    /// becomes 0.
    softmax = softmax_with(rows: &mut [f32], stride: usize, width: usize, scale: f32)
}

#[inline(always)]
fn multiply_with<L: Lanes>(lanes: L, input: Rows<'_>, panels: Panels<'_>, output: RowsMut<'_>, finish: Finish<'_>) {
    let Panels { values, depth, columns } = panels;
    if input.count == 0 || columns == 0 {
        return;
    }
    assert!(depth > 0 && columns.is_multiple_of(PANEL) && values.len() >= depth * columns);
    assert!(input.stride >= depth && input.data.len() >= (input.count - 1) * input.stride + depth);
    assert!(output.stride >= columns && output.data.len() >= (input.count - 1) * output.stride + columns);
    if let Finish::Bias(bias) | Finish::Residual(bias) | Finish::BiasGelu(bias) = finish {
        assert!(bias.len() >= columns);
    }
    for row_block in (0..input.count).step_by(ROW_BLOCK) {
        let row_end = input.count.min(row_block + ROW_BLOCK);
        for depth_start in (0..depth).step_by(DEPTH_BLOCK) {
            let depth_end = depth.min(depth_start + DEPTH_BLOCK);
            for column in (0..columns).step_by(PANEL) {
                let start = Start::of(finish, depth_start, column);
                for row in (row_block..row_end).step_by(TILE_ROWS) {
                    let tile = Tile {
                        // SAFETY: the asserts above bound every row, column and depth that the tile spans.
                        input: unsafe { input.data.as_ptr().add(row * input.stride + depth_start) },
                        input_stride: input.stride,
                        panel: unsafe { values.as_ptr().add(column * depth + depth_start * PANEL) },
                        depth: depth_end - depth_start,
                        output: unsafe { output.data.as_mut_ptr().add(row * output.stride + column) },
                        output_stride: output.stride,
                    };
                    let gelu = matches!(finish, Finish::BiasGelu(_)) && depth_end == depth;
                    // SAFETY: as above; `rows` is at most what is left of the block.
                    unsafe { tile.dispatch(lanes, (row_end - row).min(TILE_ROWS), start, gelu) };
                }
            }
        }
    }
}

/// What a tile's accumulators hold before the first multiplication.
#[derive(Clone, Copy)]
struct Start<'a> {
    bias: Option<&'a [f32; PANEL]>,
    output: bool,
}

impl<'a> Start<'a> {
    #[inline(always)]
    fn of(finish: Finish<'a>, depth_start: usize, column: usize) -> Self {
        if depth_start > 0 {
            return Self { bias: None, output: true };
        }
        let bias_at = |bias: &'a [f32]| bias[column..].first_chunk::<PANEL>();
        match finish {
            Finish::Plain => Self { bias: None, output: false },
            Finish::Bias(bias) | Finish::BiasGelu(bias) => Self { bias: bias_at(bias), output: false },
            Finish::Residual(bias) => Self { bias: bias_at(bias), output: true },
        }
    }
}

/// One tile of the product: up to 6 rows, 16 columns, one block of the depth.
struct Tile {
    input: *const f32,
    input_stride: usize,
    panel: *const f32,
    depth: usize,
    output: *mut f32,
    output_stride: usize,
}

impl Tile {
    /// # Safety
    /// `rows` rows of the input and output, and `depth` rows of the panel, must lie within their slices.
    #[inline(always)]
    unsafe fn dispatch<L: Lanes>(&self, lanes: L, rows: usize, start: Start<'_>, gelu: bool) {
        // SAFETY: passed on.
        unsafe {
            match rows {
                6 => self.compute::<L, 6>(lanes, start, gelu),
                5 => self.compute::<L, 5>(lanes, start, gelu),
                4 => self.compute::<L, 4>(lanes, start, gelu),
                3 => self.compute::<L, 3>(lanes, start, gelu),
                2 => self.compute::<L, 2>(lanes, start, gelu),
                _ => self.compute::<L, 1>(lanes, start, gelu),
            }
        }
    }

    /// # Safety
    /// As [`Tile::dispatch`], with `R` rows.
    #[inline(always)]
    unsafe fn compute<L: Lanes, const R: usize>(&self, lanes: L, start: Start<'_>, gelu: bool) {
        let zero = lanes.splat(0.0);
        let mut sums = [[zero; 2]; R];
        if let Some(bias) = start.bias {
            let (low, high) = halves(bias);
            sums = [[lanes.load(low), lanes.load(high)]; R];
        }
        if start.output {
            for (row, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller guarantees R rows of 16 columns.
                let (low, high) = halves(unsafe { &*self.output.add(row * self.output_stride).cast() });
                *sum = [lanes.add(sum[0], lanes.load(low)), lanes.add(sum[1], lanes.load(high))];
            }
        }
        for depth in 0..self.depth {
            // SAFETY: the caller guarantees `depth` rows of the panel and `depth` columns of R input rows.
            let (low, high) = halves(unsafe { &*self.panel.add(depth * PANEL).cast() });
            let (low, high) = (lanes.load(low), lanes.load(high));
            for (row, sum) in sums.iter_mut().enumerate() {
                let x = lanes.splat(unsafe { *self.input.add(row * self.input_stride + depth) });
                *sum = [lanes.mul_add(x, low, sum[0]), lanes.mul_add(x, high, sum[1])];
            }
        }
        if gelu {
            for sum in &mut sums {
                *sum = [gelu_of(lanes, sum[0]), gelu_of(lanes, sum[1])];
            }
        }
        for (row, sum) in sums.iter().enumerate() {
            // SAFETY: the caller guarantees R rows of 16 columns.
            let output: &mut [f32; PANEL] = unsafe { &mut *self.output.add(row * self.output_stride).cast() };
            let (low, high) = output.split_at_mut(8);
            lanes.store(sum[0], low.first_chunk_mut().expect("half of sixteen"));
            lanes.store(sum[1], high.first_chunk_mut().expect("half of sixteen"));
        }
    }
}

#[inline(always)]
fn halves(sixteen: &[f32; PANEL]) -> (&[f32; 8], &[f32; 8]) {
    let (low, high) = sixteen.split_at(8);
    (low.first_chunk().expect("half of sixteen"), high.first_chunk().expect("half of sixteen"))
}

/// Guards the variance of a constant row (config.json: `layer_norm_eps`).
const LAYER_NORM_EPSILON: f32 = 1e-12;

#[inline(always)]
fn layer_norm_with<L: Lanes>(lanes: L, rows: &mut [f32], weight: &[f32], bias: &[f32]) {
    let width = weight.len();
    assert!(width > 0 && width.is_multiple_of(8) && bias.len() == width && rows.len().is_multiple_of(width));
    let ((weight, _), (bias, _)) = (weight.as_chunks::<8>(), bias.as_chunks::<8>());
    let per_component = 1.0 / width as f32;
    for row in rows.chunks_exact_mut(width) {
        let (row, _) = row.as_chunks_mut::<8>();
        let mut sum = lanes.splat(0.0);
        for x in row.iter() {
            sum = lanes.add(sum, lanes.load(x));
        }
        let mean = lanes.splat(lanes.sum(sum) * per_component);
        // Around the mean and in a second pass: E[x²] - E[x]² would cancel.
        let mut squares = lanes.splat(0.0);
        for x in row.iter() {
            let centered = lanes.sub(lanes.load(x), mean);
            squares = lanes.mul_add(centered, centered, squares);
        }
        let scale = lanes.splat(1.0 / (lanes.sum(squares) * per_component + LAYER_NORM_EPSILON).sqrt());
        for ((x, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
            let normal = lanes.mul(lanes.sub(lanes.load(x), mean), scale);
            lanes.store(lanes.mul_add(normal, lanes.load(weight), lanes.load(bias)), x);
        }
    }
}

#[inline(always)]
fn softmax_with<L: Lanes>(lanes: L, rows: &mut [f32], stride: usize, width: usize, scale: f32) {
    assert!(width > 0 && width <= stride && stride.is_multiple_of(8) && rows.len().is_multiple_of(stride));
    for row in rows.chunks_exact_mut(stride) {
        row[width..].fill(f32::NEG_INFINITY);
        let (row, _) = row.as_chunks_mut::<8>();
        let mut largest = lanes.splat(f32::NEG_INFINITY);
        for x in row.iter() {
            largest = lanes.max(largest, lanes.load(x));
        }
        let (largest, scale) = (lanes.splat(lanes.largest(largest)), lanes.splat(scale));
        let mut sum = lanes.splat(0.0);
        for x in row.iter_mut() {
            let power = exp_of(lanes, lanes.mul(lanes.sub(lanes.load(x), largest), scale));
            sum = lanes.add(sum, power);
            lanes.store(power, x);
        }
        let factor = lanes.splat(1.0 / lanes.sum(sum));
        for x in row.iter_mut() {
            lanes.store(lanes.mul(lanes.load(x), factor), x);
        }
        row.as_flattened_mut()[width..].fill(0.0);
    }
}

/// The value of a polynomial, highest coefficient first.
#[inline(always)]
fn polynomial<L: Lanes, const N: usize>(lanes: L, x: L::Vector, coefficients: [f32; N]) -> L::Vector {
    let mut value = lanes.splat(coefficients[0]);
    for coefficient in &coefficients[1..] {
        value = lanes.mul_add(value, x, lanes.splat(*coefficient));
    }
    value
}

/// e to the power of `x`, for `x` up to 88; 0 (within 1.2e-38) below -87. Relative error under 2e-7.
///
/// x = n ln 2 + r with |r| ≤ ln 2 / 2, and a polynomial for e^r (Cephes, `expf`). ln 2 is split in two, so that r is
/// exact to more bits than f32 has.
#[inline(always)]
fn exp_of<L: Lanes>(lanes: L, x: L::Vector) -> L::Vector {
    let x = lanes.max(x, lanes.splat(-87.0));
    let n = lanes.round(lanes.mul(x, lanes.splat(std::f32::consts::LOG2_E)));
    let r = lanes.mul_add(n, lanes.splat(-0.693_359_4), x);
    let r = lanes.mul_add(n, lanes.splat(2.121_944_4e-4), r);
    let tail =
        polynomial(lanes, r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
    let value = lanes.mul_add(lanes.mul(tail, r), r, lanes.add(r, lanes.splat(1.0)));
    lanes.mul(value, lanes.power_of_two(n))
}

/// The error function. Absolute error under 1e-6.
///
/// A rational function on [-4, 4], outside of which f32 cannot tell erf from ±1 (coefficients: Eigen's `erf` for f32).
#[inline(always)]
fn erf_of<L: Lanes>(lanes: L, x: L::Vector) -> L::Vector {
    let x = lanes.min(lanes.max(x, lanes.splat(-4.0)), lanes.splat(4.0));
    let square = lanes.mul(x, x);
    let above = polynomial(
        lanes,
        square,
        [
            -2.726_142_3e-10,
            2.770_681_4e-8,
            -2.101_024e-6,
            -5.692_506_5e-5,
            -7.349_906_3e-4,
            -2.954_6e-3,
            -1.609_603_3e-2,
        ],
    );
    let below =
        polynomial(lanes, square, [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329_2e-3, -1.426_473_9e-2]);
    lanes.div(lanes.mul(x, above), below)
}

/// x · Φ(x), the exact GELU: BERT was trained with erf, not with the tanh approximation.
#[inline(always)]
fn gelu_of<L: Lanes>(lanes: L, x: L::Vector) -> L::Vector {
    let half = lanes.mul(x, lanes.splat(0.5));
    lanes.mul_add(half, erf_of(lanes, lanes.mul(x, lanes.splat(std::f32::consts::FRAC_1_SQRT_2))), half)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all_instructions() -> Vec<Instructions> {
        vec![Instructions::Portable(Portable), Instructions::detect()]
    }

    /// One value through a function of eight lanes.
    fn map(x: f32, with: impl Fn(Portable, [f32; 8]) -> [f32; 8]) -> f64 {
        f64::from(with(Portable, [x; 8])[3])
    }

    /// erf by its Maclaurin series, which converges everywhere; in f64 it is good to 1e-12 for |x| ≤ 4.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    fn gelu(x: f64) -> f64 {
        if x.abs() > 5.6 { x.max(0.0) } else { 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)) }
    }

    #[test]
    fn erf_exp_and_gelu_are_accurate() {
        for step in -40_000..=40_000 {
            let x = step as f32 * 1e-4;
            let error = (map(x, erf_of) - erf(f64::from(x))).abs();
            assert!(error < 1e-6, "erf({x}) is off by {error}");
            let x = x * 20.0;
            let exact = f64::from(x).exp();
            let error = (map(x, exp_of) / exact - 1.0).abs();
            assert!(error < 2e-7, "exp({x}) is off by {error}");
        }
        assert!(map(f32::NEG_INFINITY, exp_of) < 1e-37);
        for x in [-1e30_f32, -9.0, 9.0, 1e30] {
            assert_eq!(map(x, erf_of).signum(), f64::from(x.signum()));
            assert!((map(x, erf_of).abs() - 1.0).abs() < 1e-6);
        }
    }

    /// The product in f64, one sum at a time.
    fn slow_product(input: &[f32], weights: &[f32], [rows, depth, columns]: [usize; 3]) -> Vec<f64> {
        let cell = |row: usize, column: usize| -> f64 {
            (0..depth).map(|d| f64::from(input[row * depth + d]) * f64::from(weights[d * columns + column])).sum()
        };
        (0..rows * columns).map(|at| cell(at / columns, at % columns)).collect()
    }

    fn pack(weights: &[f32], depth: usize, columns: usize) -> Vec<f32> {
        let panel = |p: usize| (0..depth).flat_map(move |d| &weights[d * columns + p * PANEL..][..PANEL]);
        (0..columns / PANEL).flat_map(panel).copied().collect()
    }

    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn product_equals_a_slow_one(rows in 1_usize..200, depth in 1_usize..800, panels in 1_usize..4, seed: u32) {
            let columns = panels * PANEL;
            let (input, weights) = (values(rows * depth, seed), values(depth * columns, !seed));
            let (bias, before) = (values(columns, seed ^ 7), values(rows * columns, seed ^ 9));
            let expected = slow_product(&input, &weights, [rows, depth, columns]);
            let packed = pack(&weights, depth, columns);
            let finishes = [Finish::Plain, Finish::Bias(&bias), Finish::Residual(&bias), Finish::BiasGelu(&bias)];
            for (instructions, finish) in all_instructions().into_iter().flat_map(|i| finishes.map(|f| (i, f))) {
                let mut output = before.clone();
                multiply(
                    instructions,
                    Rows { data: &input, stride: depth, count: rows },
                    Panels { values: &packed, depth, columns },
                    RowsMut { data: &mut output, stride: columns },
                    finish,
                );
                for (at, &found) in output.iter().enumerate() {
                    let biased = expected[at] + f64::from(bias[at % columns]);
                    let wanted = match finish {
                        Finish::Plain => expected[at],
                        Finish::Bias(_) => biased,
                        Finish::Residual(_) => biased + f64::from(before[at]),
                        Finish::BiasGelu(_) => gelu(biased),
                    };
                    prop_assert!((f64::from(found) - wanted).abs() < 1e-4, "{} instead of {} at {}", found, wanted, at);
                }
            }
        }

        #[test]
        fn softmax_rows_sum_to_one(width in 1_usize..100, rows in 1_usize..5, seed: u32) {
            let stride = width.next_multiple_of(PANEL);
            let scores: Vec<f32> = values(rows * stride, seed).iter().map(|x| x * 30.0).collect();
            for instructions in all_instructions() {
                let mut found = scores.clone();
                softmax(instructions, &mut found, stride, width, 0.5);
                for (row, scores) in found.chunks(stride).zip(scores.chunks(stride)) {
                    let powers: Vec<f64> = scores[..width].iter().map(|&x| (0.5 * f64::from(x)).exp()).collect();
                    let sum: f64 = powers.iter().sum();
                    for (found, power) in row.iter().zip(&powers) {
                        prop_assert!((f64::from(*found) - power / sum).abs() < 1e-6);
                    }
                    prop_assert!(row[width..].iter().all(|&x| x == 0.0));
                }
            }
        }
    }

    #[test]
    fn layer_norm_gives_mean_zero_and_variance_one() {
        for instructions in all_instructions() {
            let mut rows: Vec<f32> = values(3 * 384, 5).iter().map(|x| x * 3.0 + 100.0).collect();
            let original = rows.clone();
            let (weight, bias) = (values(384, 1), values(384, 2));
            layer_norm(instructions, &mut rows, &weight, &bias);
            for (row, original) in rows.chunks(384).zip(original.chunks(384)) {
                let mean = original.iter().map(|&x| f64::from(x)).sum::<f64>() / 384.0;
                let variance = original.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / 384.0;
                for at in 0..384 {
                    let normal = (f64::from(original[at]) - mean) / variance.sqrt();
                    let wanted = normal * f64::from(weight[at]) + f64::from(bias[at]);
                    assert!((f64::from(row[at]) - wanted).abs() < 1e-4);
                }
            }
        }
    }
}

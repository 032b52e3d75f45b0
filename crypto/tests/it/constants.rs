//! Every decimal of the tables, computed again with exact integers by textbook series.
//!
//! Numbers are fixed-point: integers scaled by 10^1030, whose last 30 digits absorb the truncation of every step.

use mira_crypto::constants::{Constant, MAX_DECIMALS, digits};
use num_bigint::BigUint;

const GUARD_DECIMALS: u32 = 30;
const SCALE_DECIMALS: u32 = MAX_DECIMALS as u32 + GUARD_DECIMALS;

fn one() -> BigUint {
    BigUint::from(10_u8).pow(SCALE_DECIMALS)
}

fn is_zero(x: &BigUint) -> bool {
    *x == BigUint::ZERO
}

/// The scaled number as text, without its guard digits.
fn to_decimals(scaled: &BigUint) -> String {
    let cut = scaled / BigUint::from(10_u8).pow(GUARD_DECIMALS);
    let text = format!("{cut:0>width$}", width = MAX_DECIMALS + 1);
    format!("{}.{}", &text[..1], &text[1..])
}

/// Σ ± 1 / ((2i + 1) x^(2i + 1)): arctan(1/x) with alternating signs, artanh(1/x) without.
fn arc_series(x: u32, alternating: bool) -> BigUint {
    let (mut plus, mut minus) = (BigUint::ZERO, BigUint::ZERO);
    let mut power = one() / x;
    for i in 0_u32.. {
        let term = &power / (2 * i + 1);
        if is_zero(&term) {
            break;
        }
        *(if alternating && i % 2 == 1 { &mut minus } else { &mut plus }) += term;
        power /= x * x;
    }
    plus - minus
}

/// Machin 1706: π = 16 arctan(1/5) − 4 arctan(1/239).
fn pi() -> BigUint {
    arc_series(5, true) * 16_u8 - arc_series(239, true) * 4_u8
}

/// e = Σ 1/k!
fn e() -> BigUint {
    let mut term = one();
    let mut sum = BigUint::ZERO;
    for k in 1_u32.. {
        sum += &term;
        term /= k;
        if is_zero(&term) {
            break;
        }
    }
    sum
}

/// φ = (1 + √5) / 2.
fn phi() -> BigUint {
    (one() + (one() * one() * 5_u8).sqrt()) / 2_u8
}

/// Brent and McMillan 1980, algorithm B1: with A and B the sums below, |γ − (A/B − ln n)| < π e^(−4n).
///
/// n = 1,024 gives 1,778 decimals, and ln n = 10 ln 2 = 20 artanh(1/3).
fn gamma() -> BigUint {
    let n = 1_024_u32;
    let n_squared = BigUint::from(n) * n;
    let mut b = one();
    let mut harmonic_part = BigUint::ZERO; // A without its − ln n · B, so that every number stays positive
    let (mut sum_a, mut sum_b) = (BigUint::ZERO, b.clone());
    for k in 1_u32.. {
        b = b * &n_squared / (k * k);
        harmonic_part = (harmonic_part * &n_squared / k + &b) / k;
        if is_zero(&b) && is_zero(&harmonic_part) {
            break;
        }
        sum_b += &b;
        sum_a += &harmonic_part;
    }
    sum_a * one() / sum_b - arc_series(3, false) * 20_u8
}

#[test]
fn every_digit_is_right() {
    for (constant, computed) in
        [(Constant::Pi, pi()), (Constant::E, e()), (Constant::Phi, phi()), (Constant::Gamma, gamma())]
    {
        assert_eq!(digits(constant, MAX_DECIMALS), Some(to_decimals(&computed).as_str()), "{constant}");
    }
}

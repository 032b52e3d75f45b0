//! π, e, φ and γ to 1,000 decimals.
//!
//! The constants serve twice. Agent state signatures multiply by them, and their first decimals are the HKDF salts that
//! keep the layers of sealing apart ([`crate::private`]): numbers that everybody can check and nobody chose, so no
//! value is hidden in them. The digits are a table, because a lookup costs nothing and a computation at start-up would.
//!
//! Decimals are cut, never rounded: `digits(c, n)` is a prefix of `digits(c, n + 1)`.

mod tables;

use std::{fmt, str::FromStr};

use crate::CryptoError;

/// The number of decimals that the tables hold.
pub const MAX_DECIMALS: usize = 1_000;

/// Decimals in an HKDF salt: with the integer part and the point, 64 bytes, one block of SHA-256.
const SALT_DECIMALS: usize = 62;

/// One of the four constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Constant {
    /// π, the ratio of a circle's circumference to its diameter.
    Pi,
    /// e, the base of the natural logarithm.
    E,
    /// φ, the golden ratio, (1 + √5) / 2.
    Phi,
    /// γ, the Euler–Mascheroni constant.
    Gamma,
}

impl Constant {
    /// All four, in the order in which signatures use them.
    pub const ALL: [Self; 4] = [Self::Pi, Self::E, Self::Phi, Self::Gamma];

    /// The name on the command line and in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pi => "pi",
            Self::E => "e",
            Self::Phi => "phi",
            Self::Gamma => "gamma",
        }
    }

    /// The f64 nearest to the constant.
    pub const fn as_f64(self) -> f64 {
        match self {
            Self::Pi => std::f64::consts::PI,
            Self::E => std::f64::consts::E,
            Self::Phi => 1.618_033_988_749_895,
            Self::Gamma => 0.577_215_664_901_532_9,
        }
    }

    const fn table(self) -> &'static str {
        match self {
            Self::Pi => tables::PI,
            Self::E => tables::E,
            Self::Phi => tables::PHI,
            Self::Gamma => tables::GAMMA,
        }
    }

    /// The salt of the HKDF trees that this constant separates: its first 62 decimals as ASCII text.
    pub(crate) const fn salt(self) -> &'static [u8] {
        self.table().as_bytes().split_at(2 + SALT_DECIMALS).0
    }
}

impl fmt::Display for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Constant {
    type Err = CryptoError;

    /// Reads a [`Constant::name`].
    fn from_str(name: &str) -> Result<Self, CryptoError> {
        Self::ALL.into_iter().find(|c| c.name() == name).ok_or(CryptoError::UnknownConstant)
    }
}

/// The constant with `decimals` places after the point, cut: `digits(Constant::Pi, 4)` is `3.1415`.
///
/// Zero decimals give the integer part alone, without a point. `None` beyond [`MAX_DECIMALS`]. Costs a slice.
pub const fn digits(constant: Constant, decimals: usize) -> Option<&'static str> {
    match decimals {
        0 => Some(constant.table().split_at(1).0),
        1..=MAX_DECIMALS => Some(constant.table().split_at(2 + decimals).0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_cut_not_rounded() {
        assert_eq!(digits(Constant::Pi, 0), Some("3"));
        assert_eq!(digits(Constant::Pi, 4), Some("3.1415"));
        assert_eq!(digits(Constant::Gamma, 3), Some("0.577"));
        assert_eq!(digits(Constant::E, MAX_DECIMALS).map(str::len), Some(1_002));
        assert_eq!(digits(Constant::E, MAX_DECIMALS + 1), None);
    }

    #[test]
    fn the_f64_is_the_nearest_to_the_digits() {
        for constant in Constant::ALL {
            let parsed: f64 = digits(constant, 50).expect("within the table").parse().expect("digits");
            assert_eq!(parsed.to_bits(), constant.as_f64().to_bits(), "{constant}");
        }
    }

    #[test]
    fn names_read_back() {
        for constant in Constant::ALL {
            assert_eq!(constant.name().parse::<Constant>().ok(), Some(constant));
        }
        assert!(matches!("tau".parse::<Constant>(), Err(CryptoError::UnknownConstant)));
    }

    #[test]
    fn a_salt_is_one_hash_block() {
        assert!(Constant::ALL.iter().all(|c| c.salt().len() == 64));
        assert!(Constant::Pi.salt().starts_with(b"3.14159"));
    }
}

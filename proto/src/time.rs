//! Times as callers write them: RFC 3339, of any year, read to the millisecond.
//!
//! Times that are kept lie between 1970 and the end of 9999; a bound that something is compared with may be any.

use jiff::SignedDuration;
use jiff::civil::{self, DateTime};
use jiff::fmt::temporal::Pieces;

/// The last millisecond that four digits of a year can say.
pub const MAX_MS: u64 = 253_402_300_799_999;

const EPOCH: DateTime = civil::date(1970, 1, 1).at(0, 0, 0, 0);

/// A point in time that a caller has named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    nanoseconds: i128,
}

impl Moment {
    /// Reads an RFC 3339 time; none for what is none.
    pub fn parse(text: &str) -> Option<Moment> {
        let pieces = Pieces::parse(text).ok()?;
        let local = DateTime::from_parts(pieces.date(), pieces.time()?);
        let offset = SignedDuration::from_secs(pieces.to_numeric_offset()?.seconds().into());
        Some(Moment { nanoseconds: (local.duration_since(EPOCH) - offset).as_nanos() })
    }

    /// Whole milliseconds since 1970 until then; before 1970 fewer than none.
    pub fn millisecond(&self) -> i64 {
        // Years have at most six digits.
        self.nanoseconds.div_euclid(1_000_000) as i64
    }

    /// The first millisecond since 1970 that does not lie before it.
    pub fn first_from(&self) -> u64 {
        let up = self.nanoseconds + 999_999;
        u64::try_from(up.div_euclid(1_000_000)).unwrap_or_default()
    }

    /// The first millisecond since 1970 that lies after it.
    pub fn first_after(&self) -> u64 {
        u64::try_from(self.nanoseconds.div_euclid(1_000_000) + 1).unwrap_or_default()
    }
}

/// Milliseconds since 1970 as RFC 3339; what lies beyond the year 9999 as its end.
pub fn format(ms: u64) -> String {
    // Within the bound no arithmetic leaves what a calendar holds.
    let since = SignedDuration::from_millis(ms.min(MAX_MS) as i64);
    format!("{:.3}Z", EPOCH.saturating_add(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millisecond(text: &str) -> Option<i64> {
        Moment::parse(text).map(|moment| moment.millisecond())
    }

    #[test]
    fn times_of_any_year_are_read() {
        let table = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-11-18T11:06:40.120Z", Some(1_795_000_000_120)),
            ("2026-11-18T12:06:40.120+01:00", Some(1_795_000_000_120)),
            ("2026-11-18t11:06:40.1209z", Some(1_795_000_000_120)),
            ("1969-12-31T23:59:59.999Z", Some(-1)),
            ("1969-12-31T23:59:59.9999Z", Some(-1)),
            ("0001-01-01T00:00:00Z", Some(-62_135_596_800_000)),
            ("9999-12-31T23:59:59Z", Some(MAX_MS as i64 - 999)),
            ("9999-12-31T23:59:59.999-12:00", Some(MAX_MS as i64 + 12 * 3_600_000)),
            ("2026-11-22", None),
            ("2026-11-22T10:00:00", None),
            ("2026-02-30T10:00:00Z", None),
            ("noon", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(millisecond(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for ms in [0, 1, 1_795_000_000_120, MAX_MS - 999, MAX_MS] {
            assert_eq!(millisecond(&format(ms)), Some(ms as i64), "{}", format(ms));
        }
        assert_eq!(format(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format(MAX_MS - 999), "9999-12-31T23:59:59.000Z");
        assert_eq!(format(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_bound_between_two_milliseconds_is_on_neither_side_of_the_wrong_one() {
        let of = |text: &str| Moment::parse(text).unwrap();
        let between = of("1970-01-01T00:00:01.0005Z");
        assert_eq!((between.first_from(), between.first_after()), (1_001, 1_001));
        let exact = of("1970-01-01T00:00:01.001Z");
        assert_eq!((exact.first_from(), exact.first_after()), (1_001, 1_002));
        let before = of("1969-07-20T20:17:40Z");
        assert_eq!((before.first_from(), before.first_after()), (0, 0));
    }
}

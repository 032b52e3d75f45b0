//! How long to wait before the next try.

use std::time::Duration;

/// The first pause: about the time a restarted router needs to listen again.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause: a person is waiting.
const LONGEST: Duration = Duration::from_secs(2);

/// The pause after failed try number `attempt` (from 0): doubling up to [`LONGEST`], of which a random part of at least
/// half, so that many clients that failed together do not come back together. `chance` is in `[0, 1)`.
pub fn backoff(attempt: u32, chance: f64) -> Duration {
    let full = FIRST.saturating_mul(1 << attempt.min(16)).min(LONGEST);
    full.mul_f64(0.5 + chance / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<_> = (0..7).map(|attempt| backoff(attempt, 0.0).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
        assert!(backoff(u32::MAX, 0.999) <= LONGEST);
    }
}

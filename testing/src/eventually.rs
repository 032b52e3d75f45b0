//! Waiting for a condition, and saying which one did not come.

use std::thread;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// What a condition answers: whether it holds (`bool`), or the value that was waited for (`Option`).
pub trait Reached {
    /// What the wait returns.
    type Value;

    /// The value, once the condition holds.
    fn reached(self) -> Option<Self::Value>;
}

impl Reached for bool {
    type Value = ();

    fn reached(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Reached for Option<T> {
    type Value = T;

    fn reached(self) -> Option<T> {
        self
    }
}

/// Asks again and again until `condition` holds, at least once and for `within` at most; returns what it gave.
///
/// A condition that awaits nothing is written the same way: `eventually("…", within, async || done())`.
///
/// # Panics
///
/// With `what` and the time waited, when the condition does not come to hold.
#[track_caller]
pub fn eventually<R: Reached>(
    what: &str,
    within: Duration,
    mut condition: impl AsyncFnMut() -> R,
) -> impl Future<Output = R::Value> {
    let caller = std::panic::Location::caller();
    async move {
        let until = tokio::time::Instant::now() + within;
        loop {
            if let Some(value) = condition().await.reached() {
                return value;
            }
            assert!(tokio::time::Instant::now() < until, "{caller}: waited {within:?} in vain: {what}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// [`eventually`] where no runtime is.
///
/// # Panics
///
/// With `what` and the time waited, when the condition does not come to hold.
#[track_caller]
pub fn eventually_blocking<R: Reached>(what: &str, within: Duration, mut condition: impl FnMut() -> R) -> R::Value {
    let until = Instant::now() + within;
    loop {
        if let Some(value) = condition().reached() {
            return value;
        }
        assert!(Instant::now() < until, "waited {within:?} in vain: {what}");
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_is_asked_until_it_holds() {
        let mut asked = 0;
        eventually("the third time", Duration::from_secs(5), async || {
            asked += 1;
            asked == 3
        })
        .await;
        assert_eq!(asked, 3);
    }

    #[tokio::test]
    async fn a_value_is_waited_for() {
        let mut left = vec![Some(7), None];
        assert_eq!(eventually("a seven", Duration::from_secs(5), async || left.pop().flatten()).await, 7);
        assert_eq!(eventually_blocking("an eight", Duration::ZERO, || Some(8)), 8);
    }

    #[test]
    #[should_panic(expected = "in vain: the sky falls")]
    fn a_condition_that_never_holds_is_named() {
        eventually_blocking("the sky falls", Duration::from_millis(1), || false);
    }
}

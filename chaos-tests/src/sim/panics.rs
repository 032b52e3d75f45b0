//! Panics of simulated tasks, which the runtime would swallow: caught by a hook, and reported by the run they belong to.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// What panicked on this thread; `None` outside a run.
    static SEEN: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let noted = SEEN.with_borrow_mut(|seen| seen.as_mut().map(|seen| seen.push(info.to_string())));
            if noted.is_none() {
                usual(info);
            }
        }));
    });
}

/// Runs `work` on this thread and tells `report` the first panic of anything in it.
pub fn caught(work: impl FnOnce(), report: impl FnOnce(String)) {
    install_hook();
    SEEN.with_borrow_mut(|seen| *seen = Some(Vec::new()));
    // What was under way stays as it is: the run ends here.
    let _ = catch_unwind(AssertUnwindSafe(work));
    let seen = SEEN.with_borrow_mut(Option::take).unwrap_or_default();
    if let Some(first) = seen.into_iter().next() {
        report(first);
    }
}

/// The first panic of the run so far.
pub fn first() -> Option<String> {
    SEEN.with_borrow(|seen| seen.as_ref()?.first().cloned())
}

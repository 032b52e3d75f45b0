//! Calls at work that their client may cancel by `notifications/cancelled`.
//!
//! The notification is a request of its own, and names what it cancels by an id that is unique within its client only. So
//! calls are known by who called, from where, in which session, and that id. Two calls at work under one such name may be
//! two clients behind one address, and then none is cancelled. A notification that reaches another router than the call
//! does nothing; closing the connection always works.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// What a call is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::api) struct CallName {
    pub(super) principal: Arc<str>,
    pub(super) address: Option<IpAddr>,
    pub(super) session: Option<Vec<u8>>,
    /// The id as it was sent: `7` and `"7"` are two.
    pub(super) id: String,
}

type Running = Arc<Mutex<HashMap<CallName, Vec<CancellationToken>>>>;

/// The calls at work.
#[derive(Debug, Default)]
pub(in crate::api) struct RunningCalls(Running);

/// A call that is at work until this is dropped.
#[derive(Debug)]
pub(in crate::api) struct RunningCall {
    name: CallName,
    token: CancellationToken,
    running: Running,
}

impl RunningCalls {
    /// A call begins.
    pub(super) fn begin(&self, name: CallName) -> RunningCall {
        let token = CancellationToken::new();
        self.0.lock().entry(name.clone()).or_default().push(token.clone());
        RunningCall { name, token, running: self.0.clone() }
    }

    /// Cancels the call of that name, if there is just one.
    pub(super) fn cancel(&self, name: &CallName) {
        if let Some([only]) = self.0.lock().get(name).map(Vec::as_slice) {
            only.cancel();
        }
    }
}

impl RunningCall {
    /// Tells when the call is cancelled.
    pub(super) fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        let others = running.get_mut(&self.name).map(|tokens| {
            let own = tokens.iter().position(|token| *token == self.token);
            own.map(|at| tokens.swap_remove(at));
            tokens.len()
        });
        if others == Some(0) {
            running.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(principal: &str, id: &str) -> CallName {
        CallName { principal: principal.into(), address: None, session: None, id: id.into() }
    }

    #[test]
    fn a_call_is_cancelled_by_its_own_client_only() {
        let calls = RunningCalls::default();
        let call = calls.begin(name("ada", "7"));
        for other in [name("bob", "7"), name("ada", "8"), name("ada", "\"7\"")] {
            calls.cancel(&other);
        }
        assert!(!call.token().is_cancelled());
        calls.cancel(&name("ada", "7"));
        assert!(call.token().is_cancelled());
        drop(call);
        assert!(calls.0.lock().is_empty(), "an ended call is forgotten");
    }

    #[test]
    fn a_name_that_two_calls_have_cancels_neither() {
        let calls = RunningCalls::default();
        let (one, two) = (calls.begin(name("ada", "7")), calls.begin(name("ada", "7")));
        calls.cancel(&name("ada", "7"));
        assert!(!one.token().is_cancelled() && !two.token().is_cancelled());
        drop(one);
        calls.cancel(&name("ada", "7"));
        assert!(two.token().is_cancelled());
    }
}

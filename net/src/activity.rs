//! What a connection is doing, and until when it may go on doing it.
//!
//! hyper limits the time of a head only for HTTP/1, counts the pause between two requests into it, and reads the first
//! bytes, which tell the version, without any limit. So the time is kept here, for both versions, from what the stream
//! reads and from the requests that begin and end.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::server::ServerSettings;

/// The phase of one connection. Its stream, its requests and the task that drives it share this.
#[derive(Debug)]
pub(crate) struct Activity {
    head_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
    phase: Mutex<Phase>,
    /// Since when the peer has taken nothing of what is to be sent.
    blocked: Mutex<Option<Instant>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Opened, or a request has begun to arrive: its head has to end.
    Head { since: Instant },
    /// So many requests are under way.
    Serving { requests: usize },
    /// No request.
    Idle { since: Instant },
    /// Told to close after it was idle.
    Closing { since: Instant },
}

/// What is to be done about a connection now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing; look again then.
    Wait(Instant),
    /// It was idle for too long: end it in order.
    Close,
    /// Its time for a head, or for closing, is over.
    Cut,
}

impl Activity {
    pub(crate) fn new(settings: &ServerSettings, now: Instant) -> Self {
        let &ServerSettings { head_timeout, idle_timeout, write_timeout, .. } = settings;
        let phase = Mutex::new(Phase::Head { since: now });
        Self { head_timeout, idle_timeout, write_timeout, phase, blocked: Mutex::default() }
    }

    /// Something was to be written: the peer took some of it, or nothing.
    pub(crate) fn wrote(&self, took: bool, now: Instant) {
        let mut blocked = self.blocked.lock();
        *blocked = if took { None } else { blocked.or(Some(now)) };
    }

    /// A byte of a request arrived.
    pub(crate) fn head_begins(&self, now: Instant) {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Idle { .. }) {
            *phase = Phase::Head { since: now };
        }
    }

    /// The connection is made and waits for its first request.
    pub(crate) fn opened(&self, now: Instant) {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Head { .. }) {
            *phase = Phase::Idle { since: now };
        }
    }

    /// The head of a request has arrived.
    pub(crate) fn request_begins(&self) {
        let mut phase = self.phase.lock();
        *phase = match *phase {
            Phase::Serving { requests } => Phase::Serving { requests: requests + 1 },
            Phase::Head { .. } | Phase::Idle { .. } | Phase::Closing { .. } => Phase::Serving { requests: 1 },
        };
    }

    /// The last byte of a request's answer is handed over.
    pub(crate) fn request_ends(&self, now: Instant) {
        let mut phase = self.phase.lock();
        if let Phase::Serving { requests } = *phase {
            *phase = match requests {
                0 | 1 => Phase::Idle { since: now },
                _ => Phase::Serving { requests: requests - 1 },
            };
        }
    }

    /// The connection has been told to close.
    pub(crate) fn closing(&self, now: Instant) {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Idle { .. }) {
            *phase = Phase::Closing { since: now };
        }
    }

    /// What is to be done at `now`.
    pub(crate) fn due(&self, now: Instant) -> Due {
        let taken_by = self.blocked.lock().map(|since| since + self.write_timeout);
        match (self.due_of_phase(now), taken_by) {
            (_, Some(taken_by)) if taken_by <= now => Due::Cut,
            (Due::Wait(until), Some(taken_by)) => Due::Wait(until.min(taken_by)),
            (due, _) => due,
        }
    }

    fn due_of_phase(&self, now: Instant) -> Due {
        let (until, then) = match *self.phase.lock() {
            Phase::Head { since } | Phase::Closing { since } => (since + self.head_timeout, Due::Cut),
            Phase::Idle { since } => (since + self.idle_timeout, Due::Close),
            // Requests of HTTP/2 end in tasks of their own, which do not wake the connection's: it looks again.
            Phase::Serving { .. } => return Due::Wait(now + self.idle_timeout),
        };
        if now < until { Due::Wait(until) } else { then }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(100);

    const WRITE: Duration = Duration::from_secs(60);

    fn activity(now: Instant) -> Activity {
        let (head_timeout, idle_timeout, write_timeout) = (HEAD, IDLE, WRITE);
        Activity::new(&ServerSettings { head_timeout, idle_timeout, write_timeout, ..ServerSettings::default() }, now)
    }

    #[test]
    fn an_answer_that_nobody_takes_ends_its_connection() {
        let start = Instant::now();
        let activity = activity(start);
        activity.request_begins();
        activity.wrote(false, start);
        activity.wrote(false, start + WRITE / 2);
        assert_eq!(activity.due(start), Due::Wait(start + WRITE), "a second try does not prolong it");
        activity.wrote(true, start + WRITE / 2);
        assert_eq!(activity.due(start + WRITE), Due::Wait(start + WRITE + IDLE), "some of it was taken");
        activity.wrote(false, start + WRITE);
        assert_eq!(activity.due(start + 2 * WRITE), Due::Cut);
    }

    #[test]
    fn a_head_has_its_time_from_the_connection_or_the_first_byte_on() {
        let start = Instant::now();
        let activity = activity(start);
        assert_eq!(activity.due(start), Due::Wait(start + HEAD));
        activity.head_begins(start + HEAD / 2);
        assert_eq!(activity.due(start + HEAD), Due::Cut, "its first byte does not prolong it");

        let answered = start + HEAD;
        activity.request_begins();
        activity.request_ends(answered);
        assert_eq!(activity.due(answered + HEAD), Due::Wait(answered + IDLE));
        activity.head_begins(answered + IDLE / 2);
        assert_eq!(activity.due(answered + IDLE / 2 + HEAD), Due::Cut);
    }

    #[test]
    fn a_connection_is_idle_when_its_last_request_has_ended() {
        let start = Instant::now();
        let activity = activity(start);
        activity.opened(start);
        activity.request_begins();
        activity.request_begins();
        activity.request_ends(start);
        let later = start + 10 * IDLE;
        assert_eq!(activity.due(later), Due::Wait(later + IDLE), "a request has its own deadline");
        activity.head_begins(later);
        activity.request_ends(later);
        assert_eq!(activity.due(later + IDLE), Due::Close);
    }

    #[test]
    fn closing_has_an_end_unless_a_request_came_first() {
        let start = Instant::now();
        let activity = activity(start);
        activity.opened(start);
        activity.closing(start);
        assert_eq!(activity.due(start + HEAD), Due::Cut);
        activity.request_begins();
        assert_eq!(activity.due(start + HEAD), Due::Wait(start + HEAD + IDLE));
        activity.request_ends(start);
        assert_eq!(activity.due(start + IDLE), Due::Close);
    }
}

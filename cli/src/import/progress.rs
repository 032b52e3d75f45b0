//! What a person sees while an import runs: a bar on a terminal, a line every few seconds elsewhere.

use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar};

use crate::output;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows progress on standard error, in bytes of the sources and documents per second.
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    started: Instant,
    last_line: Instant,
    bytes_total: u64,
    bytes_resumed: Option<u64>,
}

impl Progress {
    /// `bytes_total` is 0 where it cannot be known.
    pub fn new(bytes_total: u64) -> Self {
        let plain = !console::user_attended_stderr();
        let template = match bytes_total {
            0 => "{spinner} {bytes} read  {msg}",
            _ => "[{bar:30}] {bytes}/{total_bytes}  {msg}",
        };
        let bar = output::bar((bytes_total > 0).then_some(bytes_total), template);
        let now = Instant::now();
        Progress { bar, plain, started: now, last_line: now, bytes_total, bytes_resumed: None }
    }

    /// Shows that `documents` were handled and the sources are done up to `bytes`.
    pub fn update(&mut self, documents: u64, bytes: u64) {
        let rate = documents as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let left = self.time_left(bytes).map(|left| format!(", {} left", HumanDuration(left))).unwrap_or_default();
        let message = format!("{documents} documents, {rate:.0}/s{left}");
        self.bar.set_position(bytes);
        if self.plain && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let percent =
                (bytes * 100).checked_div(self.bytes_total).map(|done| format!("{done} %, ")).unwrap_or_default();
            output::say(&format!("{percent}{message}"));
        }
        self.bar.set_message(message);
    }

    /// From the bytes done in this run; those skipped at its start say nothing about speed.
    fn time_left(&mut self, bytes: u64) -> Option<Duration> {
        let first = *self.bytes_resumed.get_or_insert(bytes);
        let (done, left) = (bytes.saturating_sub(first), self.bytes_total.saturating_sub(bytes));
        (done > 0 && left > 0).then(|| self.started.elapsed().mul_f64(left as f64 / done as f64))
    }

    /// A line that stays.
    pub fn report(&self, line: &str) {
        self.bar.suspend(|| output::say(line));
    }

    /// Takes the bar away.
    pub fn finish(self) -> Duration {
        self.bar.finish_and_clear();
        self.started.elapsed()
    }
}

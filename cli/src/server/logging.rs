//! What a server writes to its log, and how.
//!
//! Three rules that no setting changes. A line is one line: what callers choose (ids, names, paths) may hold a line's end,
//! so every value is written with its control characters spelt out. Libraries write no more than warnings, because at other
//! levels they write whole requests; the one that speaks MCP writes errors only, since its warnings quote callers too.
//! Our own code says everything it has to say, and never contents.

use std::fmt::{self, Write};

use clap::ValueEnum;
use serde::Deserialize;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::error::CliError;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line, for collectors
    Json,
}

/// Logs to standard error. RUST_LOG says how much of our own; `default_level` is what is logged without it.
pub fn start_logging(format: LogFormat, default_level: &str) -> Result<(), CliError> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(text) => EnvFilter::try_new(&text).map_err(|error| CliError::Usage(format!("RUST_LOG={text}: {error}")))?,
        Err(_) => EnvFilter::new(default_level),
    };
    tracing_subscriber::registry().with(lines(format, filter, std::io::stderr)).init();
    Ok(())
}

/// The lines of a log.
fn lines<S, W>(format: LogFormat, filter: EnvFilter, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let filter = FilterExt::<S>::and(filter, filter_fn(may_speak));
    match format {
        LogFormat::Text => {
            let fields = debug_fn(|writer, field, value| {
                if field.name() != "message" {
                    write!(writer, "{}=", field.name())?;
                }
                write!(OneLine(writer), "{value:?}")
            });
            let colours = console::colors_enabled_stderr();
            layer.fmt_fields(fields.delimited(" ")).with_ansi(colours).with_filter(filter).boxed()
        }
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    }
}

/// Whether an event may be written whatever RUST_LOG says.
fn may_speak(metadata: &Metadata<'_>) -> bool {
    let most = match metadata.target().split("::").next() {
        Some(library) if library == "mira" || library.starts_with("mira_") => Level::TRACE,
        Some("rmcp") => Level::ERROR,
        _ => Level::WARN,
    };
    *metadata.level() <= most
}

/// Writes text without the characters that end a line or drive a terminal.
struct OneLine<'a, W>(&'a mut W);

impl<W: Write> Write for OneLine<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in crate::terminal::spelt_out(text).chars() {
            match c {
                '\n' => self.0.write_str("\\n")?,
                '\t' => self.0.write_str("\\t")?,
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged while `work` runs, at every level that RUST_LOG could ask for.
    fn logged(format: LogFormat, work: impl FnOnce()) -> String {
        let log = Log::default();
        let writer = log.clone();
        let layer = lines(format, EnvFilter::new("trace"), move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn no_value_can_begin_a_line_of_its_own() {
        let forged = "1\n2026-01-01T00:00:00Z ERROR mira: all is lost\u{1b}[2J\r\u{2028}";
        for format in [LogFormat::Text, LogFormat::Json] {
            let log = logged(format, || {
                tracing::info!(target: "mira_router", id = forged, shown = %forged, debugged = ?forged, "said {forged}");
                let span = tracing::info_span!(target: "mira_router", "request", id = forged);
                span.in_scope(|| tracing::warn!(target: "mira_router", "within"));
            });
            assert_eq!(log.lines().count(), 2, "{log}");
            assert!(!log.contains(['\u{1b}', '\r', '\u{2028}']) || format == LogFormat::Json, "{log:?}");
            assert!(log.contains("all is lost"), "{log}");
        }
    }

    #[test]
    fn libraries_cannot_be_made_to_write_what_they_read() {
        let log = logged(LogFormat::Text, || {
            tracing::debug!(target: "rmcp::service", request = "a secret", "received request");
            tracing::warn!(target: "rmcp::service", error = "a secret", "response error");
            tracing::info!(target: "h2::codec", "a secret");
            tracing::trace!(target: "hyper::proto", "a secret");
            tracing::debug!(target: "openraft::core", "a secret");
            tracing::warn!(target: "openraft::core", "a peer is gone");
            tracing::trace!(target: "mira_node::shard", "frames read");
        });
        assert!(!log.contains("a secret"), "{log}");
        assert!(log.contains("a peer is gone") && log.contains("frames read"), "{log}");
    }
}

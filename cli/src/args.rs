//! What all verbs share on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use mira_proto::model::Consistency;
use mira_proto::names;
use mira_proto::time::Moment;

/// Which router to ask, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub struct Remote {
    /// Address of a router.
    #[arg(long, env = "MIRA_URL", hide_env_values = true, default_value = "http://127.0.0.1:7890")]
    pub url: reqwest::Url,

    /// File that holds the access token. The variable MIRA_TOKEN wins over it; without both, a router on this machine
    /// gets the token that `mira dev` left in its data folder.
    #[arg(long, env = "MIRA_TOKEN_FILE", hide_env_values = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// File that holds the key of your private memories, base64 of 32 bytes. The variables MIRA_OWNER_KEY and
    /// MIRA_OWNER_PASSPHRASE win over it.
    #[arg(long, env = "MIRA_OWNER_KEY_FILE", hide_env_values = true, value_name = "FILE")]
    pub owner_key_file: Option<PathBuf>,

    /// Give up after this long; until then busy or unreachable routers are tried again (such as 500ms, 30s, 2m). Storing
    /// long texts is given the time they need on top.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub timeout: Duration,

    /// Print the answer as JSON.
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// What a read must have seen.
#[derive(Debug, Clone, Args)]
pub struct Freshness {
    /// How fresh the answer must be [default: that of the operation].
    #[arg(long, value_enum)]
    consistency: Option<Level>,

    /// A consistency token from an earlier answer: this answer has seen at least what that one had.
    #[arg(long, value_name = "TOKEN")]
    pub at_least: Option<String>,
}

/// [`Consistency`] with a help text for each value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Everything acknowledged before, confirmed by a majority
    Linearizable,
    /// What the shard's leader knows
    Leader,
    /// What any replica knows; the answer says how old that is
    Any,
}

impl Freshness {
    /// The level that was asked for.
    pub fn consistency(&self) -> Option<Consistency> {
        self.consistency.map(|level| match level {
            Level::Linearizable => Consistency::Linearizable,
            Level::Leader => Consistency::Leader,
            Level::Any => Consistency::Any,
        })
    }
}

/// Reads `500ms`, `30s`, `1m 30s`, `30d`. A day has 24 hours.
pub fn duration(text: &str) -> Result<Duration, String> {
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let parsed = text.parse::<jiff::Span>().and_then(|span| span.to_duration(days));
    let parsed = parsed.map_err(|_| "not a length of time; write it like 500ms, 30s, 2m or 30d".to_owned())?;
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be longer than nothing".to_owned()),
    }
}

/// Reads the name of a collection, as the cluster keeps it.
pub fn collection_name(text: &str) -> Result<String, String> {
    names::collection(text).map_err(|error| format!("a collection's name {error}"))
}

/// Reads an RFC 3339 time.
pub fn moment(text: &str) -> Result<Moment, String> {
    Moment::parse(text).ok_or_else(|| "not an RFC 3339 time such as 2026-11-22T10:00:00Z".to_owned())
}

/// Where `mira dev` keeps its cluster when it is not told: `$XDG_DATA_HOME/mira/dev`, else under `~/.local/share`.
pub fn default_data_folder() -> Option<PathBuf> {
    let base = match std::env::var_os("XDG_DATA_HOME").filter(|value| !value.is_empty()) {
        Some(base) => PathBuf::from(base),
        None => std::env::home_dir()?.join(".local/share"),
    };
    Some(base.join("mira/dev"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for wrong in ["", "30", "soon", "0s", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_none_of_a_collection() {
        assert_eq!(collection_name("team/cafe\u{301}").as_deref(), Ok("team/caf\u{e9}"));
        for wrong in ["", ".", "..", "a/../b", "a b", "a\u{202e}b"] {
            assert!(collection_name(wrong).is_err(), "{wrong:?}");
        }
    }
}

//! `mira admin collections tune`: find the beam with which searches of a collection reach a recall.

use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use mira_proto::limits;
use mira_proto::model::{TuneReply, TuneRequest};

use crate::args::{Remote, collection_name};
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub struct Tune {
    /// Its name
    #[arg(value_parser = collection_name)]
    name: String,
    /// The share of the truly nearest that an answer is to hold, above 0 and at most 1
    #[arg(long, value_name = "SHARE", default_value_t = limits::DEFAULT_TUNED_RECALL, value_parser = share)]
    recall: f64,
    /// Hits of an answer
    #[arg(short, long, default_value_t = limits::DEFAULT_K)]
    k: u32,
    /// Of the vectors of this name, instead of the collection's own
    #[arg(long, value_name = "NAME")]
    using: Option<String>,
    /// Only show what was measured
    #[arg(long)]
    dry_run: bool,
    /// Go back to the index's own beam; nothing is measured
    #[arg(long, conflicts_with_all = ["recall", "k", "dry_run"])]
    reset: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Tune {
    /// Measures, sets and prints.
    pub async fn run(self) -> Result<(), CliError> {
        let request = if self.reset {
            TuneRequest { reset: true, using: self.using.clone(), ..TuneRequest::default() }
        } else {
            TuneRequest {
                recall: Some(self.recall),
                k: Some(self.k),
                dry_run: self.dry_run,
                using: self.using.clone(),
                reset: false,
            }
        };
        let client = Client::new(&self.remote)?;
        let spinner = self.spinner();
        let reply = client.tune_collection(&self.name, &request).await;
        spinner.finish_and_clear();
        output::print_answer(&reply?, self.remote.json, |reply| self.summary(reply))
    }

    fn spinner(&self) -> ProgressBar {
        let spinner = if self.reset {
            ProgressBar::hidden()
        } else {
            output::bar(None, "{spinner} measuring {msg}, {elapsed} of at most {prefix}")
        };
        spinner.set_message(self.name.clone());
        spinner.set_prefix(format!("{:?}", self.remote.timeout));
        spinner.enable_steady_tick(TICK);
        spinner
    }

    fn summary(&self, reply: &TuneReply) -> String {
        let name = &self.name;
        if self.reset {
            return format!("{name} uses the index's own beam again; before: {}\n", beam(reply.before));
        }
        if reply.scanned {
            return format!(
                "{name} is small: every search compares with all of its {} vectors, so there is nothing to tune\n",
                reply.vectors
            );
        }
        let table = output::beams(reply, self.k);
        let asked = format!("asked with {} of {} vectors", reply.samples, reply.vectors);
        let (before, goal) = (beam(reply.before), format!("recall@{} of {}", self.k, self.recall));
        let said = match (reply.ef, self.dry_run) {
            (Some(ef), true) => format!("{name} would get ef {ef} for a {goal}; now: {before}"),
            (Some(ef), false) if reply.before == Some(ef) => format!("{name} keeps ef {ef} for a {goal}"),
            (Some(ef), false) => format!("{name} has ef {ef} for a {goal}; before: {before}"),
            (None, _) => format!("no beam reaches a {goal}; now: {before}"),
        };
        format!("{table}{asked}\n{said}\n")
    }
}

fn beam(ef: Option<u32>) -> String {
    ef.map_or("the index's own".to_owned(), |ef| format!("ef {ef}"))
}

/// A share above 0 and at most 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("not a number above 0 and at most 1".to_owned()),
    }
}

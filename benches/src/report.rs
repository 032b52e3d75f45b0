//! Figures, beside the goals they are judged by, with what they were measured on.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::chart::Chart;
use crate::load::Summary;
use crate::machine::Machine;
use crate::numbers::digits;

/// The form of the JSON; raised when a reader must change.
pub const REPORT_VERSION: u32 = 1;

/// One run's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// RFC 3339 time of the last measurement.
    pub measured_at: String,
    /// What it ran on.
    pub machine: Machine,
    /// What it ran with, as (name, value).
    pub parameters: Vec<(String, String)>,
    /// The figures, by measurement.
    pub parts: Vec<Part>,
    /// What is better seen than read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charts: Vec<Chart>,
}

/// What one measurement found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its figures.
    pub figures: Vec<Figure>,
}

/// One line of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// What came out.
    pub value: Value,
    /// What it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// Latencies of a load.
    Latency(Summary),
    /// One number.
    Amount {
        /// How much.
        amount: f64,
        /// Of what.
        unit: String,
    },
    /// Why there is none.
    Absent(String),
}

/// What a figure should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// In words.
    pub text: String,
    /// Whether it is.
    pub met: bool,
}

impl Figure {
    /// Latencies.
    pub fn latency(what: impl Into<String>, summary: Summary) -> Figure {
        Figure { what: what.into(), value: Value::Latency(summary), goal: None }
    }

    /// A number.
    pub fn amount(what: impl Into<String>, amount: f64, unit: impl Into<String>) -> Figure {
        Figure { what: what.into(), value: Value::Amount { amount, unit: unit.into() }, goal: None }
    }

    /// None, and why.
    pub fn absent(what: impl Into<String>, why: impl Into<String>) -> Figure {
        Figure { what: what.into(), value: Value::Absent(why.into()), goal: None }
    }

    /// With its goal.
    pub fn goal(self, text: impl Into<String>, met: bool) -> Figure {
        Figure { goal: Some(Goal { text: text.into(), met }), ..self }
    }
}

impl Report {
    /// A report without figures.
    pub fn new(machine: Machine, parameters: Vec<(String, String)>) -> Report {
        Report {
            version: REPORT_VERSION,
            measured_at: now(),
            machine,
            parameters,
            parts: Vec::new(),
            charts: Vec::new(),
        }
    }

    /// The report in a file, to be continued, if it was made on this machine with these parameters.
    pub fn resume(file: &Path, fresh: Report) -> Report {
        let text = fs::read_to_string(file).unwrap_or_default();
        match serde_json::from_str::<Report>(&text) {
            Ok(old)
                if old.version == fresh.version
                    && old.machine == fresh.machine
                    && old.parameters == fresh.parameters =>
            {
                old
            }
            _ => fresh,
        }
    }

    /// Puts a measurement in, in place of an earlier one of its name.
    pub fn put(&mut self, name: &str, figures: Vec<Figure>) {
        let part = Part { name: name.to_owned(), figures };
        match self.parts.iter_mut().find(|known| known.name == name) {
            Some(known) => *known = part,
            None => self.parts.push(part),
        }
        self.measured_at = now();
    }

    /// The chart of this title; an empty one where there is none yet.
    pub fn chart(&mut self, title: &str, across: &str, up: &str) -> &mut Chart {
        let at = self.charts.iter().position(|chart| chart.title == title).unwrap_or_else(|| {
            self.charts.push(Chart::new(title, across, up));
            self.charts.len() - 1
        });
        &mut self.charts[at]
    }

    /// Writes it as JSON, whole or not at all.
    pub fn write_json(&self, file: &Path) -> Result<(), BenchError> {
        let text = serde_json::to_string_pretty(self).map_err(|error| BenchError::Wrong(error.to_string()))?;
        let part = file.with_added_extension("part");
        fs::write(&part, text + "\n").and_then(|()| fs::rename(&part, file)).map_err(BenchError::io(file))
    }

    /// How many goals are met, and which are not, in a line.
    pub fn verdict(&self) -> String {
        let figures = self.parts.iter().flat_map(|part| &part.figures);
        let goals: Vec<_> = figures.filter_map(|figure| Some((&figure.what, figure.goal.as_ref()?))).collect();
        let missed: Vec<String> =
            goals.iter().filter(|(_, goal)| !goal.met).map(|(what, goal)| format!("{what} ({})", goal.text)).collect();
        if missed.is_empty() {
            format!("verdict: all {} goals are met", goals.len())
        } else {
            format!(
                "verdict: {} of {} goals are met; not: {}",
                goals.len() - missed.len(),
                goals.len(),
                missed.join("; ")
            )
        }
    }

    /// As a section for a README.
    pub fn to_markdown(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "Measured {} on {} cores of {}, {} GiB, {}, {}.\n",
            self.measured_at.split('T').next().unwrap_or_default(),
            machine.cores,
            machine.cpu,
            machine.memory_gib,
            machine.system,
            machine.file_system
        );
        for (name, value) in &self.parameters {
            text += &format!("{name}: {value}. ");
        }
        let figures = || self.parts.iter().flat_map(|part| &part.figures);
        text += "\n\n| what | p50 ms | p99 ms | longest ms | per second | servers, µs each | goal |\n";
        text += "|---|---:|---:|---:|---:|---:|---|\n";
        for figure in figures() {
            if let Value::Latency(summary) = &figure.value {
                let cells = [summary.p50_ms, summary.p99_ms, summary.max_ms, summary.per_second].map(digits);
                let servers = summary.servers_time().unwrap_or_default();
                text += &format!("| {} | {} | {servers} | {} |\n", figure.what, cells.join(" | "), goal(figure));
            }
        }
        text += "\n| what | figure | goal |\n|---|---:|---|\n";
        for figure in figures() {
            match &figure.value {
                Value::Latency(_) => {}
                Value::Amount { amount, unit } => {
                    text += &format!("| {} | {} {unit} | {} |\n", figure.what, digits(*amount), goal(figure));
                }
                Value::Absent(why) => text += &format!("| {} | {why} | |\n", figure.what),
            }
        }
        text
    }
}

fn goal(figure: &Figure) -> String {
    match &figure.goal {
        Some(goal) => format!("{}: {}", goal.text, if goal.met { "met" } else { "**missed**" }),
        None => String::new(),
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let machine = Machine {
            cpu: "Abacus".into(),
            cores: 2,
            memory_gib: 23.5,
            system: "Linux 6".into(),
            file_system: "ext4".into(),
        };
        Report::new(machine, vec![("Shards".into(), "16".into())])
    }

    #[test]
    fn a_part_measured_again_takes_the_place_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        let mut first = report();
        first.put("store", vec![Figure::amount("frames", 1.0, "frames")]);
        first.put("search", vec![]);
        first.write_json(&file).unwrap();
        first.chart("cost", "documents", "µs").put("one", 10.0, 3.0);
        first.write_json(&file).unwrap();
        let mut second = Report::resume(&file, report());
        second.chart("cost", "documents", "µs").put("one", 100.0, 4.0);
        assert_eq!(second.charts.len(), 1, "a chart is gone on with");
        assert_eq!(second.charts[0].lines[0].points, [(10.0, 3.0), (100.0, 4.0)]);
        second.put("store", vec![Figure::amount("frames", 2.0, "frames").goal("2", true)]);
        assert_eq!(second.parts.len(), 2);
        assert_eq!(second.parts[0].figures[0].value, Value::Amount { amount: 2.0, unit: "frames".into() });
        let mut other = report();
        other.machine.cores = 64;
        assert!(Report::resume(&file, other).parts.is_empty(), "figures of two machines are not mixed");
    }

    #[test]
    fn the_tables_say_what_was_met() {
        let summary = Summary {
            count: 10,
            p50_ms: 1.234,
            p99_ms: 12.345,
            max_ms: 123.4,
            per_second: 0.5,
            servers_us: Some(405.2),
            indexing_us: Some(98.1),
        };
        let elsewhere = Summary { servers_us: None, indexing_us: None, ..summary.clone() };
        let mut report = report();
        report.put(
            "search",
            vec![
                Figure::latency("store", summary),
                Figure::latency("search", elsewhere).goal("p99 < 5 ms", false),
                Figure::amount("recall@10", 0.987, "").goal("0.95", true),
                Figure::absent("etcd", "not installed"),
            ],
        );
        let text = report.to_markdown();
        assert!(text.contains("| store | 1.23 | 12.3 | 123 | 0.500 | 405 (98.1 of it to index) |  |"), "{text}");
        assert!(text.contains("| search | 1.23 | 12.3 | 123 | 0.500 |  | p99 < 5 ms: **missed** |"), "{text}");
        assert!(text.contains("| recall@10 | 0.987  | 0.95: met |"), "{text}");
        assert!(text.contains("| etcd | not installed | |"), "{text}");
        assert!(text.contains("2 cores of Abacus"), "{text}");
    }
}

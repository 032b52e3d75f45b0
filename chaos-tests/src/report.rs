//! What came of a run of many rounds: one JSON document, and one page that a person can read without anything else.

use std::{collections::BTreeMap, fmt::Write, fs, io, path::Path, time::Duration};

use serde::Serialize;

use crate::round::{Outcomes, RoundReport};

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Seed of the first round; each later round has the next number.
    pub seed: u64,
    /// How long the run took.
    pub seconds: f64,
    /// How many faults of each kind.
    pub faults: BTreeMap<String, u64>,
    /// Operations by name and outcome.
    pub operations: BTreeMap<String, Outcomes>,
    /// Why operations failed.
    pub reasons: BTreeMap<String, u64>,
    /// The longest time without an acknowledged write in some shard, and during which faults.
    pub longest_unavailability: Unavailability,
    /// From a leader's death to the next acknowledged write.
    pub stalls: Stalls,
    /// Longest time to be in order after the last fault of a round.
    pub longest_recovery_seconds: f64,
    /// Rounds in which three collections grew over twice the shards, and the longest that took.
    pub grown: u64,
    /// From the first order to the last frame in its place.
    pub longest_growth_seconds: f64,
    /// Broken promises.
    pub violations: Vec<Violation>,
    /// Faults that the machine does not permit.
    pub not_possible: Vec<String>,
    /// The rounds.
    pub rounds: Vec<RoundReport>,
}

/// The longest time without an acknowledged write in some shard.
#[derive(Debug, Default, Serialize)]
pub struct Unavailability {
    /// For how long.
    pub seconds: f64,
    /// Seed of the round.
    pub seed: u64,
    /// What was broken meanwhile.
    pub faults: Vec<String>,
}

/// Times from the death of a shard's leader to the next acknowledged write.
#[derive(Debug, Default, Serialize)]
pub struct Stalls {
    /// How many.
    pub count: usize,
    /// Half were shorter, seconds.
    pub p50: f64,
    /// 99 of 100 were shorter, seconds.
    pub p99: f64,
    /// The longest, seconds.
    pub longest: f64,
}

/// A broken promise.
#[derive(Debug, Serialize)]
pub struct Violation {
    /// Replays the round.
    pub seed: u64,
    /// What was seen.
    pub what: String,
}

impl Report {
    /// Sums up rounds.
    pub fn of(seed: u64, time: Duration, rounds: Vec<RoundReport>) -> Report {
        let mut report = Report {
            seed,
            seconds: time.as_secs_f64(),
            faults: BTreeMap::new(),
            operations: BTreeMap::new(),
            reasons: BTreeMap::new(),
            longest_unavailability: Unavailability::default(),
            stalls: stalls(rounds.iter().flat_map(|round| round.stalls.iter().copied()).collect()),
            longest_recovery_seconds: 0.0,
            grown: 0,
            longest_growth_seconds: 0.0,
            violations: Vec::new(),
            not_possible: Vec::new(),
            rounds: Vec::new(),
        };
        for round in &rounds {
            report.add(round);
        }
        report.not_possible.sort();
        report.not_possible.dedup();
        report.rounds = rounds;
        report
    }

    fn add(&mut self, round: &RoundReport) {
        for event in &round.events {
            *self.faults.entry(event.kind.name()).or_default() += 1;
        }
        for (name, outcomes) in &round.operations {
            let sum = self.operations.entry(name.clone()).or_default();
            sum.ok += outcomes.ok;
            sum.refused += outcomes.refused;
            sum.unknown += outcomes.unknown;
        }
        for (reason, count) in &round.reasons {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
        let gap = round.longest_gap;
        if gap.length.as_secs_f64() > self.longest_unavailability.seconds {
            let during = round.events.iter().filter(|event| event.from < gap.from + gap.length && event.to > gap.from);
            self.longest_unavailability = Unavailability {
                seconds: gap.length.as_secs_f64(),
                seed: round.seed,
                faults: during.map(|event| event.kind.name()).collect(),
            };
        }
        self.longest_recovery_seconds = self.longest_recovery_seconds.max(round.recovery.as_secs_f64());
        self.grown += u64::from(round.growth.is_some());
        self.longest_growth_seconds = self.longest_growth_seconds.max(round.growth.unwrap_or_default().as_secs_f64());
        self.violations.extend(round.violations.iter().map(|what| Violation { seed: round.seed, what: what.clone() }));
        self.not_possible.extend(round.not_possible.iter().cloned());
    }

    /// Writes `report.json` and `report.html` into a folder.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("report.json"), serde_json::to_vec_pretty(self)?)?;
        fs::write(folder.join("report.html"), self.page())
    }

    /// A few lines for a terminal.
    pub fn summary(&self) -> String {
        let sum = |part: fn(&Outcomes) -> u64| self.operations.values().map(part).sum::<u64>();
        let faults: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let mut text = format!(
            "rounds {}, faults {} ({})\noperations: {} ok, {} refused, {} unknown\n\
             after a leader's death: p50 {:.2} s, p99 {:.2} s, longest {:.2} s ({} deaths of shard leaders)\n\
             longest unavailability of a shard: {:.1} s (seed {}, during {})\nlongest recovery: {:.1} s\n\
             rounds in which collections grew: {}, longest growth: {:.1} s\n",
            self.rounds.len(),
            self.faults.values().sum::<u64>(),
            faults.join(", "),
            sum(|outcomes| outcomes.ok),
            sum(|outcomes| outcomes.refused),
            sum(|outcomes| outcomes.unknown),
            self.stalls.p50,
            self.stalls.p99,
            self.stalls.longest,
            self.stalls.count,
            self.longest_unavailability.seconds,
            self.longest_unavailability.seed,
            self.longest_unavailability.faults.join(", "),
            self.longest_recovery_seconds,
            self.grown,
            self.longest_growth_seconds,
        );
        for missing in &self.not_possible {
            let _ = writeln!(text, "NOT TESTED, because this machine does not permit it: {missing}");
        }
        let _ = writeln!(text, "violations: {}", self.violations.len());
        for violation in &self.violations {
            let _ = writeln!(text, "  seed {}: {}", violation.seed, violation.what);
        }
        text
    }

    fn page(&self) -> String {
        let mut page = format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>MIRA chaos run, seed {0}</title><style>{STYLE}</style>\
             <h1>MIRA chaos run</h1><p>Seed {0}, {1} rounds in {2:.1} minutes. \
             Replay a round: <code>make chaos MINUTES=1 SEED=…</code> with the round's seed.</p>",
            self.seed,
            self.rounds.len(),
            self.seconds / 60.0
        );
        page += &match self.violations.is_empty() {
            true => "<p class=good>No violation.</p>".to_owned(),
            false => {
                let row = |violation: &Violation| vec![violation.seed.to_string(), violation.what.clone()];
                let rows = self.violations.iter().map(row);
                format!("<p class=bad>{} violations.</p>{}", self.violations.len(), table(&["seed", "what"], rows))
            }
        };
        for missing in &self.not_possible {
            let _ = write!(
                page,
                "<p class=bad>Not tested, because this machine does not permit it: {}</p>",
                escape(missing)
            );
        }
        page += "<h2>Figures</h2>";
        page += &table(&["what", "value"], self.figures().into_iter().map(|(what, value)| vec![what.into(), value]));
        page += "<h2>Faults</h2>";
        page +=
            &table(&["kind", "times"], self.faults.iter().map(|(kind, count)| vec![kind.clone(), count.to_string()]));
        page += "<h2>Operations</h2>";
        let operations = self.operations.iter().map(|(name, outcomes)| {
            vec![name.clone(), outcomes.ok.to_string(), outcomes.refused.to_string(), outcomes.unknown.to_string()]
        });
        page += &table(&["operation", "ok", "refused (nothing done)", "unknown"], operations);
        page += "<h2>Why operations failed</h2>";
        page +=
            &table(&["reason", "times"], self.reasons.iter().map(|(why, count)| vec![why.clone(), count.to_string()]));
        for round in &self.rounds {
            page += &round_section(round);
        }
        page
    }

    fn figures(&self) -> Vec<(&'static str, String)> {
        let unavailability = &self.longest_unavailability;
        vec![
            ("stall after the death of a shard's leader, p50", format!("{:.2} s", self.stalls.p50)),
            ("the same, p99", format!("{:.2} s", self.stalls.p99)),
            ("the same, longest", format!("{:.2} s of {}", self.stalls.longest, self.stalls.count)),
            (
                "longest unavailability of a shard for writes",
                format!("{:.2} s, during {}", unavailability.seconds, unavailability.faults.join(", ")),
            ),
            ("longest recovery after the last fault of a round", format!("{:.2} s", self.longest_recovery_seconds)),
            ("longest growth of three collections", format!("{:.2} s, of {}", self.longest_growth_seconds, self.grown)),
        ]
    }
}

fn stalls(mut all: Vec<Duration>) -> Stalls {
    all.sort();
    let rank = |share: f64| {
        let at = ((all.len() as f64 * share).ceil() as usize).clamp(1, all.len().max(1)) - 1;
        all.get(at).map_or(0.0, Duration::as_secs_f64)
    };
    Stalls { count: all.len(), p50: rank(0.5), p99: rank(0.99), longest: rank(1.0) }
}

fn round_section(round: &RoundReport) -> String {
    let row = |event: &crate::nemesis::Event| {
        let (from, to) = (event.from.as_secs_f64(), event.to.as_secs_f64());
        vec![event.kind.name(), format!("{from:.1}"), format!("{to:.1}"), event.note.clone()]
    };
    format!(
        "<h2>Round with seed {}</h2>{}{}",
        round.seed,
        timeline(round),
        table(&["fault", "from (s)", "to (s)", "who, and what was seen"], round.events.iter().map(row))
    )
}

/// Operations by second, done and failed, over the times of the faults.
fn timeline(round: &RoundReport) -> String {
    const HEIGHT: f64 = 120.0;
    let width = 1_000.0 / round.seconds.len().max(1) as f64;
    let most = round.seconds.iter().map(|second| second.ok + second.failed).max().unwrap_or(1).max(1);
    let scale = HEIGHT / f64::from(most);
    let mut svg = format!("<svg viewBox='0 0 1000 {HEIGHT}' role=img aria-label='operations by second'>");
    for event in &round.events {
        let (from, to) = (event.from.as_secs_f64() * width, event.to.as_secs_f64() * width);
        let _ = write!(
            svg,
            "<rect class=fault x={from:.1} y=0 width={:.1} height={HEIGHT}><title>{}</title></rect>",
            to - from,
            event.kind.name()
        );
    }
    for (at, second) in round.seconds.iter().enumerate() {
        let (ok, failed) = (f64::from(second.ok) * scale, f64::from(second.failed) * scale);
        let x = at as f64 * width;
        let bar = width * 0.8;
        let _ = write!(
            svg,
            "<rect class=ok x={x:.1} y={:.1} width={bar:.1} height={ok:.1} />\
             <rect class=failed x={x:.1} y={:.1} width={bar:.1} height={failed:.1} />",
            HEIGHT - ok,
            HEIGHT - ok - failed
        );
    }
    svg + "</svg><p>Operations by second (blue: done, red: failed), faults in grey.</p>"
}

fn table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect::<String>()
    };
    let head = cells("th", &mut heads.iter().copied());
    let rows: String =
        rows.map(|row| format!("<tr>{}</tr>", cells("td", &mut row.iter().map(String::as_str)))).collect();
    format!("<table><tr>{head}</tr>{rows}</table>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}\
    table{border-collapse:collapse;margin:.5rem 0}th,td{border:1px solid #ccc;padding:.2rem .6rem;text-align:left;\
    vertical-align:top;white-space:pre-wrap;overflow-wrap:anywhere}svg{width:100%;height:auto;border:1px solid #ccc}\
    .good{color:#060;font-weight:bold}.bad{color:#a00;font-weight:bold}.fault{fill:#ddd}.ok{fill:#4878a8}.failed{fill:#c44}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_list() {
        let all = (1..=100).rev().map(Duration::from_secs).collect();
        let stalls = stalls(all);
        assert_eq!((stalls.count, stalls.p50, stalls.p99, stalls.longest), (100, 50.0, 99.0, 100.0));
        assert_eq!(super::stalls(Vec::new()).p99, 0.0);
    }

    #[test]
    fn a_page_shows_text_as_text() {
        assert_eq!(
            table(&["a"], std::iter::once(vec!["<b>".into()])),
            "<table><tr><th>a</th></tr><tr><td>&lt;b&gt;</td></tr></table>"
        );
    }
}

//! Reports as one HTML page that needs nothing beside it: tables, bars on a logarithmic scale, and charts.

use std::fmt::Write;

use crate::chart::escaped;
use crate::load::Summary;
use crate::numbers::digits;
use crate::report::{Figure, Report, Value};

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem;color:#1c2530;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}p{color:#56616e}
table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;border-bottom:1px solid #e3e7ec;text-align:right}
td:first-child,th:first-child{text-align:left}td.bars{width:32%;text-align:left}
svg{display:block;width:100%;height:14px}svg.chart{height:auto;max-width:50rem}.met{color:#19764b}.missed{color:#b3261e;font-weight:600}
@media(prefers-color-scheme:dark){body{color:#dfe5ec;background:#14181d}p{color:#98a3b0}td,th{border-color:#2b333c}}";

/// The page.
pub fn of(reports: &[Report]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>MIRA: figures</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head>\n<body>\n\
         <h1>MIRA: figures</h1>\n"
    );
    let latencies = || reports.iter().flat_map(|report| &report.parts).flat_map(|part| &part.figures);
    let scale = BarScale::over(latencies().filter_map(|figure| match &figure.value {
        Value::Latency(summary) => Some(summary),
        _ => None,
    }));
    for report in reports {
        let machine = &report.machine;
        let what = format!(
            "{} cores of {}, {} GiB, {}, {}",
            machine.cores, machine.cpu, machine.memory_gib, machine.system, machine.file_system
        );
        let _ = writeln!(page, "<p>Measured {} on {}.", escaped(&report.measured_at), escaped(&what));
        for (name, value) in &report.parameters {
            let _ = writeln!(page, "{}: {}.", escaped(name), escaped(value));
        }
        page.push_str("</p>\n");
        for part in &report.parts {
            let _ = writeln!(
                page,
                "<h2>{}</h2>\n<table><tr><th>what</th><th>p50</th><th>p99</th><th>per second</th><th>p50 to p99, ms, logarithmic</th><th>goal</th></tr>",
                escaped(&part.name)
            );
            part.figures.iter().for_each(|figure| row(&mut page, figure, &scale));
            page.push_str("</table>\n");
        }
        for chart in &report.charts {
            let _ = writeln!(page, "<h2>{}</h2>\n{}", escaped(&chart.title), chart.to_svg());
        }
    }
    page.push_str("</body></html>\n");
    page
}

fn row(page: &mut String, figure: &Figure, scale: &BarScale) {
    let cells = match &figure.value {
        Value::Latency(summary) => format!(
            "<td>{} ms</td><td>{} ms</td><td>{}</td><td class=\"bars\">{}</td>",
            digits(summary.p50_ms),
            digits(summary.p99_ms),
            digits(summary.per_second),
            scale.bar(summary)
        ),
        Value::Amount { amount, unit } => {
            format!("<td colspan=\"3\">{} {}</td><td></td>", digits(*amount), escaped(unit))
        }
        Value::Absent(why) => format!("<td colspan=\"3\">{}</td><td></td>", escaped(why)),
    };
    let goal = match &figure.goal {
        None => String::new(),
        Some(goal) => {
            let word = if goal.met { "met" } else { "missed" };
            format!("<span class=\"{word}\">{}: {word}</span>", escaped(&goal.text))
        }
    };
    let _ = writeln!(page, "<tr><td>{}</td>{cells}<td>{goal}</td></tr>", escaped(&figure.what));
}

/// Where a latency lies between the least and the greatest of a page.
struct BarScale {
    low: f64,
    high: f64,
}

impl BarScale {
    fn over<'a>(summaries: impl Iterator<Item = &'a Summary>) -> BarScale {
        let (mut low, mut high) = (f64::MAX, 1e-3);
        for summary in summaries {
            low = f64::min(low, summary.p50_ms.max(1e-3));
            high = f64::max(high, summary.p99_ms);
        }
        BarScale { low: low.min(high), high }
    }

    /// Per cent of the width.
    fn at(&self, ms: f64) -> f64 {
        let width = (self.high / self.low).ln().max(1e-9);
        ((ms.max(self.low) / self.low).ln() / width * 98.0).clamp(0.0, 98.0)
    }

    fn bar(&self, summary: &Summary) -> String {
        let (from, to) = (self.at(summary.p50_ms), self.at(summary.p99_ms));
        format!(
            "<svg><rect x=\"0\" y=\"3\" width=\"{:.1}%\" height=\"8\" fill=\"#2f6fd0\"/>\
             <rect x=\"{:.1}%\" y=\"3\" width=\"{:.1}%\" height=\"8\" fill=\"#9bbcf0\"/></svg>",
            from + 2.0,
            from + 2.0,
            (to - from).max(0.0)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    #[test]
    fn a_page_shows_every_figure_and_runs_nothing_it_was_given() {
        let machine = Machine {
            cpu: "<script>".into(),
            cores: 2,
            memory_gib: 24.0,
            system: "Linux".into(),
            file_system: "ext4".into(),
        };
        let mut report = Report::new(machine, vec![]);
        let summary = |p50_ms, p99_ms| Summary {
            count: 1,
            p50_ms,
            p99_ms,
            max_ms: p99_ms,
            per_second: 10.0,
            servers_us: None,
            indexing_us: None,
        };
        report.put(
            "store",
            vec![
                Figure::latency("quick", summary(1.0, 2.0)).goal("p99 < 5 ms", true),
                Figure::latency("slow", summary(10.0, 100.0)).goal("p99 < 5 ms", false),
                Figure::amount("frames", 7.0, "frames"),
                Figure::absent("peer", "not installed"),
            ],
        );
        report.chart("<b>cost", "documents", "µs").put("one replica", 10.0, 3.0);
        let page = of(&[report]);
        assert!(!page.contains("<b>") && page.contains("&lt;b&gt;cost") && page.contains("one replica"));
        assert!(!page.contains("<script>"));
        for wanted in ["quick", "slow", "7.00 frames", "not installed", "p99 &lt; 5 ms: met", "p99 &lt; 5 ms: missed"] {
            assert!(page.contains(wanted), "{wanted} in {page}");
        }
        assert_eq!(page.matches("<svg>").count(), 2);
    }
}

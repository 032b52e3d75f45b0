//! Lines over a count that grows by powers of ten, as SVG that needs nothing beside it.
//!
//! A chart is kept in the report as its points, so that a run which is continued adds to it, and whoever reads the
//! report can draw it otherwise. Across it is logarithmic; upwards it is linear and begins at 0, so that a line that
//! looks flat is flat.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::numbers::digits;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
/// Room for the numbers on the left, the names above, the numbers below and the last number on the right.
const LEFT: f64 = 56.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 44.0;
const RIGHT: f64 = 24.0;
/// Lines across the chart.
const STEPS: u32 = 4;
/// One for each line; the first again after the last.
const COLOURS: [&str; 6] = ["#2f6fd0", "#c2571a", "#19764b", "#8b3fb0", "#b3261e", "#5c6670"];

/// Some lines over the same scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// What grows from left to right.
    pub across: String,
    /// What the lines are, with the unit.
    pub up: String,
    /// The lines.
    pub lines: Vec<Line>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its points from left to right; each x once, and above 0.
    pub points: Vec<(f64, f64)>,
}

impl Chart {
    /// Without lines.
    pub fn new(title: impl Into<String>, across: impl Into<String>, up: impl Into<String>) -> Chart {
        Chart { title: title.into(), across: across.into(), up: up.into(), lines: Vec::new() }
    }

    /// Adds a point to a line, in place of one that it has there.
    pub fn put(&mut self, line: &str, x: f64, y: f64) {
        assert!(x > 0.0 && y >= 0.0 && x.is_finite() && y.is_finite(), "a point at {x}, {y} of {line}");
        let at = self.lines.iter().position(|known| known.name == line).unwrap_or_else(|| {
            self.lines.push(Line { name: line.to_owned(), points: Vec::new() });
            self.lines.len() - 1
        });
        let points = &mut self.lines[at].points;
        points.retain(|point| point.0 != x);
        points.push((x, y));
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }

    /// A line by its name.
    pub fn line(&self, name: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.name == name)
    }

    /// The picture.
    pub fn to_svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (least, most) =
            points().fold((f64::MAX, f64::MIN), |(low, high), point| (low.min(point.0), high.max(point.0)));
        let highest = round_up(points().fold(0.0, |high, point| f64::max(high, point.1)));
        let scale = LogScale { least: least.min(most), decades: (most / least).log10().max(1e-9), highest };
        let mut svg = format!(
            "<svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"system-ui,sans-serif\" font-size=\"11\" fill=\"currentColor\" role=\"img\">\n\
             <title>{}</title>\n",
            escaped(&self.title)
        );
        self.draw_axes(&mut svg, &scale);
        for (number, line) in self.lines.iter().enumerate() {
            line.draw(&mut svg, &scale, COLOURS[number % COLOURS.len()]);
        }
        self.draw_names(&mut svg);
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_axes(&self, svg: &mut String, scale: &LogScale) {
        for step in 0..=STEPS {
            let value = scale.highest * f64::from(step) / f64::from(STEPS);
            let y = scale.y(value);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"currentColor\" stroke-opacity=\".15\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                digits(value)
            );
        }
        let mut marks: Vec<f64> = self.lines.iter().flat_map(|line| &line.points).map(|point| point.0).collect();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        for mark in marks {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                scale.x(mark),
                HEIGHT - BOTTOM + 16.0,
                count(mark)
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(12 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 8.0,
            escaped(&self.across),
            (TOP + HEIGHT - BOTTOM) / 2.0,
            escaped(&self.up)
        );
    }

    fn draw_names(&self, svg: &mut String) {
        let room = (WIDTH - LEFT - RIGHT) / self.lines.len().max(1) as f64;
        for (number, line) in self.lines.iter().enumerate() {
            let x = LEFT + room * number as f64;
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} 12h14\" stroke=\"{}\" stroke-width=\"2\"/><text x=\"{:.1}\" y=\"16\">{}</text>",
                COLOURS[number % COLOURS.len()],
                x + 18.0,
                escaped(&line.name)
            );
        }
    }
}

impl Line {
    fn draw(&self, svg: &mut String, scale: &LogScale, colour: &str) {
        let places: Vec<(f64, f64)> = self.points.iter().map(|&(x, y)| (scale.x(x), scale.y(y))).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for ((x, y), point) in places.iter().zip(&self.points) {
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{}: {}</title></circle>",
                count(point.0),
                digits(point.1)
            );
        }
    }
}

/// From values to places.
struct LogScale {
    least: f64,
    decades: f64,
    highest: f64,
}

impl LogScale {
    fn x(&self, value: f64) -> f64 {
        LEFT + (value / self.least).log10() / self.decades * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.highest * (HEIGHT - TOP - BOTTOM)
    }
}

/// The next of 1, 2, 4, 5, 8 and 10 times a power of ten, so that quarters of it are short numbers.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|&round| round >= value).unwrap_or(10.0 * power)
}

/// `10 K`, `1 M`.
pub fn count(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", short(v / 1e6)),
        v if v >= 1e3 => format!("{} K", short(v / 1e3)),
        v => short(v),
    }
}

fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    text.trim_end_matches(".0").to_owned()
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_where_their_values_are() {
        let mut chart = Chart::new("cost <of> it", "documents", "µs");
        for (x, y) in [(1e6, 40.0), (1e4, 20.0), (1e5, 99.0), (1e5, 30.0)] {
            chart.put("three replicas", x, y);
        }
        assert_eq!(chart.lines[0].points, [(1e4, 20.0), (1e5, 30.0), (1e6, 40.0)], "in order, the last value counts");
        let svg = chart.to_svg();
        // Left edge and half the height; the middle; right edge and the top.
        let (bottom, high) = (HEIGHT - BOTTOM, HEIGHT - TOP - BOTTOM);
        let wanted = format!(
            "points=\"{LEFT:.1},{:.1} {:.1},{:.1} {:.1},{TOP:.1}\"",
            bottom - high * 0.5,
            (LEFT + WIDTH - RIGHT) / 2.0,
            bottom - high * 0.75,
            WIDTH - RIGHT
        );
        assert!(svg.contains(&wanted), "{wanted} in {svg}");
        for wanted in ["cost &lt;of&gt; it", ">10 K<", ">1 M<", "three replicas", ">documents<"] {
            assert!(svg.contains(wanted), "{wanted} in {svg}");
        }
    }

    #[test]
    fn one_point_and_none_are_drawn_too() {
        let mut chart = Chart::new("few", "documents", "ms");
        assert!(!chart.to_svg().contains("NaN"));
        chart.put("one", 300.0, 0.0);
        let svg = chart.to_svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn scales_end_on_round_numbers() {
        for (value, round) in [(0.0, 1.0), (1.0, 1.0), (17.0, 20.0), (41.0, 50.0), (0.9, 1.0), (99.0, 100.0)] {
            assert!((round_up(value) / round - 1.0).abs() < 1e-9, "{value}: {}", round_up(value));
        }
    }
}

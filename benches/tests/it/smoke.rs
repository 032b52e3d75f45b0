//! The cluster benchmark at tiny sizes, so that it works when figures are wanted: every part gives figures, and those
//! that do not depend on the machine's speed are right.

use std::path::Path;

use mira_benches::chart::Line;
use mira_benches::input::Input;
use mira_benches::report::{Figure, Report, Value};
use tempfile::TempDir;

use crate::run::{Options, PartName, Points};

fn options(folder: &Path, parts: Vec<PartName>) -> Options {
    Options {
        parts,
        quick: true,
        input: Input::Invented { dim: 384 },
        out: folder.join("out"),
        dir: folder.join("data"),
        points: Points { sizes: vec![300, 2_500], replication: vec![1, 3], resume: true },
        peer_documents: 2_500,
    }
}

fn assert_figures(report: &Report) {
    for part in &report.parts {
        assert!(!part.figures.is_empty(), "{}", part.name);
        for figure in &part.figures {
            let there = match &figure.value {
                Value::Latency(summary) => summary.count > 0 && summary.p50_ms <= summary.max_ms,
                Value::Amount { amount, .. } => amount.is_finite(),
                Value::Absent(_) => false,
            };
            assert!(there, "{figure:?}");
        }
    }
}

/// The figures whose names begin so; at least one.
fn figures<'a>(report: &'a Report, what: &str) -> Vec<&'a Figure> {
    let all = report.parts.iter().flat_map(|part| &part.figures);
    let found: Vec<&Figure> = all.filter(|figure| figure.what.starts_with(what)).collect();
    assert!(!found.is_empty(), "no {what}");
    found
}

fn assert_met(report: &Report, what: &str) {
    for figure in figures(report, what) {
        assert!(figure.goal.as_ref().is_some_and(|goal| goal.met), "{figure:?}");
    }
}

fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_gives_figures() {
    let folder = folder();
    let shared = |part: &PartName| !part.is_extra() && *part != PartName::Etcd;
    let options = options(folder.path(), PartName::ALL.into_iter().filter(shared).collect());
    let (out, dir, parts) = (options.out.clone(), options.dir.clone(), options.parts.len());
    let report = crate::run::run(options).await.unwrap().remove(0);

    assert_eq!(report.parts.len(), parts);
    assert_figures(&report);
    for what in ["acknowledged writes lost", "errors that a client saw", "recall@10 among 300"] {
        assert_met(&report, what);
    }
    for what in [
        "search 300 documents beside an import of 300 into another collection, 4 callers",
        "search 300 documents beside an import of 300 into their own collection, 1 caller: p99 over",
        "store 1000 frames of 256 bytes a request, 1 writer, private",
        "store 1 frame of 1024 bytes a request, 8 writers, plain",
        "search 300 private frames, of which a filter keeps a tenth, again",
        "upload 5 MiB over REST",
        "download 5 MiB over REST",
        "resident memory of the router during the upload",
    ] {
        figures(&report, what);
    }
    let written: Report = serde_json::from_slice(&std::fs::read(out.join("cluster.json")).unwrap()).unwrap();
    assert_eq!(written.to_markdown(), report.to_markdown());
    assert!(std::fs::read_to_string(out.join("cluster.md")).unwrap().contains("| search 300 documents, vector given"));
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "nothing is left behind");
}

/// The larger of two sizes has a graph; the smaller is compared with everything.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_is_measured_of_every_size() {
    let folder = folder();
    let options = options(folder.path(), vec![PartName::Scale]);
    let report = crate::run::run(options.clone()).await.unwrap().remove(0);
    assert_figures(&report);
    let names: Vec<&str> = report.parts.iter().map(|part| part.name.as_str()).collect();
    let points = ["300", "2.5 K"].map(|size| [1, 3].map(|of| format!("{size} documents, replication {of}")));
    let points = points.as_flattened().iter().map(String::as_str);
    let wanted: Vec<&str> =
        ["the vectors"].into_iter().chain(points).chain(["from the smallest to the largest"]).collect();
    assert_eq!(names, wanted);
    // How much is found is up to the vectors: invented ones are all about equally far from each other.
    assert!(figures(&report, "recall@10").len() >= 4);
    assert_eq!(figures(&report, "start of all nodes: until their indexes are complete").len(), 4);
    assert_eq!(figures(&report, "cost of a document, CPU, replication 3").len(), 1);
    for chart in &report.charts {
        let sizes = |line: &Line| line.points.iter().map(|point| point.0).collect::<Vec<f64>>();
        assert_eq!(chart.lines.len(), 4, "{}", chart.title);
        assert!(chart.lines.iter().all(|line| sizes(line) == [300.0, 2_500.0]), "{chart:?}");
    }
    let page = std::fs::read_to_string(options.out.join("scale.html")).unwrap();
    assert_eq!(page.matches("class=\"chart\"").count(), report.charts.len());

    let again = crate::run::run(options).await.unwrap().remove(0);
    assert_eq!(again.measured_at, report.measured_at, "what was measured is not measured again");
    assert_eq!(again.to_markdown(), report.to_markdown());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs chromadb from PyPI where it is not yet"]
async fn chroma_is_measured_beside() {
    let folder = folder();
    let report = crate::run::run(options(folder.path(), vec![PartName::Peers])).await.unwrap().remove(0);
    assert_figures(&report);
    assert!(figures(&report, "MIRA's own beam").len() >= 10);
    assert!(figures(&report, "MIRA tuned").len() >= 10);
}

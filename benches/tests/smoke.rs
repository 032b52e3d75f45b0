//! The cluster benchmark at tiny sizes, so that it works when figures are wanted: every part gives figures, and those
//! that do not depend on the machine's speed are right.

#[path = "../benches/cluster/run.rs"]
#[allow(dead_code, reason = "the benchmark uses more of it")]
mod run;

use mira_benches::input::Input;
use mira_benches::report::{Report, Value};
use run::{Options, PartName};

#[tokio::test(flavor = "multi_thread")]
async fn every_part_gives_figures() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let parts = PartName::ALL.into_iter().filter(|&part| part != PartName::Etcd).collect();
    let (out, dir) = (folder.path().join("out"), folder.path().join("data"));
    let options =
        Options { parts, quick: true, input: Input::Invented { dim: 384 }, out: out.clone(), dir: dir.clone() };
    let report = run::run(options).await.unwrap();

    assert_eq!(report.parts.len(), PartName::ALL.len() - 1);
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
    for what in ["acknowledged writes lost", "errors that a client saw", "recall@10 among 300"] {
        let figures = || report.parts.iter().flat_map(|part| &part.figures);
        let figure = figures().find(|figure| figure.what.starts_with(what)).unwrap_or_else(|| panic!("no {what}"));
        assert!(figure.goal.as_ref().is_some_and(|goal| goal.met), "{figure:?}");
    }
    let written: Report = serde_json::from_slice(&std::fs::read(out.join("cluster.json")).unwrap()).unwrap();
    assert_eq!(written.to_markdown(), report.to_markdown());
    assert!(std::fs::read_to_string(out.join("cluster.md")).unwrap().contains("| search 300 documents, vector given"));
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "nothing is left behind");
}

//! One round: a new cluster, callers at work, the faults of a seed, and the judgement.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;

use crate::{
    checker,
    cluster::{Cluster, Shape},
    history::{History, Operation, Outcome},
    nemesis::{Event, Kind, Nemesis, in_order, plan},
    workload::{self, Caller, register, set, visibility},
};

/// Callers of each workload.
const REGISTER_CALLERS: u32 = 4;
const SET_CALLERS: u32 = 2;
const VISIBILITY_CALLERS: u32 = 2;
/// A shard without an acknowledged write for so long before its leader's death is not in use.
const IN_USE: Duration = Duration::from_secs(2);
/// How long a cluster may take to be in order when all faults are healed.
const RECOVERY: Duration = Duration::from_secs(90);

/// What a round is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Decides the faults and what the callers ask.
    pub seed: u64,
    /// Kinds of faults.
    pub kinds: Vec<Kind>,
    /// How long faults come.
    pub time: Duration,
    /// Where evidence goes when a promise was broken.
    pub folder: PathBuf,
}

/// How often which outcome was.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Outcomes {
    /// Done.
    pub ok: u64,
    /// Certainly not done.
    pub refused: u64,
    /// Nobody knows.
    pub unknown: u64,
}

/// A second of a round.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Second {
    /// Operations done.
    pub ok: u32,
    /// Operations that failed.
    pub failed: u32,
}

/// A time without an acknowledged write.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Gap {
    /// In which shard.
    pub shard: u32,
    /// From when.
    pub from: Duration,
    /// For how long.
    pub length: Duration,
}

/// What came of a round.
#[derive(Debug, Clone, Serialize)]
pub struct RoundReport {
    /// Replays it.
    pub seed: u64,
    /// The faults.
    pub events: Vec<Event>,
    /// Operations by name.
    pub operations: BTreeMap<String, Outcomes>,
    /// Why operations failed.
    pub reasons: BTreeMap<String, u64>,
    /// Operations by the second in which they ended.
    pub seconds: Vec<Second>,
    /// The longest time without an acknowledged write in some shard.
    pub longest_gap: Gap,
    /// After each death of a shard's leader, the time to the first acknowledgement of a write that came later.
    pub stalls: Vec<Duration>,
    /// How long the cluster took to be in order when all faults were healed.
    pub recovery: Duration,
    /// How long three collections took to grow from half of the shards over all of them, in the midst of the faults.
    pub growth: Option<Duration>,
    /// Broken promises. None is the only good number.
    pub violations: Vec<String>,
    /// Faults that this machine does not permit.
    pub not_possible: Vec<String>,
}

/// An acknowledged write.
struct Written {
    called: Duration,
    returned: Duration,
    shard: u32,
}

/// What the callers of all workloads noted.
struct Histories {
    registers: History<checker::register::Call, checker::register::Answer>,
    sets: History<checker::set::Call, checker::set::Answer>,
    documents: History<checker::visibility::Call, checker::visibility::Answer>,
}

/// Runs a round.
pub async fn run(settings: &Settings) -> RoundReport {
    let shape = Shape {
        routers: 2,
        proxied: true,
        small_disk: settings.kinds.contains(&Kind::FullDisk).then_some(""),
        ..Shape::default()
    };
    let mut cluster = Cluster::start(shape).await;
    let client = cluster.client_of_all();
    workload::prepare(&client, shape.shards).await;

    let seed = settings.seed;
    let began = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let caller = |process| Caller::new(process, seed, client.clone(), stop.clone());
    let histories =
        Histories { registers: History::new(began), sets: History::new(began), documents: History::new(began) };
    let elements = Arc::new(AtomicU64::new(0));
    let mut processes = 0..;
    let mut next = || processes.next().expect("numbers do not end");
    let registers: Vec<_> = (0..REGISTER_CALLERS)
        .map(|_| tokio::spawn(register::run(caller(next()), seed, histories.registers.clone())))
        .collect();
    let sets: Vec<_> = (0..SET_CALLERS)
        .map(|_| tokio::spawn(set::run(caller(next()), elements.clone(), histories.sets.clone())))
        .collect();
    let documents: Vec<_> = (0..VISIBILITY_CALLERS)
        .map(|_| tokio::spawn(visibility::run(caller(next()), histories.documents.clone())))
        .collect();

    // Somewhere in the first half of the faults, as the seed says.
    let after = settings.time.mul_f64(StdRng::seed_from_u64(seed).random_range(0.0..0.5));
    let growing = tokio::spawn(workload::grow(client.clone(), shape.shards, after));

    let mut events = Vec::new();
    let mut nemesis = Nemesis::new(&mut cluster, began);
    for step in plan(seed, &settings.kinds, settings.time) {
        let event = nemesis.execute(&step).await;
        println!(
            "  {:>6.1} s  {:<16} {:.1} s  {}",
            event.from.as_secs_f64(),
            event.kind.name(),
            (event.to - event.from).as_secs_f64(),
            event.note
        );
        events.push(event);
    }
    let mut violations: Vec<String> = events.iter().flat_map(|event| event.violations.clone()).collect();

    // All is healed. The callers go on until the cluster is in order, so that recovery under load is measured too.
    let healed = Instant::now();
    if let Err(status) = cluster.status_when(RECOVERY, in_order).await {
        violations.push(format!("not in order {RECOVERY:?} after all faults were healed: {status}"));
    }
    let recovery = healed.elapsed();
    let growth = match tokio::time::timeout(RECOVERY, growing).await {
        Ok(grown) => grown.map_err(|error| violations.push(format!("the growth of collections failed: {error}"))).ok(),
        Err(_) => {
            violations.push(format!("collections have not grown {RECOVERY:?} after all faults were healed"));
            None
        }
    };
    stop.store(true, Ordering::Relaxed);
    let ended = (
        futures::future::join_all(registers).await,
        futures::future::join_all(sets).await,
        futures::future::join_all(documents).await,
    );
    violations.extend(broken(&ended.0).chain(broken(&ended.1)).chain(broken(&ended.2)));
    let documents: Vec<_> = ended.2.into_iter().flatten().flatten().collect();

    violations.extend(register::read_all(caller(next()), seed, histories.registers.clone()).await);
    let added = elements.load(Ordering::Relaxed);
    violations.extend(set::read_all(caller(next()), added, histories.sets.clone()).await);
    violations.extend(visibility::read_all(caller(next()), &documents, &histories.documents).await);
    if let Err(status) = cluster.status_when(RECOVERY, replicas_agree).await {
        violations.push(format!("replicas do not agree: {status}"));
    }

    let mut report = RoundReport {
        seed,
        events,
        operations: BTreeMap::new(),
        reasons: BTreeMap::new(),
        seconds: Vec::new(),
        longest_gap: Gap::default(),
        stalls: Vec::new(),
        recovery,
        growth,
        violations,
        not_possible: cluster.no_small_disk.iter().map(|why| format!("full-disk: {why}")).collect(),
    };
    judge(&mut report, histories, &settings.folder);
    if !report.violations.is_empty() {
        keep_logs(&cluster, &settings.folder);
    }
    report
}

/// Callers that met an answer they could not read.
fn broken<T>(ended: &[Result<T, tokio::task::JoinError>]) -> impl Iterator<Item = String> {
    ended.iter().filter_map(|end| end.as_ref().err().map(|error| format!("a caller failed: {error}")))
}

/// Every replica of a shard has applied the same and holds the same number of frames, all of them indexed.
fn replicas_agree(status: &serde_json::Value) -> bool {
    let agree = |group: &serde_json::Value| {
        let replicas = group["replicas"].as_array().cloned().unwrap_or_default();
        replicas
            .windows(2)
            .all(|pair| pair[0]["applied"] == pair[1]["applied"] && pair[0]["frames"] == pair[1]["frames"])
            && replicas.iter().all(|replica| replica["index_lag"] == 0)
    };
    in_order(status) && status["groups"].as_array().is_some_and(|groups| groups.iter().all(agree))
}

fn judge(report: &mut RoundReport, histories: Histories, folder: &Path) {
    let (registers, sets, documents) = (histories.registers.take(), histories.sets.take(), histories.documents.take());
    let mut writes = Vec::new();
    use checker::{register::Action, set::Call as SetCall, visibility::Call as DocumentCall};
    tally(report, &mut writes, &registers, |operation| match operation.call.action {
        Action::Write { .. } => "register write",
        Action::CompareAndSet { .. } => "register compare-and-set",
        Action::Read => "register read",
    });
    tally(report, &mut writes, &sets, |operation| match operation.call {
        SetCall::Add { .. } => "set add",
        SetCall::ReadAll { .. } => "set read",
    });
    tally(report, &mut writes, &documents, |operation| match operation.call {
        DocumentCall::Store { .. } => "document store",
        DocumentCall::Search { .. } => "document search",
    });
    writes.sort_by_key(|write| write.returned);
    report.longest_gap = longest_gap(&writes);
    report.stalls = stalls(&report.events, &writes);

    let found =
        [checker::register::check(&registers), checker::set::check(&sets), checker::visibility::check(&documents)];
    report.violations.extend(found.into_iter().flatten());
    if !report.violations.is_empty() {
        keep(folder, "registers.json", &registers);
        keep(folder, "sets.json", &sets);
        keep(folder, "documents.json", &documents);
    }
}

fn tally<C, A>(
    report: &mut RoundReport,
    writes: &mut Vec<Written>,
    operations: &[Operation<C, A>],
    name: impl Fn(&Operation<C, A>) -> &'static str,
) {
    for operation in operations {
        let outcomes = report.operations.entry(name(operation).to_owned()).or_default();
        let second = operation.returned.as_secs() as usize;
        if report.seconds.len() <= second {
            report.seconds.resize(second + 1, Second::default());
        }
        match &operation.outcome {
            Outcome::Ok(_) => {
                outcomes.ok += 1;
                report.seconds[second].ok += 1;
                // Only writes are answered with a token that names their shard alone; searches name all they asked.
                let is_write = !name(operation).ends_with("search");
                writes.extend(operation.shard.filter(|_| is_write).map(|shard| Written {
                    called: operation.called,
                    returned: operation.returned,
                    shard,
                }));
                continue;
            }
            Outcome::Refused(why) => {
                outcomes.refused += 1;
                *report.reasons.entry(format!("refused: {why}")).or_default() += 1;
            }
            Outcome::Unknown(why) => {
                outcomes.unknown += 1;
                *report.reasons.entry(format!("unknown: {why}")).or_default() += 1;
            }
        }
        report.seconds[second].failed += 1;
    }
}

/// `writes` by the time they returned.
fn longest_gap(writes: &[Written]) -> Gap {
    let mut last: BTreeMap<u32, Duration> = BTreeMap::new();
    let mut longest = Gap::default();
    for write in writes {
        if let Some(from) = last.insert(write.shard, write.returned)
            && write.returned - from > longest.length
        {
            longest = Gap { shard: write.shard, from, length: write.returned - from };
        }
    }
    longest
}

fn stalls(events: &[Event], writes: &[Written]) -> Vec<Duration> {
    let orphans = events.iter().flat_map(|event| event.orphans.iter().map(move |&shard| (event.from, shard)));
    let stall = |(died, shard): (Duration, u32)| {
        // Nobody stalls in a shard that is not written to: one that a growth is yet to add.
        let was_in_use =
            |write: &Written| write.shard == shard && write.returned <= died && died - write.returned < IN_USE;
        writes.iter().find(|write| was_in_use(write))?;
        let later = writes.iter().find(|write| write.shard == shard && write.called >= died)?;
        Some(later.returned - died)
    };
    orphans.filter_map(stall).collect()
}

fn keep(folder: &Path, name: &str, history: &impl Serialize) {
    let _ = std::fs::create_dir_all(folder);
    let text = serde_json::to_vec(history).expect("a history is JSON");
    if let Err(error) = std::fs::write(folder.join(name), text) {
        println!("  {name} is not kept: {error}");
    }
}

fn keep_logs(cluster: &Cluster, folder: &Path) {
    for entry in std::fs::read_dir(cluster.folder()).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "log") {
            let _ = std::fs::copy(entry.path(), folder.join(entry.file_name()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(shard: u32, called: u64, returned: u64) -> Written {
        Written { called: Duration::from_millis(called), returned: Duration::from_millis(returned), shard }
    }

    #[test]
    fn gaps_and_stalls_are_measured_by_shard() {
        let writes =
            [written(0, 0, 10), written(1, 0, 20), written(0, 30, 40), written(1, 900, 1_000), written(0, 0, 1_010)];
        let gap = longest_gap(&writes);
        assert_eq!((gap.shard, gap.from.as_millis(), gap.length.as_millis()), (1, 20, 980));
        let event = |orphans| Event {
            kind: Kind::KillLeader,
            note: String::new(),
            from: Duration::from_millis(25),
            to: Duration::ZERO,
            orphans,
            violations: Vec::new(),
        };
        let stalls = stalls(&[event(vec![0, 1])], &writes);
        assert_eq!(stalls, [Duration::from_millis(15), Duration::from_millis(975)]);
    }
}

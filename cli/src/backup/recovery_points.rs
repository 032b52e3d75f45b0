//! Which recovery points the backups of a place offer, and what each is made of.
//!
//! A backup shows each collection of each shard at a position of its own, and from the latest of these times on the
//! logs can be replayed over it: the logs that it holds itself, and with those of the backups after it, as long as every shard's log
//! goes on without a hole and no collection has grown or got another key. A recovery point is what every entry has done that
//! carries a time up to it. So a log tells everything up to before the time of its last entry: others of that very millisecond may
//! follow.

use std::collections::{BTreeMap, BTreeSet};

use mira_proto::{Code, Problem, time};
use uuid::Uuid;

use super::manifest::{Log, LogPage, Manifest, Object, SignedManifest};

/// The version of a collection's first key.
const FIRST_KEY: u32 = 1;

/// The recovery points of a backup: any time from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub from_ms: u64,
    pub until_ms: u64,
}

/// Why no log can be replayed over a backup any further.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// No later backup is there.
    Newest,
    /// A shard did not keep its log long enough.
    Forgotten { shard: u32, from_ms: u64 },
    /// A collection grew or got another key before this backup.
    Changed { collection: u64, before: String },
}

/// How far the logs can be replayed over a backup.
struct Reach {
    from_ms: u64,
    /// Backups whose logs are of use, each with the time up to which they are complete with those before.
    steps: Vec<(usize, u64)>,
    end: End,
}

/// What a recovery point is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The backup over which the logs are replayed.
    pub base: usize,
    /// The last one whose logs are needed: what it says of the cluster is what comes back.
    pub closing: usize,
}

/// A page of a log, and where it lies.
#[derive(Debug, Clone)]
pub struct Placed {
    pub backup: Uuid,
    pub number: u32,
    pub after: u64,
    pub object: Object,
}

/// Milliseconds since the epoch as people write them.
pub fn text(ms: u64) -> String {
    time::format(ms)
}

/// The recovery points of the backup `at`; none if it has no frames, or no logs.
pub fn window(manifests: &[SignedManifest], at: usize) -> Option<Window> {
    let manifests: Vec<&Manifest> = manifests.iter().map(|found| &found.manifest).collect();
    let reach = reach(&manifests, at)?;
    Some(Window { from_ms: reach.from_ms, until_ms: reach.steps.last()?.1 })
}

/// What the recovery point `at_ms` is made of: the newest backup that stands wholly at or before it, and the logs since.
pub fn plan(manifests: &[SignedManifest], at_ms: u64) -> Result<Plan, Problem> {
    let manifests: Vec<&Manifest> = manifests.iter().map(|found| &found.manifest).collect();
    planned(&manifests, at_ms)
}

fn planned(manifests: &[&Manifest], at_ms: u64) -> Result<Plan, Problem> {
    let reaches: Vec<(usize, Reach)> =
        (0..manifests.len()).filter_map(|at| Some((at, reach(manifests, at)?))).collect();
    let possible = || {
        let windows = reaches.iter().filter_map(|(_, reach)| Some((reach.from_ms, reach.steps.last()?.1)));
        let windows = windows.filter(|(from, until)| from <= until);
        let texts: Vec<String> = windows.map(|(from, until)| format!("{} to {}", text(from), text(until))).collect();
        if texts.is_empty() { "no recovery point at all".to_owned() } else { texts.join(", ") }
    };
    let refuse = |code, why: String| {
        Err(Problem::new(code, format!("{} cannot be restored: {why}; possible: {}", text(at_ms), possible())))
    };
    let Some((base, reach)) = reaches.iter().rfind(|(_, reach)| reach.from_ms <= at_ms) else {
        return refuse(Code::NotFound, "it is before the first backup with a log".to_owned());
    };
    match (reach.steps.iter().find(|(_, until_ms)| at_ms <= *until_ms), &reach.end) {
        (Some(&(closing, _)), _) => Ok(Plan { base: *base, closing }),
        (None, End::Newest) => refuse(Code::NotFound, "it is after the end of the newest backup".to_owned()),
        (None, End::Forgotten { shard, from_ms }) => {
            let from = text(*from_ms);
            refuse(Code::NotFound, format!("shard {shard} did not keep its log from {from} until the next backup"))
        }
        (None, End::Changed { collection, before }) => {
            let what = format!("collection number {collection} grew or got another key before the backup of {before}");
            refuse(Code::Conflict, what)
        }
    }
}

/// Pages of a shard's log, in order, that a plan needs.
pub fn pages(manifests: &[SignedManifest], plan: &Plan, shard: u32, at_ms: u64) -> Vec<Placed> {
    let base = &manifests[plan.base].manifest;
    let start = base.starts.iter().find(|start| start.shard == shard).map_or(0, |start| start.index);
    let mut needed = Vec::new();
    for found in manifests[plan.base..=plan.closing].iter().filter(|found| found.manifest.cluster_id == base.cluster_id)
    {
        for log in found.manifest.logs.iter().filter(|log| log.shard == shard) {
            let (mut after, mut time_ms) = (log.after, 0);
            for LogPage { number, upto, time_ms: behind_ms, object } in &log.pages {
                // Behind a later time nothing is wanted any more.
                if *upto > start && time_ms <= at_ms {
                    let (backup, object) = (found.manifest.backup, object.clone());
                    needed.push((time_ms, Placed { backup, number: *number, after, object }));
                }
                (after, time_ms) = (*upto, *behind_ms);
            }
        }
    }
    let mut behind_ms = 0;
    needed.retain(|(time_ms, _)| {
        behind_ms = behind_ms.max(*time_ms);
        behind_ms <= at_ms
    });
    needed.into_iter().map(|(_, page)| page).collect()
}

fn reach(manifests: &[&Manifest], at: usize) -> Option<Reach> {
    let base = manifests[at];
    let is_whole = !base.log_only && base.shards > 0 && base.starts.len() == base.shards as usize;
    let mut covered: BTreeMap<u32, (u64, u64)> =
        base.starts.iter().map(|start| (start.shard, (start.index, start.time_ms))).collect();
    let times = base.parts.iter().map(|part| part.time_ms).chain(base.starts.iter().map(|start| start.time_ms));
    let from_ms = times.max().filter(|_| is_whole)?;
    let mut reach = Reach { from_ms, steps: Vec::new(), end: End::Newest };
    for (number, next) in manifests.iter().enumerate().skip(at) {
        if next.cluster_id != base.cluster_id {
            continue;
        }
        if let Some(collection) = changed(base, next) {
            reach.end = End::Changed { collection, before: next.made_at.clone() };
            return Some(reach);
        }
        let mut forgotten = None;
        for (&shard, covered) in &mut covered {
            if !extend(covered, next.logs.iter().filter(|log| log.shard == shard)) {
                forgotten.get_or_insert(End::Forgotten { shard, from_ms: covered.1 });
            }
        }
        let until_ms = covered.values().map(|&(_, time_ms)| time_ms.saturating_sub(1)).min()?;
        reach.steps.push((number, until_ms));
        if let Some(forgotten) = forgotten {
            reach.end = forgotten;
            return Some(reach);
        }
    }
    Some(reach)
}

/// Goes on with the stretches of a log as far as they follow on; whether all of them do.
fn extend<'a>(covered: &mut (u64, u64), stretches: impl Iterator<Item = &'a Log>) -> bool {
    for log in stretches {
        if log.after > covered.0 {
            return false;
        }
        if log.upto() > covered.0 {
            *covered = (log.upto(), log.time_ms().max(covered.1));
        }
    }
    true
}

/// A collection whose frames are elsewhere, or sealed with another key, in a later backup.
fn changed(base: &Manifest, later: &Manifest) -> Option<u64> {
    let shape = |manifest: &Manifest| {
        let mut shape: BTreeMap<u64, BTreeSet<(u32, u32)>> = BTreeMap::new();
        for held in &manifest.holdings {
            shape.entry(held.collection).or_default().insert((held.shard, held.key_version));
        }
        shape
    };
    let (before, after) = (shape(base), shape(later));
    let differs = |(collection, now): (&u64, &BTreeSet<(u32, u32)>)| match before.get(collection) {
        Some(then) => then != now,
        None => now.iter().any(|&(_, key_version)| key_version != FIRST_KEY),
    };
    after.iter().find(|&found| differs(found)).map(|(&collection, _)| collection)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::{FORMAT, Holding, Part, Start};
    use super::*;

    fn object() -> Object {
        Object { bytes: 1, blake3: String::new() }
    }

    /// A stretch of a log: its shard, the entry before it, and the last entry and time of each of its pages.
    type Stretch<'a> = (u32, u64, &'a [(u64, u64)]);

    /// Of one collection in two shards: where the frames are read at, and stretches of logs.
    fn manifest(number: u64, frames: Option<(u64, u64)>, logs: &[Stretch<'_>]) -> Manifest {
        let shards = [0, 1];
        let part = |shard, (position, time_ms)| Part {
            shard,
            collection: 1,
            key_version: 1,
            position,
            time_ms,
            since: 0,
            pages: Vec::new(),
        };
        let start = |shard, (index, time_ms)| Start { shard, index, time_ms, object: object() };
        let log = |&(shard, after, pages): &(u32, u64, &[(u64, u64)])| Log {
            shard,
            after,
            pages: pages
                .iter()
                .zip(0..)
                .map(|(&(upto, time_ms), number)| LogPage { number, upto, time_ms, object: object() })
                .collect(),
        };
        Manifest {
            format: FORMAT,
            repository: Uuid::nil(),
            backup: Uuid::from_u64_pair(number, 0),
            base: None,
            cluster_id: "one".into(),
            made_at: format!("backup {number}"),
            made_by: String::new(),
            cluster: String::new(),
            parts: frames.iter().flat_map(|&at| shards.map(|shard| part(shard, at))).collect(),
            log_only: frames.is_none(),
            shards: 2,
            holdings: shards.map(|shard| Holding { collection: 1, shard, key_version: 1 }).to_vec(),
            starts: frames.iter().flat_map(|&at| shards.map(|shard| start(shard, at))).collect(),
            logs: logs.iter().map(log).collect(),
        }
    }

    fn ask(manifests: &[Manifest], at_ms: u64) -> Result<(usize, usize), (Code, String)> {
        let all: Vec<&Manifest> = manifests.iter().collect();
        let planned = planned(&all, at_ms).map(|plan| (plan.base, plan.closing));
        planned.map_err(|problem| (problem.code, problem.detail))
    }

    fn series() -> Vec<Manifest> {
        vec![
            manifest(1, Some((10, 1_000)), &[(0, 10, &[(12, 1_010)]), (1, 10, &[(11, 1_012)])]),
            manifest(2, None, &[(0, 12, &[(20, 2_000), (25, 2_500)]), (1, 11, &[(30, 2_400)])]),
            manifest(3, Some((40, 4_000)), &[(0, 25, &[(41, 4_010)]), (1, 30, &[(44, 4_020)])]),
        ]
    }

    #[test]
    fn a_recovery_point_is_made_of_the_newest_backup_before_it_and_the_logs_up_to_it() {
        let manifests = series();
        // recovery point, backup over which is replayed, last backup whose logs are needed
        let table = [
            (1_000, (0, 0)),
            (1_009, (0, 0)),
            (1_010, (0, 1)),
            (2_399, (0, 1)),
            (2_400, (0, 2)),
            (3_999, (0, 2)),
            (4_000, (2, 2)),
            (4_009, (2, 2)),
        ];
        for (at_ms, expected) in table {
            assert_eq!(ask(&manifests, at_ms), Ok(expected), "{at_ms}");
        }
        let (code, before) = ask(&manifests, 999).unwrap_err();
        assert!(code == Code::NotFound && before.contains("before the first"), "{before}");
        assert!(before.contains("1970-01-01T00:00:01.000Z to 1970-01-01T00:00:04.009Z"), "{before}");
        let (code, after) = ask(&manifests, 4_010).unwrap_err();
        assert!(code == Code::NotFound && after.contains("after the end"), "{after}");
        assert_eq!(ask(&[], 5).unwrap_err().0, Code::NotFound);
    }

    #[test]
    fn a_log_with_a_hole_ends_what_can_be_restored() {
        let mut manifests = series();
        manifests[2].logs[1].after = 35;
        assert_eq!(ask(&manifests, 2_399), Ok((0, 1)));
        let (code, hole) = ask(&manifests, 2_450).unwrap_err();
        assert!(code == Code::NotFound && hole.contains("shard 1 did not keep its log"), "{hole}");
        assert_eq!(ask(&manifests, 4_000), Ok((2, 2)), "what comes behind it is of no less use");
        // The stretch before a hole in the middle of a backup counts.
        manifests[2].logs.insert(
            1,
            Log { shard: 1, after: 30, pages: vec![LogPage { number: 9, upto: 32, time_ms: 2_600, object: object() }] },
        );
        assert_eq!(ask(&manifests, 2_450), Ok((0, 2)));
        assert!(ask(&manifests, 2_600).is_err());
    }

    #[test]
    fn a_collection_that_grew_or_got_another_key_is_not_replayed_over() {
        for change in [
            |manifest: &mut Manifest| manifest.holdings.push(Holding { collection: 1, shard: 3, key_version: 1 }),
            |manifest: &mut Manifest| manifest.holdings.iter_mut().for_each(|held| held.key_version = 2),
            |manifest: &mut Manifest| manifest.holdings.push(Holding { collection: 9, shard: 0, key_version: 2 }),
        ] {
            let mut manifests = series();
            change(&mut manifests[2]);
            assert_eq!(ask(&manifests, 2_399), Ok((0, 1)));
            let (code, changed) = ask(&manifests, 2_500).unwrap_err();
            assert!(code == Code::Conflict && changed.contains("before the backup of backup 3"), "{changed}");
            assert_eq!(ask(&manifests, 4_001), Ok((2, 2)));
        }
        let mut manifests = series();
        manifests[2].holdings.push(Holding { collection: 9, shard: 0, key_version: 1 });
        manifests[1].holdings.clear();
        assert_eq!(ask(&manifests, 3_000), Ok((0, 2)), "collections come and go");
    }

    #[test]
    fn backups_without_logs_and_of_other_clusters_are_passed_over() {
        let mut manifests = series();
        manifests[1].cluster_id = "other".into();
        assert!(ask(&manifests, 2_000).unwrap_err().1.contains("did not keep"));
        let mut old = manifest(0, Some((5, 0)), &[]);
        (old.shards, old.format) = (0, 1);
        old.starts.clear();
        let mut manifests = series();
        manifests.insert(0, old);
        assert_eq!(ask(&manifests, 2_000), Ok((1, 2)));
        assert!(ask(&manifests, 900).is_err());
    }

    #[test]
    fn pages_are_those_between_the_start_and_the_recovery_point() {
        let signed = |manifest: &Manifest| SignedManifest {
            manifest: manifest.clone(),
            bytes: Default::default(),
            mac: Default::default(),
        };
        let manifests: Vec<SignedManifest> = series().iter().map(signed).collect();
        let of = |shard, at_ms| {
            let plan = plan(&manifests, at_ms).expect("a plan");
            pages(&manifests, &plan, shard, at_ms).iter().map(|page| page.after).collect::<Vec<_>>()
        };
        assert_eq!(of(0, 1_005), [10]);
        assert_eq!(of(0, 1_500), [10, 12]);
        assert_eq!(of(0, 2_300), [10, 12, 20]);
        assert_eq!(of(1, 2_300), [10, 11]);
        assert_eq!(of(0, 3_000), [10, 12, 20, 25]);
        assert_eq!(of(0, 4_005), [25], "of the logs before its frames nothing else");
    }
}

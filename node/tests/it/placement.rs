//! Golden scripts of the placement: a cluster goes in, and what a node would do comes out. `UPDATE_GOLDENFILES=1` writes
//! the outputs anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt::Write,
    str::FromStr,
};

use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use mira_node::{
    meta::{ClusterState, MetaCommand, Move, MoveStep, NodePhase, NodeRecord, state::ClusterHeader},
    placement::{
        rebalance::{self, NodeChange, Planned},
        reconcile::{self, Observed},
    },
};
use mira_raft::{GroupStatus, Role};

/// Commands of the scripts:
/// - `cluster nodes=N [shards=S] [replication=R] [expect=E]`: nodes 1 to N have joined; nothing is placed
/// - `place SHARD NODE…`, or `place` for where everything should be: what is placed
/// - `node ID [zone=Z] [phase=P]`: one more node
/// - `phase NODE standby|active|draining|lost`: what a node is to the placement
/// - `move SHARD [from=NODE] to=NODE step=leaving|clearing|joining`: a move under way; `move SHARD none` takes it back
/// - `pause`, `resume`: moves
/// - `meta ROLE [VOTER…] [learners=N,…] [lag=NODE:ENTRIES,…]`: the meta group on the node that plans
/// - `shard ID ROLE [VOTER…] [learners=…] [lag=…]`: a shard open there; the role `unborn` is one whose group never began
/// - `closed SHARD`: data of a shard that is not open
/// - `dropped SHARD COLLECTION`: frames that a dropped collection has left there
/// - `plan NODE`: what the node does next
/// - `add|drain|remove NODE`, `replace NODE NODE`: what an operator asks for, and what follows
/// - `pending`: replicas that are not where they should be
/// - `next`: what the leader of the meta group proposes
/// - `settle`: carries every move out, as leaders of shards would; says how many, and where replicas are then
#[derive(Default)]
struct Placement {
    cluster: ClusterState,
    meta: Option<GroupStatus>,
    shards: BTreeMap<u32, GroupStatus>,
    closed: BTreeSet<u32>,
    leftovers: Vec<(u32, u64)>,
}

type Output = Result<String, Box<dyn Error>>;

impl Runner for Placement {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Output {
        let mut args = command.consume_args();
        let silent = Ok(String::new());
        match command.name.as_str() {
            "cluster" => {
                let nodes: u64 = parsed(&mut args, "nodes")?.ok_or("how many nodes?")?;
                let header = ClusterHeader {
                    cluster_id: 1,
                    epoch: 1,
                    shards: parsed(&mut args, "shards")?.unwrap_or(2),
                    replication: parsed(&mut args, "replication")?.unwrap_or(3),
                    expect: parsed(&mut args, "expect")?.unwrap_or(3),
                    ..ClusterHeader::default()
                };
                args.reject_next()?;
                *self = Placement::default();
                self.cluster.header = header;
                (1..=nodes).for_each(|id| self.join(id, ""));
                silent
            }
            "node" => {
                let id = next(&mut args, "which node?")?;
                let zone = args.take_key("zone").unwrap_or_default();
                let phase = args.take_key("phase");
                args.reject_next()?;
                self.join(id, zone);
                if let Some(word) = phase {
                    self.cluster.phases.insert(id, phase_of(word, id)?);
                }
                silent
            }
            "phase" => {
                let id = next(&mut args, "which node?")?;
                let phase = phase_of(args.next_pos().ok_or("which phase?")?, id)?;
                args.reject_next()?;
                self.cluster.phases.insert(id, phase);
                silent
            }
            "place" => {
                let numbers: Vec<u64> = numbers(&mut args)?;
                match numbers.split_first() {
                    None => self.cluster.placement = rebalance::target(&self.cluster),
                    Some((&shard, replicas)) => {
                        let placement = &mut self.cluster.placement;
                        placement.resize(placement.len().max(shard as usize + 1), Vec::new());
                        placement[shard as usize] = replicas.to_vec();
                    }
                }
                silent
            }
            "move" => {
                let shard = next(&mut args, "which shard?")?;
                if args.next_pos().is_some_and(|word| word == "none") {
                    self.cluster.moves.remove(&shard);
                    return silent;
                }
                let step = match args.take_key("step").ok_or("which step?")? {
                    "leaving" => MoveStep::Leaving,
                    "clearing" => MoveStep::Clearing,
                    "joining" => MoveStep::Joining,
                    other => return Err(format!("no step {other}").into()),
                };
                let from = parsed(&mut args, "from")?;
                let to = parsed(&mut args, "to")?.ok_or("to which node?")?;
                args.reject_next()?;
                self.cluster.moves.insert(shard, Move { from, to, step });
                silent
            }
            "pause" | "resume" => {
                self.cluster.moves_paused = command.name == "pause";
                silent
            }
            "meta" => {
                self.meta = Some(group_status(&mut args)?);
                silent
            }
            "shard" => {
                let shard = next(&mut args, "which shard?")?;
                self.shards.insert(shard, group_status(&mut args)?);
                silent
            }
            "closed" => {
                self.closed.insert(next(&mut args, "which shard?")?);
                silent
            }
            "dropped" => {
                let shard = next(&mut args, "which shard?")?;
                self.leftovers.push((shard, next(&mut args, "which collection?")?));
                silent
            }
            "plan" => self.plan(next(&mut args, "which node?")?),
            "add" => self.change(NodeChange::Add(next(&mut args, "which node?")?)),
            "drain" => self.change(NodeChange::Drain(next(&mut args, "which node?")?)),
            "remove" => self.change(NodeChange::Remove(next(&mut args, "which node?")?)),
            "replace" => {
                let dead = next(&mut args, "which node?")?;
                self.change(NodeChange::Replace { dead, by: next(&mut args, "by which node?")? })
            }
            "pending" => Ok(lines(rebalance::pending(&self.cluster).into_iter().map(planned))),
            "next" => Ok(lines(rebalance::next(&self.cluster).into_iter().map(|command| format!("{command:?}")))),
            "settle" => self.settle(),
            name => Err(format!("no command {name}").into()),
        }
    }
}

/// The next argument without a name.
fn next<T: FromStr<Err: Error + 'static>>(args: &mut ArgumentConsumer<'_>, missing: &str) -> Result<T, Box<dyn Error>> {
    Ok(args.next_pos().ok_or(missing)?.parse()?)
}

/// The argument of a name.
fn parsed<T: FromStr<Err: Error + 'static>>(
    args: &mut ArgumentConsumer<'_>,
    name: &str,
) -> Result<Option<T>, Box<dyn Error>> {
    Ok(args.take_key(name).map(str::parse).transpose()?)
}

/// All arguments without a name that are left.
fn numbers<T: FromIterator<u64>>(args: &mut ArgumentConsumer<'_>) -> Result<T, Box<dyn Error>> {
    let words = std::iter::from_fn(|| args.next_pos());
    Ok(words.map(str::parse::<u64>).collect::<Result<T, _>>()?)
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    let text: String = lines.map(|line| line + "\n").collect();
    if text.is_empty() { "nothing\n".into() } else { text }
}

fn planned(planned: Planned) -> String {
    let Planned { shard, from, to } = planned;
    match from {
        Some(from) => format!("shard {shard}: {from} → {to}"),
        None => format!("shard {shard}: one more on {to}"),
    }
}

fn phase_of(word: &str, node: u64) -> Result<NodePhase, Box<dyn Error>> {
    match word {
        "standby" => Ok(NodePhase::Standby),
        "active" => Ok(NodePhase::Active { ring: node }),
        "draining" => Ok(NodePhase::Draining),
        "lost" => Ok(NodePhase::Lost),
        other => Err(format!("no phase {other}").into()),
    }
}

/// A group's status from its role, its voters, `learners=…` and `lag=…`.
fn group_status(args: &mut ArgumentConsumer<'_>) -> Result<GroupStatus, Box<dyn Error>> {
    let word = args.next_pos().ok_or("which role?")?;
    let learners = args.take_key("learners").unwrap_or_default();
    let lag = args.take_key("lag").unwrap_or_default();
    let voters = numbers(args)?;
    args.reject_next()?;
    let begun = word != "unborn";
    let mut status = GroupStatus {
        group: 0,
        role: match word {
            "leader" => Role::Leader,
            "follower" => Role::Follower,
            "learner" | "unborn" => Role::Learner,
            "stopped" => Role::Stopped("damaged".into()),
            other => return Err(format!("no role {other}").into()),
        },
        term: u64::from(begun),
        leader: None,
        last_log_index: if begun { 5 } else { 0 },
        committed: 5,
        applied: 5,
        snapshot_index: 0,
        purged: 0,
        voters,
        is_changing: false,
        learners: BTreeSet::new(),
        lag: BTreeMap::new(),
        quorum_age: None,
    };
    for learner in learners.split(',').filter(|text| !text.is_empty()) {
        status.learners.insert(learner.parse()?);
    }
    for pair in lag.split(',').filter(|text| !text.is_empty()) {
        let (node, entries) = pair.split_once(':').ok_or("lag is NODE:ENTRIES")?;
        status.lag.insert(node.parse()?, Some(entries.parse()?));
    }
    Ok(status)
}

impl Placement {
    fn join(&mut self, id: u64, zone: &str) {
        let record = NodeRecord {
            id,
            address: format!("h{id}:1"),
            http_address: String::new(),
            zone: zone.to_owned(),
            version: String::new(),
            format: 1,
        };
        self.cluster.nodes.insert(id, record);
    }

    fn plan(&self, me: u64) -> Output {
        let meta = self.meta.clone().ok_or("say first where the meta group is")?;
        let is_stopped = |status: &GroupStatus| matches!(status.role, Role::Stopped(_));
        let damaged = self.shards.iter().filter(|(_, status)| is_stopped(status)).map(|(&shard, _)| shard).collect();
        let present = self.shards.keys().chain(&self.closed).copied().collect();
        let observed = Observed {
            me,
            cluster: &self.cluster,
            meta: &meta,
            shards: &self.shards,
            present: &present,
            damaged: &damaged,
            leftovers: &self.leftovers,
        };
        Ok(lines(reconcile::plan(&observed).into_iter().map(|action| format!("{action:?}"))))
    }

    fn change(&mut self, change: NodeChange) -> Output {
        match rebalance::decide(&self.cluster, change) {
            Ok(command) => {
                self.cluster = rebalance::after(&self.cluster, &command);
                Ok(format!("{command:?}\n"))
            }
            Err(problem) => Ok(format!("refused ({:?}): {}\n", problem.code, problem.detail)),
        }
    }

    fn settle(&mut self) -> Output {
        let mut moved = 0;
        loop {
            let commands = rebalance::next(&self.cluster);
            if commands.is_empty() {
                break;
            }
            for command in commands {
                match command {
                    MetaCommand::StartMove { shard, from, to } => {
                        self.cluster.moves.insert(shard, Move { from, to, step: MoveStep::Joining });
                        self.cluster.placement[shard as usize] = self.cluster.replicas_after_move(shard);
                        self.cluster.moves.remove(&shard);
                        moved += 1;
                    }
                    MetaCommand::PreferLeaders(leaders) => {
                        for (replicas, leader) in self.cluster.placement.iter_mut().zip(leaders) {
                            let at = replicas.iter().position(|&node| node == leader).ok_or("no replica")?;
                            replicas.swap(0, at);
                        }
                    }
                    other => return Err(format!("not expected: {other:?}").into()),
                }
            }
            if moved > 1_000 {
                return Err("it never ends".into());
            }
        }
        let mut text = format!("{moved} moves\n");
        for (shard, replicas) in self.cluster.placement.iter().enumerate() {
            writeln!(text, "shard {shard} on {replicas:?}")?;
        }
        Ok(text)
    }
}

fn run(script: &str) {
    goldenscript::run(&mut Placement::default(), format!("tests/it/scripts/{script}")).expect("the script runs");
}

#[test]
fn reconcile_forms_a_cluster() {
    run("reconcile/forming");
}

#[test]
fn reconcile_carries_moves_out() {
    run("reconcile/moves");
}

#[test]
fn reconcile_rebuilds_damaged_replicas() {
    run("reconcile/damage");
}

#[test]
fn rebalance_adds_drains_and_replaces_nodes() {
    run("rebalance/nodes");
}

#[test]
fn rebalance_moves_few_replicas_at_a_time() {
    run("rebalance/moves");
}

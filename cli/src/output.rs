//! From answers to text: plain functions, tested by the golden scripts of `tests/`.

use std::borrow::Cow;
use std::io::{ErrorKind, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use console::{Term, style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mira_proto::model::{
    Collection, Erasure, Frame, Hit, KeysReply, Metadata, NodeStatus, ReplicaMove, SearchExplain, SearchReply, Session,
    ShardStatus, ShardVerification, StatusReply, TuneReply,
};
use serde::Serialize;

#[cfg(feature = "backup")]
use mira_proto::model::BackupRepository;

#[cfg(feature = "backup")]
use crate::backup::Listed;
use crate::error::CliError;
use crate::terminal;

/// Width of a text cell where no terminal says how wide it is.
const PLAIN_WIDTH: usize = 100;

/// Writes to standard output. A reader that has seen enough (`mira search … | head`) is no error. On a terminal nothing
/// but our own colours drives it.
pub fn print(text: &str) -> Result<(), CliError> {
    let text = if console::user_attended() { terminal::styled(text) } else { text.into() };
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(CliError::io("standard output")(error)),
        _ => Ok(()),
    }
}

/// Writes a line to standard error, as [`print()`] does.
pub fn say(line: &str) {
    let line = if console::user_attended_stderr() { terminal::styled(line) } else { line.into() };
    eprintln!("{line}");
}

/// A stored text as it is printed: on a terminal without anything that would drive it, colours included.
fn shown(text: &str) -> Cow<'_, str> {
    if console::user_attended() { terminal::spelt_out(text) } else { text.into() }
}

/// Writes an answer as JSON, or as `text` renders it.
pub fn print_answer<A: Serialize>(answer: &A, json: bool, text: impl FnOnce(&A) -> String) -> Result<(), CliError> {
    if !json {
        return print(&text(answer));
    }
    let document = serde_json::to_string_pretty(answer)
        .map_err(|error| CliError::io("standard output")(std::io::Error::other(error)))?;
    print(&format!("{document}\n"))
}

/// The hits of a search, best first, one line each with its id below.
pub fn hits(reply: &SearchReply) -> String {
    let width = line_width();
    let mut text: String = reply.hits.iter().enumerate().map(|(at, found)| hit(at + 1, found, width)).collect();
    if reply.hits.is_empty() {
        text.push_str("nothing found\n");
    }
    if reply.degraded {
        let missing = reply.missing_shards.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        text.push_str(&format!(
            "{} shards {missing} did not answer: hits may be missing\n",
            style("degraded:").yellow()
        ));
    }
    for id in &reply.damaged {
        text.push_str(&format!("{} private memory {id} was left out\n", style("damaged:").yellow()));
    }
    if let Some(count) = reply.looked_through {
        text.push_str(&format!("only the {count} most similar memories were looked at: there may be more\n"));
    }
    text.push_str(&more(reply.next_cursor.as_deref()));
    if let Some(found) = &reply.explain {
        text.push_str(&explain(found));
    }
    text.push_str(&staleness(reply.staleness_ms, reply.lagging));
    text
}

/// How a search was answered: times, and a line for each shard.
fn explain(explain: &SearchExplain) -> String {
    let mut table = table(
        &["SHARD", "PLAN", "EF", "FRAMES", "TAIL", "MATCHING", "COMPARED", "RESCORED", "MICROSECONDS"],
        &[0, 2, 3, 4, 5, 6, 7, 8],
    );
    for shard in &explain.shards {
        table.add_row([
            &shard.shard.to_string(),
            &shard.plan,
            &shard.ef.to_string(),
            &shard.searched.to_string(),
            &shard.tail.to_string(),
            &shard.matching.map_or("-".to_owned(), |matching| matching.to_string()),
            &shard.compared.to_string(),
            &shard.rescored.to_string(),
            &shard.index_us.to_string(),
        ]);
    }
    let SearchExplain { embed_us, shards_us, merge_us, fetch_us, .. } = explain;
    let times =
        format!("microseconds: embedding {embed_us}, shards {shards_us}, merging {merge_us}, frames {fetch_us}");
    format!("\n{times}\n{}", finish(&table))
}

/// How old an answer of any replica may be; nothing for other answers.
pub fn staleness(milliseconds: Option<u64>, lagging: bool) -> String {
    let mark = if lagging {
        format!("{} no replica answered that is up to date; ", style("lagging:").yellow())
    } else {
        String::new()
    };
    match (milliseconds, lagging) {
        (Some(milliseconds), _) => format!("{mark}as of {milliseconds} ms ago or later\n"),
        (None, true) => format!("{mark}how old this is, is not known\n"),
        (None, false) => String::new(),
    }
}

fn hit(rank: usize, hit: &Hit, width: usize) -> String {
    let head = format!("{rank:>3}  {:.3}  ", hit.score);
    let room = width.saturating_sub(head.len()).max(20);
    let passage = hit.why.vector.as_ref().and_then(|reason| reason.passage);
    let shown = one_line(&matching_part(&hit.frame, passage), room);
    let mut labels = vec![hit.frame.id.to_string(), hit.frame.kind.clone()];
    labels.extend(hit.frame.session.iter().map(|session| format!("session {session}")));
    labels.extend(labelled(&hit.frame.metadata));
    format!("{}{shown}\n{:12}{}\n", style(head).green(), "", style(one_line(&labels.join(" · "), room)).dim())
}

/// The passage that matched, or the whole content when it is one.
fn matching_part(frame: &Frame, passage: Option<(u32, u32)>) -> String {
    let Some(content) = &frame.content else {
        return "(bytes)".to_owned();
    };
    let part = passage.and_then(|(from, to)| content.get(from as usize..to as usize));
    part.unwrap_or(content).to_owned()
}

/// Metadata that fits on a line: `name=value` of its scalars.
fn labelled(metadata: &Metadata) -> Vec<String> {
    let scalar = |(name, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::String(text) => Some(format!("{name}={text}")),
        serde_json::Value::Number(_) | serde_json::Value::Bool(_) => Some(format!("{name}={value}")),
        _ => None,
    };
    metadata.iter().filter_map(scalar).collect()
}

/// That an answer was cut, and how to go on; nothing for one that is whole.
pub fn more(next_cursor: Option<&str>) -> String {
    next_cursor.map_or_else(String::new, |cursor| {
        format!("{} the same with --cursor {cursor} goes on\n", style("there is more:").yellow())
    })
}

/// Frames in full.
pub fn frames(frames: &[Frame]) -> String {
    frames.iter().map(frame).collect::<Vec<_>>().join("\n")
}

fn frame(frame: &Frame) -> String {
    let mut text = format!("{}\n", style(frame.id).bold());
    let mut field = |name: &str, value: &str| text.push_str(&format!("  {:<9}{}\n", name, shown(value)));
    field("type", &frame.kind);
    for (name, value) in [("session", &frame.session), ("role", &frame.role), ("expires", &frame.expires_at)] {
        if let Some(value) = value {
            field(name, value);
        }
    }
    if frame.private {
        field("private", "yes");
    }
    field("created", &frame.created_at);
    if frame.version > 1 {
        field("version", &format!("{} of {}", frame.version, frame.updated_at));
    }
    if !frame.metadata.is_empty() {
        field("metadata", &serde_json::Value::Object(frame.metadata.clone()).to_string());
    }
    if let Some(attachment) = &frame.attachment {
        field("file", &format!("{}, {} bytes", attachment.content_type, attachment.size));
    }
    match (&frame.content, &frame.bytes) {
        (Some(content), _) => text.push_str(&format!("{}\n", shown(content.trim_end_matches('\n')))),
        (None, Some(bytes)) => text.push_str(&format!("(base64) {bytes}\n")),
        (None, None) => {}
    }
    text
}

/// A bar on standard error, or nothing where that is no terminal; `template` is indicatif's.
pub fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    let target =
        if console::user_attended_stderr() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(length, target);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// The state of the cluster; more tables when the answer has more.
pub fn status(reply: &StatusReply) -> String {
    let state = match reply.state.as_str() {
        "ok" => style(&reply.state).green(),
        "degraded" => style(&reply.state).yellow(),
        _ => style(&reply.state).red(),
    };
    let mut text = format!("cluster {} is {state}\n", reply.cluster_id);
    let leaderless = match reply.leaderless_shards.len() {
        0 => String::new(),
        count => format!(", {count} without a leader"),
    };
    text.push_str(&format!(
        "  {} frames in {} shards{leaderless}, map epoch {}\n",
        reply.frames, reply.shards, reply.epoch
    ));
    text.push_str(&format!(
        "  model {}\n",
        reply.model.as_deref().unwrap_or("none: only texts with vectors can be stored")
    ));
    for missing in &reply.missing {
        text.push_str(&format!("  {} {missing}\n", style("missing:").yellow()));
    }
    for table in [
        Some(nodes(&reply.nodes)),
        (!reply.groups.is_empty()).then(|| shards(&reply.groups)),
        (!reply.collections.is_empty()).then(|| collections(&reply.collections)),
    ]
    .into_iter()
    .flatten()
    {
        text.push('\n');
        text.push_str(&table);
    }
    text
}

/// The storage nodes as a table.
pub fn nodes(nodes: &[NodeStatus]) -> String {
    let mut table = table(
        &["NODE", "ADDRESS", "STATE", "PHASE", "LEADS", "UP", "MEMORY", "DISK", "FREE", "VERSION"],
        &[4, 5, 6, 7, 8],
    );
    for node in nodes {
        let figures = [
            uptime(node.uptime_ms),
            bytes(node.resident_bytes),
            bytes(node.disk_used_bytes),
            bytes(node.disk_free_bytes),
        ];
        let [up, memory, disk, free] = if node.reachable { figures } else { figures.map(|_| "-".to_owned()) };
        let state = if node.reachable { "up" } else { "unreachable" };
        table.add_row([
            &node.id,
            &node.address,
            state,
            &node.phase,
            &node.leads.to_string(),
            &up,
            &memory,
            &disk,
            &free,
            &node.version,
        ]);
    }
    finish(&table)
}

/// Moves of replicas, if there are any.
pub fn moves(moves: &[ReplicaMove]) -> String {
    if moves.is_empty() {
        return String::new();
    }
    let mut table = table(&["SHARD", "FROM", "TO", "STEP"], &[0]);
    for found in moves {
        let from = found.from.as_deref().unwrap_or("-");
        table.add_row([&found.shard.to_string(), from, &found.to, &found.step]);
    }
    finish(&table)
}

/// One row for each replica that was verified.
pub fn verifications(shards: &[ShardVerification]) -> String {
    let mut table = table(&["SHARD", "STATE", "NODE", "REPLICA", "INDEX", "RECORDS", "DIGEST", ""], &[0, 4, 5]);
    for shard in shards {
        for replica in &shard.replicas {
            let note = if replica.repairing { "being rebuilt" } else { &replica.error };
            table.add_row([
                &shard.shard.to_string(),
                &shard.state,
                &replica.node,
                &replica.state,
                &replica.index.to_string(),
                &replica.records.to_string(),
                replica.digest.get(..16).unwrap_or("-"),
                note,
            ]);
        }
    }
    finish(&table)
}

/// One row for each replica of each Raft group.
pub fn shards(groups: &[ShardStatus]) -> String {
    let mut table = table(
        &["SHARD", "NODE", "ROLE", "TERM", "APPLIED", "LAG", "FRAMES", "VECTORS", "INDEX LAG"],
        &[3, 4, 5, 6, 7, 8],
    );
    for group in groups {
        let name = group.shard.map_or("meta".to_owned(), |shard| shard.to_string());
        for replica in &group.replicas {
            let numbers =
                [replica.term, replica.applied, replica.apply_lag, replica.frames, replica.vectors, replica.index_lag];
            let row = [name.clone(), replica.node.clone(), replica.role.clone()];
            table.add_row(row.into_iter().chain(numbers.map(|number| number.to_string())));
        }
    }
    finish(&table)
}

/// Collections as a table.
pub fn collections(collections: &[Collection]) -> String {
    if collections.is_empty() {
        return "no collections yet; the first store makes one\n".to_owned();
    }
    let mut table = table(
        &["COLLECTION", "DIM", "METRIC", "VECTORS", "EF", "PARTITIONS", "LIFETIME", "MODEL", "CREATED"],
        &[1, 4, 5],
    );
    for collection in collections {
        table.add_row([
            shown(&collection.name).into_owned(),
            collection.dim.to_string(),
            word(&collection.metric),
            word(&collection.quantization),
            collection.ef.map_or("-".to_owned(), |ef| ef.to_string()),
            collection.partitions.to_string(),
            collection.ttl_seconds.map_or("-".to_owned(), |seconds| uptime(seconds.saturating_mul(1000))),
            collection.model.clone().unwrap_or_else(|| "-".to_owned()),
            collection.created_at.clone(),
        ]);
        for (name, vectors) in &collection.vectors {
            table.add_row([
                format!("  {name}"),
                vectors.dim.to_string(),
                word(&vectors.metric),
                word(&vectors.quantization),
                vectors.ef.map_or("-".to_owned(), |ef| ef.to_string()),
            ]);
        }
    }
    finish(&table)
}

/// What each beam gives, with a mark at the one that was found.
pub fn beams(reply: &TuneReply, k: u32) -> String {
    let recall = format!("RECALL@{k}");
    let mut table = table(&["EF", &recall, "MEDIAN", ""], &[0, 1, 2]);
    for beam in &reply.beams {
        let mark = if reply.ef == Some(beam.ef) { "<" } else { "" };
        table.add_row([&beam.ef.to_string(), &format!("{:.4}", beam.recall), &format!("{} µs", beam.median_us), mark]);
    }
    finish(&table)
}

/// Keys by name: the cluster's, each node's, each collection's.
pub fn keys(reply: &KeysReply) -> String {
    let mut nodes = table(&["NODE", "CLUSTER KEYS"], &[]);
    for node in &reply.nodes {
        let held = node.held.iter().map(|id| if *id == reply.active { format!("{id} (in use)") } else { id.clone() });
        let held = node.error.clone().unwrap_or_else(|| held.collect::<Vec<_>>().join(", "));
        nodes.add_row([node.node.clone(), held]);
    }
    let mut collections = table(&["COLLECTION", "VERSION", "KEY", "ROTATION"], &[1]);
    for collection in &reply.collections {
        for key in &collection.keys {
            let what = match (key.version, &collection.rotation) {
                (0, _) => "tags and digests, never rotated".to_owned(),
                (_, Some(found)) => format!("to {}: {}, {} of {}", found.to, found.step, found.done, found.of),
                (_, None) => "-".to_owned(),
            };
            collections.add_row([collection.name.clone(), key.version.to_string(), key.id.clone(), what]);
        }
    }
    format!("{}\n{}", finish(&nodes), finish(&collections))
}

/// Keys that end, one a line.
pub fn erasures(erasures: &[Erasure]) -> String {
    if erasures.is_empty() {
        return "no key has ended\n".to_owned();
    }
    let mut table = table(&["NUMBER", "WHOSE", "KEYS", "STATE", "DESTROYED", "WAITS FOR"], &[0]);
    for erasure in erasures {
        let whose = match (&erasure.collection, erasure.whole) {
            (None, _) => "the cluster".to_owned(),
            (Some(name), true) => format!("{name}, shredded whole"),
            (Some(name), false) => name.clone(),
        };
        let nodes = erasure.waits_for_nodes.iter().map(|node| format!("node {node}"));
        let waits: Vec<String> = nodes.chain(erasure.waits_for_repositories.iter().cloned()).collect();
        table.add_row([
            erasure.id.to_string(),
            whose,
            erasure.keys.iter().map(|key| key.id.clone()).collect::<Vec<_>>().join(", "),
            erasure.state.clone(),
            erasure.destroyed_at.clone().unwrap_or_else(|| "-".to_owned()),
            if waits.is_empty() { "-".to_owned() } else { waits.join(", ") },
        ]);
    }
    finish(&table)
}

/// Backups of a place, one a line.
#[cfg(feature = "backup")]
pub fn backups(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "no backups\n".to_owned();
    }
    let heads = ["BACKUP", "MADE", "MEMORIES", "ADDED", "ADDS TO", "RECOVERY FROM", "UNTIL", "CLUSTER"];
    let mut table = table(&heads, &[2, 3]);
    for backup in listed {
        table.add_row([
            backup.backup.to_string(),
            backup.made_at.clone(),
            if backup.log_only { "log".to_owned() } else { backup.frames.to_string() },
            bytes(backup.bytes),
            backup.base.map_or("-".to_owned(), |base| base.to_string()),
            backup.at_from.clone().unwrap_or_else(|| "-".to_owned()),
            backup.at_until.clone().unwrap_or_else(|| "-".to_owned()),
            backup.cluster_id.clone(),
        ]);
    }
    finish(&table)
}

/// Places of backups, one a line.
#[cfg(feature = "backup")]
pub fn repositories(repositories: &[BackupRepository]) -> String {
    if repositories.is_empty() {
        return "no backup was ever made\n".to_owned();
    }
    let mut table = table(&["ID", "PLACE", "LAST BACKUP"], &[]);
    for found in repositories {
        let last = found.finished_at.clone().unwrap_or_else(|| "none finished".to_owned());
        table.add_row([found.id.to_string(), found.place.clone(), last]);
    }
    finish(&table)
}

/// Sessions, one a line.
pub fn sessions(sessions: &[Session]) -> String {
    if sessions.is_empty() {
        return "no sessions\n".to_owned();
    }
    let mut table = table(&["SESSION", "MEMORIES", "FIRST", "LAST", "AGENT"], &[1]);
    for session in sessions {
        let private = if session.private { " (private)" } else { "" };
        table.add_row([
            format!("{}{private}", shown(&session.session)),
            session.frames.to_string(),
            session.first_at.clone(),
            session.last_at.clone(),
            session.agent.as_deref().map_or("-".to_owned(), |agent| shown(agent).into_owned()),
        ]);
    }
    finish(&table)
}

fn table(header: &[&str], right_aligned: &[usize]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.to_vec());
    for (at, column) in table.column_iter_mut().enumerate() {
        let alignment = if right_aligned.contains(&at) { CellAlignment::Right } else { CellAlignment::Left };
        column.set_padding((0, 2)).set_cell_alignment(alignment);
    }
    table
}

fn finish(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The word that an enum has in JSON.
fn word<E: Serialize>(value: &E) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A number of bytes for people.
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// Two units at most: `3d 4h`, `5m 2s`, `12s`.
fn uptime(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, _, _) => format!("{days}d {hours}h"),
    }
}

fn line_width() -> usize {
    match Term::stdout().size_checked() {
        Some((_, columns)) if console::user_attended() => columns.into(),
        _ => PLAIN_WIDTH,
    }
}

/// White space folded, control characters dropped (stored text must not drive the terminal), cut to `width` columns.
pub fn one_line(text: &str, width: usize) -> String {
    let folded = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let clean: String = folded.chars().filter(|c| !c.is_control()).collect();
    console::truncate_str(&clean, width, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_folded_cut_and_free_of_escapes() {
        assert_eq!(one_line("a\n  b\tc", 10), "a b c");
        assert_eq!(one_line("0123456789", 5), "0123…");
        assert_eq!(one_line("red \u{1b}[31malert", 40), "red [31malert");
    }

    #[test]
    fn times_have_two_units() {
        for (seconds, text) in [(5, "5s"), (65, "1m 5s"), (3_720, "1h 2m"), (90_000, "1d 1h")] {
            assert_eq!(uptime(seconds * 1000), text);
        }
    }
}

//! Golden scripts: what the program prints for what is typed. `UPDATE_GOLDENFILES=1` writes the outputs again.

use std::collections::BTreeMap;
use std::error::Error;

use goldenscript::{Argument, Command, Context, Runner};
use mira_proto::Code;
use uuid::Uuid;

use crate::support::{Server, text};

/// Commands of the scripts:
/// - `> mira ARGS…`: a shell's line; runs the program against the router; prints standard output, errors marked `!`, and a bad exit code
/// - `file NAME CONTENT`: writes a file into the folder where the program runs
/// - `fail COUNT CODE`: the next requests are refused with this code
/// - `down NODE`, `up NODE`: a storage node does not answer, or does again
/// - `stale MS`: what every storage node knows is so old
/// - `searches`: what was searched for since the last time, as it arrived
/// - `requests`: the requests since the last time, with equal idempotency keys under equal numbers
struct Cli {
    server: Server,
    folder: tempfile::TempDir,
    requests_shown: usize,
    names: Names,
}

impl Runner for Cli {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let words: Vec<String> = command.args.iter().map(word).collect();
        let args: Vec<&str> = words.iter().map(String::as_str).collect();
        match command.name.as_str() {
            line if line.starts_with("mira ") => {
                let words = shlex::split(line).ok_or("a quote is open")?;
                return Ok(self.mira(&words[1..]));
            }
            "file" => std::fs::write(self.folder.path().join(args[0]), args[1])?,
            "fail" => self.server.conduct().failing = Some((args[0].parse()?, Code::parse(args[1]))),
            "down" => self.server.cluster.fault(args[0].parse()?, |faults| faults.down = true),
            "up" => self.server.cluster.fault(args[0].parse()?, |faults| faults.down = false),
            "stale" => {
                let milliseconds = args[0].parse()?;
                for node in self.server.cluster.nodes.iter().map(|(node, _)| *node) {
                    self.server.cluster.fault(node, |faults| faults.stale_ms = milliseconds);
                }
            }
            "requests" => return Ok(self.requests()),
            "searches" => return Ok(self.searches()),
            name => return Err(format!("no command {name}").into()),
        }
        Ok(String::new())
    }
}

/// What differs from run to run, under names that do not: ids in the order in which they are first seen, the last
/// consistency token as TOKEN, the last cursor (it carries the time of its search) as CURSOR.
#[derive(Default)]
struct Names {
    shown: BTreeMap<Uuid, Uuid>,
    token: String,
    cursor: String,
}

const TOKEN: &str = "TOKEN";
const CURSOR: &str = "CURSOR";

impl Names {
    /// What is typed as it is meant. An id that no output has shown is its own name.
    fn typed(&mut self, argument: &str) -> String {
        let names = &mut self.shown;
        let meant = with_ids(argument, |id| match names.iter().find(|(_, shown)| **shown == id) {
            Some((meant, _)) => *meant,
            None => *names.entry(id).or_insert(id),
        });
        match meant.as_str() {
            TOKEN => self.token.clone(),
            CURSOR => self.cursor.clone(),
            _ => meant,
        }
    }

    /// What is printed as it is shown.
    fn printed(&mut self, output: &str) -> String {
        let names = &mut self.shown;
        let mut made = names.iter().filter(|(id, shown)| id != shown).count() as u128;
        let mut shown = with_ids(output, |id| {
            *names.entry(id).or_insert_with(|| {
                made += 1;
                Uuid::from_u128(0x7000_8000_0000_0000_0000 + made)
            })
        });
        self.token = hidden(&mut shown, "\"consistency_token\"", TOKEN).unwrap_or(std::mem::take(&mut self.token));
        for before in ["\"next_cursor\"", "the same with --cursor"] {
            self.cursor = hidden(&mut shown, before, CURSOR).unwrap_or(std::mem::take(&mut self.cursor));
        }
        shown
    }
}

/// Puts a word in the place of the base64url that follows a text in what is shown; returns the last that followed.
fn hidden(shown: &mut String, before: &str, word: &str) -> Option<String> {
    let (mut from, mut last) = (0, None);
    while let Some(at) = shown[from..].find(before).map(|at| from + at + before.len()) {
        let start = at + shown[at..].find(|sign| !matches!(sign, ':' | '"' | ' ')).unwrap_or(shown.len() - at);
        let length = shown[start..].find(|sign: char| !(sign.is_ascii_alphanumeric() || matches!(sign, '-' | '_')));
        let end = length.map_or(shown.len(), |length| start + length);
        last = Some(shown[start..end].to_owned());
        shown.replace_range(start..end, word);
        from = start;
    }
    last
}

/// A text with other ids in the places of its ids.
fn with_ids(text: &str, mut other: impl FnMut(Uuid) -> Uuid) -> String {
    const LENGTH: usize = 36;
    let (mut out, mut rest) = (String::new(), text);
    while let Some(next) = rest.chars().next() {
        let id = rest.get(..LENGTH).filter(|id| id.as_bytes()[8] == b'-').and_then(|id| id.parse().ok());
        match id {
            Some(id) => {
                out.push_str(&other(id).to_string());
                rest = &rest[LENGTH..];
            }
            None => {
                out.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    out
}

/// A line of an explanation without how long it took.
fn without_microseconds(line: &str) -> String {
    if !line.starts_with("microseconds: ") {
        return line.to_owned();
    }
    let words = line.split(' ').map(|word| match word.trim_end_matches(',').parse::<u64>() {
        Ok(_) if word.ends_with(',') => "N,",
        Ok(_) => "N",
        Err(_) => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The summary of an import without what differs from run to run.
fn without_times(line: &str) -> &str {
    match line.split_once(" in ") {
        Some((counts, _)) if line.starts_with("added ") => counts,
        _ => line,
    }
}

/// An argument as the shell would pass it.
fn word(argument: &Argument) -> String {
    match argument {
        Argument::KeyValue(key, value) => format!("{key}={value}"),
        Argument::Positional(value) => value.clone(),
        other => panic!("an argument of a new kind: {other:?}"),
    }
}

impl Cli {
    fn mira(&mut self, args: &[String]) -> String {
        let args: Vec<String> = args.iter().map(|argument| self.names.typed(argument)).collect();
        let output = self.server.mira(self.folder.path(), &args.iter().map(String::as_str).collect::<Vec<_>>());
        let lines = text(&output.stdout);
        let mut shown: String =
            lines.lines().map(|line| format!("{}\n", without_microseconds(without_times(line)))).collect();
        for line in text(&output.stderr).lines() {
            shown.push_str(&format!("! {line}\n"));
        }
        match output.status.code() {
            Some(0) => {}
            Some(code) => shown.push_str(&format!("exit {code}\n")),
            None => shown.push_str("killed\n"),
        }
        for (node, address) in &self.server.cluster.nodes {
            // As wide as a free port is.
            shown = shown.replace(&address.to_string(), &format!("127.0.0.1:1000{node}"));
        }
        let shown = shown.replace(&self.server.address.to_string(), "ROUTER");
        self.names.printed(&shown.replace(env!("CARGO_PKG_VERSION"), "VERSION"))
    }

    fn searches(&mut self) -> String {
        let mut conduct = self.server.conduct();
        let sizes = std::mem::take(&mut conduct.batch_sizes);
        let mut shown = if sizes.is_empty() { String::new() } else { format!("batches of {sizes:?}\n") };
        for search in std::mem::take(&mut conduct.searches) {
            shown.push_str(&format!("{search}\n"));
        }
        shown
    }

    fn requests(&mut self) -> String {
        let conduct = self.server.conduct();
        let mut keys: Vec<&String> = Vec::new();
        let mut shown = String::new();
        for (method, path, key) in &conduct.requests[self.requests_shown..] {
            let key = key.as_ref().map(|key| {
                let at = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
                    keys.push(key);
                    keys.len() - 1
                });
                format!(" key {}", at + 1)
            });
            shown.push_str(&format!("{method} {path}{}\n", key.unwrap_or_default()));
        }
        self.requests_shown = conduct.requests.len();
        shown
    }
}

fn run(script: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut cli = Cli { server: Server::start(), folder, requests_shown: 0, names: Names::default() };
    goldenscript::run(&mut cli, format!("tests/scripts/{script}")).unwrap();
}

#[test]
fn memories() {
    run("memories");
}

#[test]
fn searches() {
    run("searches");
}

#[test]
fn administration() {
    run("administration");
}

#[test]
fn errors() {
    run("errors");
}

#[test]
fn import() {
    run("import");
}

#[test]
fn help() {
    run("help");
}

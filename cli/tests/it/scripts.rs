//! Golden scripts: what the program prints for what is typed. `UPDATE_GOLDENFILES=1` writes the outputs anew.

mod support;

use std::error::Error;

use goldenscript::{Argument, Command, Context, Runner};
use mira_proto::Code;
use support::{Server, text};

/// Commands of the scripts:
/// - `> mira ARGS…`: a shell's line; runs the program against the stand-in; prints standard output, errors marked `!`, and a bad exit code
/// - `file NAME CONTENT`: writes a file into the folder where the program runs
/// - `fail COUNT CODE`: the next requests are refused with this code
/// - `searches`: what was searched for since the last time, as it arrived
/// - `requests`: the requests since the last time, with equal idempotency keys under equal numbers
struct Cli {
    server: Server,
    folder: tempfile::TempDir,
    requests_shown: usize,
}

impl Runner for Cli {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let words: Vec<String> = command.args.iter().map(word).collect();
        let args: Vec<&str> = words.iter().map(String::as_str).collect();
        match command.name.as_str() {
            line if line.starts_with("mira ") => {
                let words = shlex::split(line).ok_or("a quote is open")?;
                Ok(self.mira(&words[1..]))
            }
            "file" => Ok(std::fs::write(self.folder.path().join(args[0]), args[1]).map(|()| String::new())?),
            "fail" => {
                self.server.shared().failing = Some((args[0].parse()?, Code::parse(args[1])));
                Ok(String::new())
            }
            "requests" => Ok(self.requests()),
            "searches" => Ok(self.searches()),
            name => Err(format!("no command {name}").into()),
        }
    }
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
    fn mira(&self, args: &[String]) -> String {
        let output = self.server.mira(self.folder.path(), &args.iter().map(String::as_str).collect::<Vec<_>>());
        let mut shown: String = text(&output.stdout).lines().map(|line| format!("{}\n", without_times(line))).collect();
        for line in text(&output.stderr).lines() {
            shown.push_str(&format!("! {line}\n"));
        }
        match output.status.code() {
            Some(0) => {}
            Some(code) => shown.push_str(&format!("exit {code}\n")),
            None => shown.push_str("killed\n"),
        }
        shown.replace(&self.server.address.to_string(), "ROUTER").replace(env!("CARGO_PKG_VERSION"), "VERSION")
    }

    fn searches(&mut self) -> String {
        let mut shared = self.server.shared();
        let sizes = std::mem::take(&mut shared.batch_sizes);
        let mut shown = if sizes.is_empty() { String::new() } else { format!("batches of {sizes:?}\n") };
        for search in std::mem::take(&mut shared.searches) {
            shown.push_str(&format!("{}\n", serde_json::to_string(&search).unwrap()));
        }
        shown
    }

    fn requests(&mut self) -> String {
        let shared = self.server.shared();
        let mut keys: Vec<&String> = Vec::new();
        let mut shown = String::new();
        for (method, path, key) in &shared.requests[self.requests_shown..] {
            let key = key.as_ref().map(|key| {
                let at = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
                    keys.push(key);
                    keys.len() - 1
                });
                format!(" key {}", at + 1)
            });
            shown.push_str(&format!("{method} {path}{}\n", key.unwrap_or_default()));
        }
        self.requests_shown = shared.requests.len();
        shown
    }
}

fn run(script: &str) {
    let mut cli = Cli { server: Server::start(), folder: tempfile::tempdir().unwrap(), requests_shown: 0 };
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
#[cfg(feature = "server")]
fn help() {
    run("help");
}

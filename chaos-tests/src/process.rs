//! One program of a cluster as a process, and what may happen to it: killed, frozen, asked to stop, ended by itself.
//!
//! The process may run in a container of its own (`docker run` stays in the foreground for as long as it does); then
//! the signals go through the engine, and everything else is the same.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

/// How long an engine may take to start a container.
const CONTAINER_START: Duration = Duration::from_secs(30);

/// A running program. Dropping it ends it as a power cut would: SIGKILL, no goodbye, frozen or not.
pub struct Process {
    child: Child,
    /// Its container's name, if it has one.
    container: Option<String>,
}

impl Process {
    /// Starts a command, which runs in that container, if any.
    pub fn spawn(command: &mut Command, container: Option<String>) -> Process {
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{:?} does not start: {error}", command.get_program()));
        Process { child, container }
    }

    /// Its process id, as this machine's kernel counts.
    pub fn id(&self) -> u32 {
        let Some(container) = &self.container else { return self.child.id() };
        let asked = Instant::now();
        while asked.elapsed() < CONTAINER_START {
            let answer = Command::new("docker").args(["inspect", "--format", "{{.State.Pid}}", container]).output();
            let id = answer.ok().and_then(|answer| String::from_utf8(answer.stdout).ok()?.trim().parse().ok());
            if let Some(id) = id.filter(|&id| id != 0) {
                return id;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("container {container} does not start");
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Stops its clock: it answers nothing, and does not know.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Asks it to stop in order and waits for its end; kills it and returns `None` if it takes longer than `patience`.
    pub async fn stop(mut self, patience: Duration) -> Option<ExitStatus> {
        self.signal("TERM");
        let asked = Instant::now();
        while asked.elapsed() < patience {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    fn signal(&self, name: &str) {
        let sent = self.send(name);
        assert!(sent, "signal {name} could not be sent");
    }

    fn send(&self, name: &str) -> bool {
        let mut command = match &self.container {
            None => Command::new("kill"),
            Some(_) => Command::new("docker"),
        };
        match &self.container {
            None => command.arg(format!("-{name}")).arg(self.child.id().to_string()),
            Some(container) => command.args(["kill", "--signal", name, container]),
        };
        command.output().is_ok_and(|done| done.status.success())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; waiting reaps it either way.
        match self.container {
            None => drop(self.child.kill()),
            Some(_) => drop(self.send("KILL")),
        }
        let _ = self.child.wait();
    }
}

/// What runs as node and router.
#[derive(Debug, Clone)]
pub enum Program {
    /// This file.
    File(PathBuf),
    /// This image, with the machine's network.
    Image(String),
}

impl Program {
    /// The program under test: `MIRA_IMAGE`, else `MIRA_BIN`, else what was built beside the tests.
    pub fn under_test() -> Program {
        if let Ok(image) = std::env::var("MIRA_IMAGE") {
            return Program::Image(image);
        }
        if let Some(path) = std::env::var_os("MIRA_BIN") {
            return Program::File(path.into());
        }
        let own = std::env::current_exe().expect("this program's path");
        let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("mira")).find(|path| path.exists());
        Program::File(beside.unwrap_or_else(|| panic!("mira is not built beside {}: make build", own.display())))
    }

    /// A command that runs it, and the container that it runs in: it sees `folder`, and is the user to whom that belongs.
    pub fn command(&self, name: &str, folder: &Path) -> (Command, Option<String>) {
        let image = match self {
            Program::File(path) => return (Command::new(path), None),
            Program::Image(image) => image,
        };
        let owner = std::fs::metadata(folder).expect("the folder exists");
        let user =
            format!("{}:{}", std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
        let folder = folder.display();
        let mut command = Command::new("docker");
        command.args(["run", "--rm", "--name", name, "--network", "host", "--user", &user]);
        command.args(["--volume", &format!("{folder}:{folder}")]);
        command.args(["--env", "RUST_LOG", "--env", "RUST_BACKTRACE", image]);
        (command, Some(name.to_owned()))
    }
}

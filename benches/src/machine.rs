//! What a figure was measured on.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::load::{Latencies, Outcome, Summary};

/// Bytes of one probe write: about a log record of a small frame.
const PROBE_BYTES: usize = 1024;

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// GiB of memory.
    pub memory_gib: f64,
    /// Operating system and its version.
    pub system: String,
    /// File system of the measured folder.
    pub file_system: String,
}

impl Machine {
    /// This machine, with the file system under `folder`.
    pub fn describe(folder: &Path) -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let system = rustix::system::uname();
        let memory_kib: f64 =
            field(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0.0);
        Machine {
            cpu: field(&cpuinfo, "model name").unwrap_or(std::env::consts::ARCH).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            memory_gib: (memory_kib / f64::from(1 << 20) * 10.0).round() / 10.0,
            system: format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy()),
            file_system: file_system(&mounts, &folder.canonicalize().unwrap_or(folder.to_owned())),
        }
    }
}

/// What a process of this machine has used so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Time on a processor, of all its threads.
    pub cpu: Duration,
    /// Resident memory now, bytes.
    pub resident_bytes: u64,
}

impl Usage {
    /// Of a process, as the kernel counts it.
    pub fn of(process: u32) -> Result<Usage, BenchError> {
        let path = format!("/proc/{process}/stat");
        let text = fs::read_to_string(&path).map_err(BenchError::io(&path))?;
        Usage::read(&text).ok_or_else(|| BenchError::Wrong(format!("{path} is not as proc(5) says: {text}")))
    }

    /// Of a thread, by its folder in `/proc`.
    pub fn of_thread(folder: &Path) -> Result<Usage, BenchError> {
        let path = folder.join("stat");
        let text = fs::read_to_string(&path).map_err(BenchError::io(&path))?;
        Usage::read(&text).ok_or_else(|| BenchError::Wrong(format!("{} is not as proc(5) says", path.display())))
    }

    /// Fields 14, 15 and 24 of proc(5): ticks in user and kernel mode, pages. The second field is a name in parentheses,
    /// which may hold anything.
    fn read(stat: &str) -> Option<Usage> {
        let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = field(14)? + field(15)?;
        let cpu = Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
        Some(Usage { cpu, resident_bytes: field(24)? * rustix::param::page_size() as u64 })
    }
}

/// The value of `name : value` in a file of the kernel's.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

/// The type of the deepest mount above a folder.
fn file_system(mounts: &str, folder: &Path) -> String {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let above = mounts.filter(|(at, _)| folder.starts_with(at));
    above.max_by_key(|(at, _)| at.len()).map_or("unknown", |(_, kind)| kind).to_owned()
}

/// How long the disk under a folder takes to make a small append durable (`fdatasync`), alone.
pub fn fdatasync(folder: &Path, probes: u32) -> Result<Summary, BenchError> {
    let path = folder.join("mira-fdatasync-probe");
    let measured = probe(&path, probes).map_err(BenchError::io(&path));
    // Best effort: the folder goes with the run.
    let _ = fs::remove_file(&path);
    measured?.summary("fdatasync")
}

fn probe(path: &Path, probes: u32) -> std::io::Result<Outcome> {
    let mut file = fs::File::create(path)?;
    let mut latencies = Latencies::default();
    let started = Instant::now();
    for _ in 0..probes {
        let asked = Instant::now();
        file.write_all(&[1; PROBE_BYTES])?;
        file.sync_data()?;
        latencies.record(asked.elapsed());
    }
    Ok(Outcome { latencies, elapsed: started.elapsed(), ..Outcome::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_tells_the_file_system() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\nproc /proc proc rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/x")), "tmpfs");
        assert_eq!(file_system(mounts, Path::new("/home/x")), "ext4");
    }

    #[test]
    fn a_process_uses_processor_and_memory() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 1 0 77 1000 3 18446744073709551615";
        let usage = Usage::read(stat).unwrap();
        assert_eq!(usage.cpu, Duration::from_secs_f64(300.0 / rustix::param::clock_ticks_per_second() as f64));
        assert_eq!(usage.resident_bytes, 3 * rustix::param::page_size() as u64);
        assert_eq!(Usage::read("7 (cut off) S 1"), None);
        assert!(Usage::of(std::process::id()).unwrap().resident_bytes > 1 << 20);
    }

    #[test]
    fn a_disk_has_a_latency() {
        let folder = std::env::temp_dir();
        let summary = fdatasync(&folder, 5).unwrap();
        assert_eq!(summary.count, 5);
        assert!(summary.p50_ms > 0.0 && summary.p50_ms <= summary.max_ms);
        assert!(Machine::describe(&folder).cores > 0);
    }
}

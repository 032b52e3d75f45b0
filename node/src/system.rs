//! What the operating system says of this process and its disk. Figures for people and dashboards: what cannot be read
//! is 0.

use std::{fs, path::Path};

/// Memory of this process, bytes.
pub fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages: u64 = pages.and_then(|text| text.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Bytes free for this process where `folder` lies.
pub fn disk_space(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |space| space.f_bavail * space.f_frsize)
}

/// Bytes of all files of a folder.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            // Gone since it was listed: compaction removes files at any time.
            Err(_) => 0,
        })
        .sum()
}

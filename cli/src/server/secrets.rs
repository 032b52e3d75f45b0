//! Files that hold a secret: made for their owner only, refused when others can read them.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mira_crypto::{ClusterKey, os_rng};
use mira_proto::limits;
use rand_core::RngCore;

use crate::error::CliError;

/// Makes a cluster key where there is none. The folder must exist.
pub fn make_cluster_key_if_missing(file: &Path) -> Result<(), CliError> {
    if file.exists() {
        return Ok(());
    }
    write(file, &ClusterKey::generate(&mut os_rng()).to_text())
}

/// Reads a token, or makes one of 256 random bits where there is none.
pub fn read_or_make_token(file: &Path) -> Result<String, CliError> {
    if !file.exists() {
        let mut bits = [0; 32];
        os_rng().fill_bytes(&mut bits);
        write(file, &format!("mira_{}", URL_SAFE_NO_PAD.encode(bits)))?;
    }
    let token = read(file)?.trim().to_owned();
    if token.is_empty() { Err(bad(file, "is empty".to_owned())) } else { Ok(token) }
}

/// Reads a secret that only its owner can read.
pub fn read(file: &Path) -> Result<String, CliError> {
    let mode = fs::metadata(file).map_err(CliError::io(file))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let detail =
            format!("others can read this secret (mode {mode:03o}): chmod 600 it, and change it if they may have");
        return Err(bad(file, detail));
    }
    let mut text = String::new();
    let limit = limits::MAX_SECRET_FILE_BYTES;
    let opened = File::open(file).map_err(CliError::io(file))?;
    opened.take(limit as u64 + 1).read_to_string(&mut text).map_err(CliError::io(file))?;
    if text.len() > limit { Err(bad(file, format!("has more than {limit} bytes"))) } else { Ok(text) }
}

/// Writes a secret, in the place of what was there, so that it is there whole or not at all, also after a power cut:
/// without its key a cluster's data is lost.
pub fn write(file: &Path, secret: &str) -> Result<(), CliError> {
    let part = file.with_added_extension("part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(CliError::io(part)(error)),
        _ => {}
    }
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).and_then(|mut out| {
        out.write_all(secret.as_bytes())?;
        out.write_all(b"\n")?;
        out.sync_all()?;
        fs::rename(&part, file)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    });
    written.map_err(CliError::io(file))
}

/// A file that breaks its rules.
pub(super) fn bad(file: &Path, detail: String) -> CliError {
    CliError::BadFile { path: file.to_owned(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cluster.key");
        make_cluster_key_if_missing(&file).unwrap();
        let key = read(&file).unwrap();
        assert!(ClusterKey::from_text(key.trim()).is_ok());
        make_cluster_key_if_missing(&file).unwrap();
        assert_eq!(read(&file).unwrap(), key);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no part is left behind");
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        read_or_make_token(&file).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let error = read_or_make_token(&file).unwrap_err().to_string();
            assert!(error.contains("others can read"), "{error}");
        }
    }

    #[test]
    fn tokens_are_kept_and_never_alike() {
        let folder = tempfile::tempdir().unwrap();
        let first = read_or_make_token(&folder.path().join("a")).unwrap();
        assert_eq!(first, read_or_make_token(&folder.path().join("a")).unwrap());
        assert_ne!(first, read_or_make_token(&folder.path().join("b")).unwrap());
        assert_eq!(first.len(), "mira_".len() + 43);
    }
}

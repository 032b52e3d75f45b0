//! The secrets of a caller: the router's token, and the key of private memories. Neither is ever an argument, because other
//! users of the machine see those.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

use crate::args::{Remote, default_data_folder};
use crate::error::CliError;

/// The headers that carry the owner's key, or a passphrase in its place.
const OWNER_KEY: &str = "x-mira-owner-key";
const OWNER_PASSPHRASE: &str = "x-mira-owner-passphrase";

/// The value of the header `Authorization`.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, CliError> {
    if token.contains(char::is_whitespace) {
        let detail = "the token has white space in it: give a token alone, not a line or a file of a router's tokens";
        return Err(CliError::Usage(detail.to_owned()));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| CliError::Usage("the token has characters that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// MIRA_OWNER_KEY, else MIRA_OWNER_PASSPHRASE, else the key in the file named.
pub(super) fn owner_header(remote: &Remote) -> Result<Option<(HeaderName, HeaderValue)>, CliError> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let (name, secret) = match (set("MIRA_OWNER_KEY"), set("MIRA_OWNER_PASSPHRASE"), &remote.owner_key_file) {
        (Some(key), _, _) => (OWNER_KEY, key.trim().to_owned()),
        (None, Some(passphrase), _) => (OWNER_PASSPHRASE, passphrase),
        (None, None, Some(file)) => (OWNER_KEY, read_owner_key(file)?),
        (None, None, None) => return Ok(None),
    };
    let mut value = HeaderValue::from_str(&secret).map_err(|_| {
        CliError::Usage("the owner's key or passphrase has characters that no header carries".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(Some((HeaderName::from_static(name), value)))
}

/// Refuses a key that others on this machine can read.
fn read_owner_key(file: &Path) -> Result<String, CliError> {
    let mode = std::fs::metadata(file).map_err(CliError::io(file))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let detail = format!("others can read this key (mode {mode:03o}); run `chmod 600` on it");
        return Err(CliError::BadFile { path: file.into(), detail });
    }
    Ok(std::fs::read_to_string(file).map_err(CliError::io(file))?.trim().to_owned())
}

/// MIRA_TOKEN, else the file named, else what `mira dev` left for this machine.
pub fn find_token(remote: &Remote) -> Result<Option<String>, CliError> {
    if let Some(token) = std::env::var("MIRA_TOKEN").ok().filter(|token| !token.trim().is_empty()) {
        return Ok(Some(token.trim().to_owned()));
    }
    if let Some(file) = &remote.token_file {
        let token = std::fs::read_to_string(file).map_err(CliError::io(file))?;
        return Ok(Some(token.trim().to_owned()));
    }
    // Never to another machine: whoever listens there would learn the key to this one.
    if !is_loopback(&remote.url) {
        return Ok(None);
    }
    default_data_folder().map_or(Ok(None), |folder| read_if_there(&folder.join("token")))
}

fn read_if_there(file: &Path) -> Result<Option<String>, CliError> {
    match std::fs::read_to_string(file) {
        Ok(token) => Ok(Some(token.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::io(file)(error)),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_counts_as_loopback() {
        for (url, expected) in [
            ("http://127.0.0.1:7890", true),
            ("http://localhost:7890", true),
            ("http://[::1]:7890", true),
            ("https://memory.example.org", false),
            ("http://127.0.0.1.example.org", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), expected, "{url}");
        }
    }
}

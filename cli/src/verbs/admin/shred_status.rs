//! `mira admin shred-status`: how far the end of keys is, and what the cluster says of it in the end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use mira_crypto::ReceiptKey;
use mira_proto::model::{Erasure, SignedReceipt};
use mira_proto::{Code, Problem};

use crate::args::Remote;
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Show how far the end of keys is, with the cluster's receipts
///
/// Keys end when something is shredded, and after they were rotated. From the moment they are destroyed nothing opens
/// what they sealed; `purging` means that copies of them, wrapped, are still being removed from files and backups, and
/// says whose. A place of backups lets go with its next backup, or with `mira admin backup keys`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira admin shred-status
  mira admin shred-status 42 --wait --receipt erased.json
  mira admin shred-status --check erased.json --public-key 5f2c…")]
pub struct ShredStatus {
    /// Only this one
    id: Option<u64>,
    /// Wait until nobody has the keys any more
    #[arg(long, requires = "id")]
    wait: bool,
    /// Write the receipt to this file
    #[arg(long, value_name = "FILE", requires = "id")]
    receipt: Option<PathBuf>,
    /// Check the signature of a receipt in a file, without asking a cluster
    #[arg(long, value_name = "FILE", conflicts_with = "id")]
    check: Option<PathBuf>,
    /// The public key that must have signed it (64 hex digits); from a cluster that you trust
    #[arg(long, value_name = "HEX", requires = "check")]
    public_key: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

impl ShredStatus {
    /// Asks, and prints.
    pub async fn run(self) -> Result<(), CliError> {
        if let Some(file) = &self.check {
            return check(file, self.public_key.as_deref(), self.remote.json);
        }
        let client = Client::new(&self.remote)?;
        let Some(id) = self.id else {
            let reply = client.erasures().await?;
            return output::print_answer(&reply, self.remote.json, |reply| output::erasures(&reply.erasures));
        };
        let found = loop {
            let found = one(&client, id).await?;
            if !self.wait || found.receipt.is_some() {
                break found;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        if let Some(file) = &self.receipt {
            let unfinished = || Problem::new(Code::Conflict, format!("{id} is not over yet: say --wait"));
            let receipt = found.receipt.as_ref().ok_or_else(unfinished)?;
            let text = serde_json::to_string_pretty(receipt).expect("plain data");
            std::fs::write(file, text + "\n").map_err(CliError::io(file))?;
        }
        output::print_answer(&found, self.remote.json, |found| output::erasures(std::slice::from_ref(found)))
    }
}

async fn one(client: &Client, id: u64) -> Result<Erasure, CliError> {
    let found = client.erasures().await?.erasures.into_iter().find(|erasure| erasure.id == id);
    Ok(found.ok_or_else(|| Problem::new(Code::NotFound, format!("no key ends or has ended under the number {id}")))?)
}

fn check(file: &Path, expected: Option<&str>, json: bool) -> Result<(), CliError> {
    let bad = |detail: String| CliError::BadFile { path: file.into(), detail };
    let text = std::fs::read_to_string(file).map_err(CliError::io(file))?;
    let receipt: SignedReceipt = serde_json::from_str(&text).map_err(|error| bad(format!("no receipt: {error}")))?;
    if expected.is_some_and(|expected| !expected.eq_ignore_ascii_case(&receipt.public_key)) {
        return Err(bad(format!("it is signed by {}, not by the key that was named", receipt.public_key)));
    }
    let hex = |text: &str| unhex(text).ok_or_else(|| bad("no receipt: its key or signature is no hex".to_owned()));
    let (key, signature) = (hex(&receipt.public_key)?, hex(&receipt.signature)?);
    if !ReceiptKey::verifies(&key, receipt.statement.as_bytes(), &signature) {
        return Err(bad("the signature does not fit: the receipt was altered".to_owned()));
    }
    output::print_answer(&receipt, json, |receipt| {
        let whose = if expected.is_some() { "" } else { " (say --public-key to be sure whose that is)" };
        format!("{}\nsigned by {}{whose}\n", receipt.statement, receipt.public_key)
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let pairs = digits.as_chunks::<2>();
    pairs.1.is_empty().then(|| pairs.0.iter().map(|[high, low]| (high * 16 + low) as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_passes() {
        let key = ReceiptKey::generate(&mut mira_crypto::os_rng());
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let good = SignedReceipt {
            statement: "{\"erasure\":1}".into(),
            signature: hex(&key.sign(b"{\"erasure\":1}")),
            public_key: hex(&key.public_key()),
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("receipt.json");
        let checked = |receipt: &SignedReceipt, expected: Option<&str>| {
            std::fs::write(&file, serde_json::to_string(receipt).unwrap()).unwrap();
            check(&file, expected, true)
        };
        assert!(checked(&good, None).is_ok());
        assert!(checked(&good, Some(&good.public_key.to_uppercase())).is_ok());
        assert!(checked(&good, Some("00")).is_err());
        assert!(checked(&SignedReceipt { statement: "{}".into(), ..good.clone() }, None).is_err());
        assert!(checked(&SignedReceipt { signature: "xyz".into(), ..good }, None).is_err());
    }
}

//! Comparing replicas: each digests its whole state as of one command of the log.
//!
//! The command ends its batch, so every replica takes its view at the same index, and sound replicas have the same bytes
//! there. Reading everything also makes the engine check every block: damage that no reader has met yet is found. The
//! digest is made on a thread of its own, at a bounded rate.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mira_proto::node_v1::{self, VerificationState};
use mira_raft::{EngineError, StateReader};
use parking_lot::Mutex;

/// Verifications remembered; older ones are asked for no more.
const KEPT: usize = 8;
/// Bytes read before a pause, and the pause: at most about 200 MB/s beside foreground reads.
const BURST_BYTES: usize = 4 << 20;
const PAUSE: Duration = Duration::from_millis(20);

/// What a replica found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Report {
    Running,
    Done { index: u64, pairs: u64, digest: [u8; 32] },
    Failed { index: u64, error: String },
}

/// One replica's verifications, and whether it is known to be damaged.
#[derive(Default)]
pub struct Verifier {
    reader: Mutex<Option<StateReader>>,
    /// By the number that names the verification, the oldest first.
    reports: Mutex<VecDeque<(u64, Report)>>,
    damaged: AtomicBool,
}

impl Verifier {
    /// Whether a read of this replica's state has met damage.
    pub fn damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Notes what a read met; damage makes the replica leave its group and be rebuilt.
    pub fn met(&self, error: &EngineError) {
        if matches!(error, EngineError::Damaged(_)) && !self.damaged.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "a replica is damaged");
        }
    }

    /// The state was opened or replaced.
    pub(super) fn state_is(&self, state: StateReader) {
        *self.reader.lock() = Some(state);
    }

    /// Begins to digest the state as it is now, `index` being its last command.
    pub(super) fn begin(self: &Arc<Self>, nonce: u64, index: u64) {
        let view = self.reader.lock().as_ref().map(StateReader::view);
        let Some(view) = view else { return };
        self.note(nonce, Report::Running);
        let this = self.clone();
        let work = move || {
            let report = match view.and_then(|view| digest(&view)) {
                Ok((pairs, digest)) => Report::Done { index, pairs, digest },
                Err(error) => {
                    this.met(&error);
                    Report::Failed { index, error: error.to_string() }
                }
            };
            this.note(nonce, report);
        };
        if let Err(error) = std::thread::Builder::new().name("verifier".into()).spawn(work) {
            self.note(nonce, Report::Failed { index, error: error.to_string() });
        }
    }

    /// Keeps what is known of a verification, in its place among the last [`KEPT`] that began.
    fn note(&self, nonce: u64, report: Report) {
        let mut reports = self.reports.lock();
        match reports.iter_mut().find(|(known, _)| *known == nonce) {
            Some((_, known)) => *known = report,
            // One that ends after it was forgotten stays so.
            None if report != Report::Running => {}
            None => {
                reports.push_back((nonce, report));
                if reports.len() > KEPT {
                    reports.pop_front();
                }
            }
        }
    }

    /// What is known of a verification.
    pub fn report(&self, nonce: u64) -> node_v1::VerifyShardReply {
        let reply = |state: VerificationState| node_v1::VerifyShardReply { state: state.into(), ..Default::default() };
        let known = self.reports.lock().iter().find(|(known, _)| *known == nonce).map(|(_, report)| report.clone());
        match known {
            None => reply(VerificationState::Unknown),
            Some(Report::Running) => reply(VerificationState::Running),
            Some(Report::Done { index, pairs, digest }) => node_v1::VerifyShardReply {
                index,
                pairs,
                digest: digest.to_vec().into(),
                ..reply(VerificationState::Done)
            },
            Some(Report::Failed { index, error }) => {
                node_v1::VerifyShardReply { index, error, ..reply(VerificationState::Failed) }
            }
        }
    }
}

/// Number of pairs, and the hash over all of them in order.
fn digest(view: &StateReader) -> Result<(u64, [u8; 32]), EngineError> {
    let (mut hasher, mut pairs, mut burst) = (blake3::Hasher::new(), 0u64, 0);
    view.scan_prefix(&[], false, &mut |key, value| {
        for part in [key, value] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        pairs += 1;
        burst += key.len() + value.len();
        if burst >= BURST_BYTES {
            burst = 0;
            std::thread::sleep(PAUSE);
        }
        ControlFlow::Continue(())
    })?;
    Ok((pairs, *hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_verification_is_forgotten_first_whatever_its_number() {
        let verifier = Verifier::default();
        let nonces: Vec<u64> = (0..=KEPT as u64).map(|at| at.wrapping_mul(0x9E37_79B9_7F4A_7C15)).rev().collect();
        let done = Report::Done { index: 5, pairs: 1, digest: [7; 32] };
        for &nonce in &nonces {
            verifier.note(nonce, Report::Running);
            verifier.note(nonce, done.clone());
        }
        assert_eq!(verifier.report(nonces[0]).state(), VerificationState::Unknown);
        for &nonce in &nonces[1..] {
            assert_eq!(verifier.report(nonce).state(), VerificationState::Done, "{nonce}");
        }
        verifier.note(nonces[0], done);
        assert_eq!(verifier.report(nonces[0]).state(), VerificationState::Unknown, "its digest came too late");
        assert_eq!(verifier.report(nonces[1]).state(), VerificationState::Done);
    }
}

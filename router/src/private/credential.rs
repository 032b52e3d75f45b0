//! Who owns private frames, as a request says it: by a key, or by a passphrase that stands for one.
//!
//! A key arrives in a header, lives as long as the request, and is wiped with it. A passphrase opens a *passphrase
//! record* ([`mira_crypto::OwnerKey::protect`]) that the cluster keeps for its owner, whose name is the caller's, or the
//! one it sends along. The first private frame that is stored under a new name makes the record, with a fresh key in it;
//! a record that is cheaper to guess at than today's cost is replaced when it is next opened. Opening one takes a tenth of
//! a second by design, so a router remembers the key for [`limits::PASSPHRASE_CACHE_TIME`], under a keyed hash of name
//! and passphrase.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;
use mira_crypto::{CryptoError, OwnerKey, PassphraseCost};
use mira_proto::model::StoreItem;
use mira_proto::node_v1::{GetOwnerRequest, PutOwnerRequest};
use mira_proto::{Code, Problem, limits};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::operations::admin::collections::meta_call;
use crate::{Memory, RequestContext};

/// What a request says about the owner. Prints no secret.
#[derive(Clone)]
pub enum Credential {
    /// The key itself.
    Key(Arc<OwnerKey>),
    /// A passphrase, to be turned into the key.
    Passphrase(Arc<Passphrase>),
}

/// A passphrase and whose it is.
pub struct Passphrase {
    owner: [u8; 16],
    secret: Zeroizing<String>,
}

impl Credential {
    /// A key as a header holds it.
    pub fn key(text: &str) -> Result<Self, Problem> {
        match OwnerKey::from_text(text) {
            Ok(key) => Ok(Credential::Key(Arc::new(key))),
            Err(error) => Err(Problem::invalid(format!("the owner's key is not base64 of 32 bytes: {error}"))),
        }
    }

    /// A passphrase of the owner that is named, else of the caller.
    pub fn passphrase(principal: &str, name: Option<&str>, secret: &str) -> Result<Self, Problem> {
        if secret.is_empty() || name.is_some_and(str::is_empty) {
            return Err(Problem::invalid("the owner's passphrase or name is empty"));
        }
        let longest = secret.len().max(name.map_or(0, str::len));
        if longest > limits::MAX_PASSPHRASE_BYTES {
            let limit = limits::MAX_PASSPHRASE_BYTES;
            return Err(Problem::new(Code::TooLarge, format!("the owner's passphrase or name is over {limit} bytes")));
        }
        let mut hash = blake3::Hasher::new_derive_key("mira 2026 owner name");
        let (kind, name) = name.map_or(("caller", principal), |name| ("name", name));
        hash.update(kind.as_bytes()).update(&[0]).update(name.as_bytes());
        let owner = hash.finalize().as_bytes()[..16].try_into().expect("a hash has 32 bytes");
        Ok(Credential::Passphrase(Arc::new(Passphrase { owner, secret: Zeroizing::new(secret.to_owned()) })))
    }
}

/// A passphrase that is to take another's place.
pub struct NewPassphrase(Zeroizing<String>);

impl NewPassphrase {
    /// As a header holds it.
    pub fn new(secret: &str) -> Result<Self, Problem> {
        let limit = limits::MAX_PASSPHRASE_BYTES;
        match secret.len() {
            0 => Err(Problem::invalid("the new passphrase is empty")),
            length if length > limit => {
                Err(Problem::new(Code::TooLarge, format!("the new passphrase is over {limit} bytes")))
            }
            _ => Ok(NewPassphrase(Zeroizing::new(secret.to_owned()))),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Key(key) => key.fmt(f),
            Credential::Passphrase(_) => f.write_str("Passphrase"),
        }
    }
}

impl RequestContext {
    /// The owner's key, once [`Memory::with_owner`] has found it.
    pub(crate) fn owner_key(&self) -> Option<&OwnerKey> {
        match &self.owner {
            Some(Credential::Key(key)) => Some(key),
            Some(Credential::Passphrase(_)) | None => None,
        }
    }
}

/// A key, and until when it is remembered.
type Opened = (Instant, Arc<OwnerKey>);

/// Keys behind passphrases that were opened a moment ago, and the right to open one.
pub(crate) struct Owners {
    opened: Mutex<LruCache<[u8; 32], Opened>>,
    /// Keys the hashes above, so that they are worth nothing outside of this process.
    secret: Zeroizing<[u8; 32]>,
    at_work: Arc<Semaphore>,
    cost: Mutex<PassphraseCost>,
}

impl Default for Owners {
    fn default() -> Self {
        let capacity = NonZeroUsize::new(limits::PASSPHRASE_CACHE).expect("the cache holds something");
        Owners {
            opened: Mutex::new(LruCache::new(capacity)),
            secret: Zeroizing::new(rand::random()),
            at_work: Arc::new(Semaphore::new(limits::MAX_PASSPHRASES_AT_WORK)),
            cost: Mutex::new(PassphraseCost::RECOMMENDED),
        }
    }
}

impl Owners {
    /// What a guess at a passphrase costs from now on.
    pub(crate) fn set_cost(&self, cost: PassphraseCost) {
        *self.cost.lock() = cost;
    }

    fn cache_key(&self, passphrase: &Passphrase) -> [u8; 32] {
        let mut hash = blake3::Hasher::new_keyed(&self.secret);
        hash.update(&passphrase.owner).update(passphrase.secret.as_bytes());
        *hash.finalize().as_bytes()
    }

    fn opened(&self, passphrase: &Passphrase) -> Option<Arc<OwnerKey>> {
        let mut opened = self.opened.lock();
        let now = Instant::now();
        // Wipes what was not asked for in a while, too.
        while opened.peek_lru().is_some_and(|(_, (until, _))| *until <= now) {
            opened.pop_lru();
        }
        let (until, key) = opened.get(&self.cache_key(passphrase))?;
        (*until > now).then(|| key.clone())
    }

    fn remember(&self, passphrase: &Passphrase, key: Arc<OwnerKey>) {
        let until = Instant::now() + limits::PASSPHRASE_CACHE_TIME;
        self.opened.lock().put(self.cache_key(passphrase), (until, key));
    }
}

impl Memory {
    /// The request with the owner's key in the place of a passphrase. A passphrase that nothing was stored under is a
    /// wrong one.
    pub(crate) async fn with_owner(&self, context: &RequestContext) -> Result<RequestContext, Problem> {
        self.resolve(context, false).await
    }

    /// The owner of a search, who must be there if private frames are to be searched.
    pub(crate) async fn searching_owner(
        &self,
        context: &RequestContext,
        needed: bool,
    ) -> Result<RequestContext, Problem> {
        match (needed, &context.owner) {
            (false, _) => Ok(context.clone()),
            (true, None) => Err(keyless("include_private")),
            (true, Some(_)) => self.resolve(context, false).await,
        }
    }

    /// The owner of what is stored, who must be there if any of it is private.
    pub(crate) async fn storing_owner(
        &self,
        context: &RequestContext,
        items: &[StoreItem],
    ) -> Result<RequestContext, Problem> {
        match (items.iter().any(|item| item.private), &context.owner) {
            (false, _) => Ok(context.clone()),
            (true, None) => Err(keyless("private")),
            (true, Some(_)) => self.resolve(context, true).await,
        }
    }

    async fn resolve(&self, context: &RequestContext, make: bool) -> Result<RequestContext, Problem> {
        let Some(Credential::Passphrase(passphrase)) = &context.owner else { return Ok(context.clone()) };
        let key = match self.owners.opened(passphrase) {
            Some(key) => key,
            None => {
                let key = self.open_passphrase(context, passphrase, make).await?;
                self.owners.remember(passphrase, key.clone());
                key
            }
        };
        Ok(RequestContext { owner: Some(Credential::Key(key)), ..context.clone() })
    }

    async fn open_passphrase(
        &self,
        context: &RequestContext,
        passphrase: &Arc<Passphrase>,
        make: bool,
    ) -> Result<Arc<OwnerKey>, Problem> {
        let owner = Bytes::copy_from_slice(&passphrase.owner);
        let mut record = self.record(context, &owner).await?;
        let cost = *self.owners.cost.lock();
        if record.is_empty() {
            if !make {
                let detail = "nothing private was stored under a passphrase of this owner: send the owner's key, or store \
                    something private first";
                return Err(Problem::new(Code::WrongOwnerKey, detail));
            }
            let made = self.at_work(passphrase, move |secret| {
                let mut rng = mira_crypto::os_rng();
                OwnerKey::generate(&mut rng).protect(secret, cost, &mut rng)
            });
            // Another router may be quicker: its record counts.
            record = self.put_record(context, (owner.clone(), made.await?, String::new())).await?;
        }
        let old = record.clone();
        let (key, better) = self
            .at_work(passphrase, move |secret| {
                let key = OwnerKey::from_passphrase(secret, &record)?;
                let weak = PassphraseCost::of_record(&record)?.is_below(&cost);
                let better = weak.then(|| key.protect(secret, cost, &mut mira_crypto::os_rng())).transpose()?;
                Ok((key, better))
            })
            .await?;
        if let Some(better) = better {
            self.put_record(context, (owner, better, old)).await?;
        }
        Ok(Arc::new(key))
    }

    /// Protects the owner's key by another passphrase. The key stays, and so does everything sealed with it.
    pub async fn set_passphrase(&self, context: &RequestContext, new: NewPassphrase) -> Result<(), Problem> {
        self.bounded("set_passphrase", context, async {
            let Some(Credential::Passphrase(passphrase)) = &context.owner else {
                let detail =
                    "send the passphrase of today (header X-Mira-Owner-Passphrase): a key has none to be changed";
                return Err(Problem::invalid(detail));
            };
            let owner = Bytes::copy_from_slice(&passphrase.owner);
            let record = self.record(context, &owner).await?;
            if record.is_empty() {
                return Err(Problem::new(Code::WrongOwnerKey, "no passphrase of this owner was ever used"));
            }
            let (old, cost) = (record.clone(), *self.owners.cost.lock());
            let changed = self
                .at_work(passphrase, move |secret| {
                    let key = OwnerKey::from_passphrase(secret, &record)?;
                    key.protect(&new.0, cost, &mut mira_crypto::os_rng())
                })
                .await?;
            if self.put_record(context, (owner, changed.clone(), old)).await? != changed {
                return Err(Problem::new(Code::Conflict, "the passphrase was changed by another request: try again"));
            }
            self.owners.opened.lock().pop(&self.owners.cache_key(passphrase));
            Ok(())
        })
        .await
    }

    /// An owner's passphrase record; empty if there is none.
    async fn record(&self, context: &RequestContext, owner: &Bytes) -> Result<String, Problem> {
        let call = meta_call(context, "get_owner");
        let get = GetOwnerRequest { owner: owner.clone() };
        let found = self
            .cluster
            .call(&call, |mut client, _| {
                let get = get.clone();
                async move { client.get_owner(get).await }
            })
            .await?;
        Ok(found.record)
    }

    /// Stores a record in the place of another; returns the one that is there then.
    async fn put_record(
        &self,
        context: &RequestContext,
        (owner, record, replaces): (Bytes, String, String),
    ) -> Result<String, Problem> {
        let call = meta_call(context, "put_owner");
        let put = PutOwnerRequest { owner, record, replaces };
        let reply = self
            .cluster
            .call(&call, |mut client, _| {
                let put = put.clone();
                async move { client.put_owner(put).await }
            })
            .await?;
        Ok(reply.record)
    }

    /// Runs something slow with the passphrase on a thread of its own, few at once.
    async fn at_work<T: Send + 'static>(
        &self,
        passphrase: &Arc<Passphrase>,
        work: impl FnOnce(&str) -> Result<T, CryptoError> + Send + 'static,
    ) -> Result<T, Problem> {
        let passphrase = passphrase.clone();
        let permit = self.owners.at_work.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Problem::internal("the router is stopping"))?;
        let worked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&passphrase.secret)
        });
        worked.await.map_err(|_| Problem::internal("opening a passphrase failed"))?.map_err(problem_of)
    }
}

fn keyless(field: &str) -> Problem {
    Problem::invalid(format!(
        "{field} needs the owner's key: send the header X-Mira-Owner-Key (32 bytes, base64) or X-Mira-Owner-Passphrase"
    ))
}

/// What a caller is told when its key, or something sealed with it, is wrong.
pub(crate) fn problem_of(error: CryptoError) -> Problem {
    let code = match &error {
        CryptoError::WrongOwnerKey => Code::WrongOwnerKey,
        CryptoError::NotBase64
        | CryptoError::KeySize { .. }
        | CryptoError::EmptyPassphrase
        | CryptoError::PassphraseCost { .. } => Code::InvalidArgument,
        CryptoError::UnknownVersion { .. } => Code::UnsupportedVersion,
        _ => Code::Damaged,
    };
    Problem::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_the_wrong_size_is_told_from_one_that_is_no_base64() {
        for (text, says) in [("AAEC", "3 bytes"), ("no key!", "not base64")] {
            let problem = Credential::key(text).unwrap_err();
            assert_eq!(problem.code, Code::InvalidArgument);
            assert!(problem.detail.contains(says), "{problem}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let mut context = RequestContext::new("ada", std::time::Duration::from_secs(1));
        context.owner = Some(Credential::key(text).unwrap());
        assert!(!format!("{context:?}").contains("AAEC"));
        context.owner = Some(Credential::passphrase("ada", None, "open sesame").unwrap());
        assert!(!format!("{context:?}").contains("sesame"));
    }

    #[test]
    fn an_owner_without_a_name_is_the_caller_and_no_name_poses_as_one() {
        let owner = |principal: &str, name: Option<&str>| match Credential::passphrase(principal, name, "x").unwrap() {
            Credential::Passphrase(passphrase) => passphrase.owner,
            Credential::Key(_) => unreachable!("it is a passphrase"),
        };
        assert_eq!(owner("ada", None), owner("ada", None));
        assert_eq!(owner("ada", Some("team")), owner("bob", Some("team")));
        assert_ne!(owner("ada", None), owner("bob", None));
        assert_ne!(owner("ada", None), owner("bob", Some("ada")));
    }
}

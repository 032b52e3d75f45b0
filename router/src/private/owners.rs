//! Keys behind passphrases.
//!
//! A passphrase opens a *passphrase record* ([`mira_crypto::OwnerKey::protect`]) that the cluster keeps for its owner, who is
//! the caller's principal, or whom it names where that is allowed. [`Memory::create_passphrase`] makes the record, with a
//! fresh key in it, and nothing else does: a mistyped passphrase of a store must not begin another owner. A record that is
//! cheaper to guess at than today's cost is replaced when it is next opened. Opening one takes a tenth of a second by
//! design, so a router remembers the key for [`limits::PASSPHRASE_CACHE_TIME`], under a keyed hash of name and passphrase.
//! Guesses are braked (`super::brake`).

use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;
use mira_crypto::{CryptoError, OwnerKey, PassphraseCost};
use mira_proto::node_v1::{GetOwnerRequest, OwnerReply, PutOwnerRequest};
use mira_proto::{Code, Problem, limits};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::brake::Brake;
use super::credential::{Credential, NewPassphrase, Passphrase, problem_of};
use crate::rates::CallerRate;
use crate::{Memory, RequestContext, ids};

/// A key, and until when it is remembered.
type RememberedKey = (Instant, Arc<OwnerKey>);

/// Keys behind passphrases that were opened a moment ago, and the right to open one.
pub(crate) struct Owners {
    opened: Mutex<LruCache<[u8; 32], RememberedKey>>,
    /// Keys the hashes above, so that they are worth nothing outside of this process.
    secret: Zeroizing<[u8; 32]>,
    at_work: Arc<Semaphore>,
    brake: Brake,
    made: CallerRate,
    cost: Mutex<PassphraseCost>,
}

impl Default for Owners {
    fn default() -> Self {
        let capacity = NonZeroUsize::new(limits::PASSPHRASE_CACHE).expect("the cache holds something");
        Owners {
            opened: Mutex::new(LruCache::new(capacity)),
            secret: Zeroizing::new(rand::random()),
            at_work: Arc::new(Semaphore::new(limits::MAX_PASSPHRASES_AT_WORK)),
            brake: Brake::default(),
            made: CallerRate::new("owners", limits::OWNERS_AT_ONCE, limits::OWNER_EVERY),
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
    /// The request with the owner's key in the place of a passphrase.
    pub(crate) async fn with_owner(&self, context: &RequestContext) -> Result<RequestContext, Problem> {
        let Some(Credential::Passphrase(passphrase)) = &context.owner else { return Ok(context.clone()) };
        let with = |key| Ok(RequestContext { owner: Some(Credential::Key(key)), ..context.clone() });
        if let Some(key) = self.owners.opened(passphrase) {
            return with(key);
        }
        let _turn = self.owners.brake.turn(context).await?;
        // The caller's request before this one may have opened it.
        if let Some(key) = self.owners.opened(passphrase) {
            return with(key);
        }
        let key = self.open_passphrase(context, passphrase).await?;
        self.owners.remember(passphrase, key.clone());
        with(key)
    }

    /// The owner of a search, who must be there if private frames are to be searched.
    pub(crate) async fn searching_owner(
        &self,
        context: &RequestContext,
        needed: bool,
    ) -> Result<RequestContext, Problem> {
        self.owner_if(context, needed, "include_private").await
    }

    /// The owner of what is stored, who must be there if any of it is private (`is_private`).
    pub(crate) async fn storing_owner(
        &self,
        context: &RequestContext,
        is_private: bool,
    ) -> Result<RequestContext, Problem> {
        self.owner_if(context, is_private, "private").await
    }

    async fn owner_if(&self, context: &RequestContext, needed: bool, field: &str) -> Result<RequestContext, Problem> {
        if !needed {
            return Ok(context.clone());
        }
        if context.owner.is_none() {
            return Err(Problem::invalid(format!(
                "{field} needs the owner's key: send the header X-Mira-Owner-Key (32 bytes, base64) or \
                 X-Mira-Owner-Passphrase"
            )));
        }
        self.with_owner(context).await
    }

    async fn open_passphrase(
        &self,
        context: &RequestContext,
        passphrase: &Arc<Passphrase>,
    ) -> Result<Arc<OwnerKey>, Problem> {
        let (owner, record) = self.existing_record(context, passphrase).await?;
        let (old, cost) = (record.clone(), *self.owners.cost.lock());
        let (key, better) = self
            .guess(context, passphrase, move |secret| {
                let key = OwnerKey::from_passphrase(secret, &record)?;
                let weak = PassphraseCost::of_record(&record)?.is_below(&cost);
                let better = weak.then(|| key.protect(secret, cost, &mut mira_crypto::os_rng())).transpose()?;
                Ok((key, better))
            })
            .await?;
        if let Some(record) = better {
            self.put_record(context, PutOwnerRequest { owner, record, replaces: old, ..Default::default() }).await?;
        }
        Ok(Arc::new(key))
    }

    /// Makes the passphrase record of an owner who has none, with a fresh key in it. The same passphrase again changes
    /// nothing.
    pub async fn create_passphrase(&self, context: &RequestContext) -> Result<(), Problem> {
        self.bounded("create_passphrase", context, async {
            let passphrase = passphrase_of(context)?;
            let _turn = self.owners.brake.turn(context).await?;
            let owner = Bytes::copy_from_slice(&passphrase.owner);
            let mut record = self.record(context, &owner).await?;
            if record.is_empty() {
                self.owners.made.take(&context.principal, Instant::now())?;
                let cost = *self.owners.cost.lock();
                let made = self.at_work(context, passphrase, move |secret| {
                    let mut rng = mira_crypto::os_rng();
                    OwnerKey::generate(&mut rng).protect(secret, cost, &mut rng)
                });
                let made = made.await?;
                let put = PutOwnerRequest { owner, record: made.clone(), ..Default::default() };
                // Another request may be quicker: its record counts.
                record = self.put_record(context, put).await?;
                if record == made {
                    return Ok(());
                }
            }
            let opened = self
                .guess(context, passphrase, move |secret| OwnerKey::from_passphrase(secret, &record).map(drop))
                .await;
            opened.map_err(|problem| match problem.code {
                Code::WrongOwnerKey => {
                    let detail = "this owner has another passphrase: change it with POST /owner/passphrase \
                        (mira owner change-passphrase)";
                    Problem::new(Code::AlreadyExists, detail)
                }
                _ => problem,
            })
        })
        .await
    }

    /// Protects the owner's key by another passphrase. The key stays, and so does everything sealed with it. Whoever sends it
    /// again after the change is answered alike: the new passphrase opens the record.
    pub async fn set_passphrase(&self, context: &RequestContext, new: NewPassphrase) -> Result<(), Problem> {
        self.bounded("set_passphrase", context, async {
            let passphrase = passphrase_of(context)?;
            let _turn = self.owners.brake.turn(context).await?;
            let (owner, record) = self.existing_record(context, passphrase).await?;
            let (new, cost) = (Arc::new(new), *self.owners.cost.lock());
            let (old, to) = (record.clone(), new.clone());
            let changed = self.guess(context, passphrase, move |secret| {
                OwnerKey::from_passphrase(secret, &old)?.protect(&to.0, cost, &mut mira_crypto::os_rng())
            });
            let changed = match changed.await {
                Err(wrong) if wrong.code == Code::WrongOwnerKey => {
                    let is_new =
                        self.guess(context, passphrase, move |_| OwnerKey::from_passphrase(&new.0, &record).map(drop));
                    return is_new.await.map_err(|_| wrong);
                }
                changed => changed?,
            };
            let put = PutOwnerRequest { owner, record: changed.clone(), replaces: record, ..Default::default() };
            if self.put_record(context, put).await? != changed {
                return Err(Problem::new(Code::Conflict, "the passphrase was changed by another request: try again"));
            }
            self.owners.opened.lock().pop(&self.owners.cache_key(passphrase));
            Ok(())
        })
        .await
    }

    /// Removes the owner's passphrase record, for whoever has the passphrase. What it protected can be opened by the key
    /// itself only, if somebody has it.
    pub async fn remove_passphrase(&self, context: &RequestContext) -> Result<(), Problem> {
        self.bounded("remove_passphrase", context, async {
            let passphrase = passphrase_of(context)?;
            let _turn = self.owners.brake.turn(context).await?;
            let request_id = ids::admin_request_id(context, "remove_passphrase", &[&passphrase.owner]);
            let owner = Bytes::copy_from_slice(&passphrase.owner);
            let ask = GetOwnerRequest { owner: owner.clone(), request_id: request_id.clone() };
            let known = self.ask_record(context, ask).await?;
            if known.carried_out {
                return Ok(());
            }
            let record = there_is(known.record)?;
            let old = record.clone();
            self.guess(context, passphrase, move |secret| OwnerKey::from_passphrase(secret, &record).map(drop)).await?;
            let gone = PutOwnerRequest { owner, record: String::new(), replaces: old, request_id };
            if !self.put_record(context, gone).await?.is_empty() {
                return Err(Problem::new(Code::Conflict, "the passphrase was changed by another request: try again"));
            }
            self.owners.opened.lock().pop(&self.owners.cache_key(passphrase));
            Ok(())
        })
        .await
    }

    /// The name and record of an owner that has one.
    async fn existing_record(
        &self,
        context: &RequestContext,
        passphrase: &Passphrase,
    ) -> Result<(Bytes, String), Problem> {
        let owner = Bytes::copy_from_slice(&passphrase.owner);
        let record = there_is(self.record(context, &owner).await?)?;
        Ok((owner, record))
    }

    /// An owner's passphrase record; empty if there is none.
    async fn record(&self, context: &RequestContext, owner: &Bytes) -> Result<String, Problem> {
        let ask = GetOwnerRequest { owner: owner.clone(), request_id: Bytes::new() };
        Ok(self.ask_record(context, ask).await?.record)
    }

    async fn ask_record(&self, context: &RequestContext, ask: GetOwnerRequest) -> Result<OwnerReply, Problem> {
        let asked = self
            .cluster
            .ask_meta(context, "get_owner", ask, |clients, ask| async move { clients.keys().get_owner(ask).await });
        Ok(asked.await?)
    }

    /// Stores a record in the place of another; returns the one that is there then.
    async fn put_record(&self, context: &RequestContext, put: PutOwnerRequest) -> Result<String, Problem> {
        let reply = self
            .cluster
            .ask_meta(context, "put_owner", put, |clients, put| async move { clients.keys().put_owner(put).await })
            .await?;
        Ok(reply.record)
    }

    /// Runs something that shows whether the passphrase is right; who guesses wrong too often is refused.
    async fn guess<T: Send + 'static>(
        &self,
        context: &RequestContext,
        passphrase: &Arc<Passphrase>,
        work: impl FnOnce(&str) -> Result<T, CryptoError> + Send + 'static,
    ) -> Result<T, Problem> {
        let (brake, caller, owner) = (&self.owners.brake, &context.principal, &passphrase.owner);
        brake.check(caller, owner, Instant::now())?;
        // Counted before it is known, so that a caller who goes away before its answer has guessed too.
        brake.wrong(caller, owner, Instant::now());
        let found = self.at_work(context, passphrase, work).await;
        match &found {
            Ok(_) => brake.right(caller, owner),
            Err(problem) if problem.code == Code::WrongOwnerKey => {}
            Err(_) => brake.not_judged(caller, owner),
        }
        found
    }

    /// Runs something slow with the passphrase on a thread of its own, few at once.
    async fn at_work<T: Send + 'static>(
        &self,
        context: &RequestContext,
        passphrase: &Arc<Passphrase>,
        work: impl FnOnce(&str) -> Result<T, CryptoError> + Send + 'static,
    ) -> Result<T, Problem> {
        let passphrase = passphrase.clone();
        let permit = timeout_at(context.deadline, self.owners.at_work.clone().acquire_owned()).await;
        let late = |_| Problem::new(Code::Overloaded, "this router opens other callers' passphrases: try again");
        let permit = permit.map_err(late)?.map_err(|_| Problem::internal("the router is stopping"))?;
        let worked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&passphrase.secret)
        });
        worked.await.map_err(|_| Problem::internal("opening a passphrase failed"))?.map_err(problem_of)
    }
}

/// The passphrase that a request carries.
fn passphrase_of(context: &RequestContext) -> Result<&Arc<Passphrase>, Problem> {
    match &context.owner {
        Some(Credential::Passphrase(passphrase)) => Ok(passphrase),
        Some(Credential::Key(_)) | None => {
            let detail = "send the passphrase (header X-Mira-Owner-Passphrase): a key has neither one nor a record";
            Err(Problem::invalid(detail))
        }
    }
}

/// Refuses what needs a record where there is none.
fn there_is(record: String) -> Result<String, Problem> {
    if record.is_empty() {
        let detail = "this owner has no passphrase: make its record with PUT /owner/passphrase (gRPC CreatePassphrase, mira \
            owner create-passphrase), or send the owner's key";
        return Err(Problem::new(Code::WrongOwnerKey, detail));
    }
    Ok(record)
}

//! Braking guesses at passphrases, caller by caller and owner by owner.
//!
//! A caller that guesses wrong at an owner waits before it may guess again, twice as long each time; so does one that
//! guesses at many owners. Nobody else waits with it: the owner's own caller is another one, and each caller opens one
//! passphrase at a time, so that one who sends many holds up none but itself. What is known here is one router's; a guess
//! through another costs its own hundred milliseconds and its own wait.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lru::LruCache;
use mira_proto::{Code, Problem, limits};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::RequestContext;

/// Wrong guesses of a caller at one owner that cost no wait: people mistype.
const FREE_AT_ONE: u32 = 5;
/// Wrong guesses of a caller at all owners together that cost no wait: many people may be behind one caller.
const FREE_AT_ALL: u32 = 50;
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(900);
/// After so long without a wrong guess, earlier ones are forgotten.
const MEMORY: Duration = Duration::from_secs(3_600);

/// Wrong guesses so far, and when the last one was.
#[derive(Debug, Clone, Copy)]
struct Wrong {
    guesses: u32,
    last: Instant,
}

impl Wrong {
    fn one_more(self, now: Instant) -> Self {
        let remembered = if now - self.last < MEMORY { self.guesses } else { 0 };
        Wrong { guesses: remembered.saturating_add(1), last: now }
    }

    /// When the next guess may be made.
    fn until(self, free: u32) -> Instant {
        let doublings = self.guesses.saturating_sub(free);
        let wait = match doublings {
            0 => Duration::ZERO,
            _ => Duration::from_secs(1 << (doublings - 1).min(16)).min(LONGEST),
        };
        self.last + wait
    }
}

type Owner = [u8; 16];

/// Who has guessed wrong, and who is at it.
pub(super) struct Brake {
    at_one: Mutex<LruCache<(Arc<str>, Owner), Wrong>>,
    at_all: Mutex<LruCache<Arc<str>, Wrong>>,
    /// One turn for each caller that has any at work.
    turns: Mutex<HashMap<Arc<str>, Weak<Semaphore>>>,
}

impl Default for Brake {
    fn default() -> Self {
        let known = NonZeroUsize::new(limits::MAX_OWNERS).expect("there are owners");
        let (at_one, at_all) = (Mutex::new(LruCache::new(known)), Mutex::new(LruCache::new(known)));
        Brake { at_one, at_all, turns: Mutex::default() }
    }
}

impl Brake {
    /// The caller's turn to open a passphrase, until it is dropped.
    pub(super) async fn turn(&self, context: &RequestContext) -> Result<OwnedSemaphorePermit, Problem> {
        let turn = {
            let mut turns = self.turns.lock();
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(&context.principal).and_then(Weak::upgrade);
            let turn = known.unwrap_or_else(|| Arc::new(Semaphore::new(1)));
            turns.insert(context.principal.clone(), Arc::downgrade(&turn));
            turn
        };
        if Arc::strong_count(&turn) > limits::MAX_PASSPHRASES_WAITING {
            let detail = "too many passphrases of this caller wait to be opened: send fewer requests at once";
            return Err(Problem::new(Code::RateLimited, detail).after(1));
        }
        let late = || Problem::new(Code::DeadlineExceeded, "the caller's other passphrases were not opened in time");
        match timeout_at(context.deadline, turn.acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(late()),
        }
    }

    /// Whether the caller may guess at this owner now.
    pub(super) fn check(&self, caller: &Arc<str>, owner: &Owner, now: Instant) -> Result<(), Problem> {
        let at_one = self.at_one.lock().peek(&(caller.clone(), *owner)).map(|wrong| wrong.until(FREE_AT_ONE));
        let at_all = self.at_all.lock().peek(caller).map(|wrong| wrong.until(FREE_AT_ALL));
        let Some(wait) = at_one.max(at_all).and_then(|until| until.checked_duration_since(now)) else { return Ok(()) };
        if wait.is_zero() {
            return Ok(());
        }
        let seconds = wait.as_secs() as u32 + u32::from(wait.subsec_nanos() > 0);
        let detail = format!("the passphrase was wrong too often: try again in {seconds} s");
        Err(Problem::new(Code::RateLimited, detail).after(seconds))
    }

    /// The caller has guessed wrong.
    pub(super) fn wrong(&self, caller: &Arc<str>, owner: &Owner, now: Instant) {
        let none = Wrong { guesses: 0, last: now };
        let mut at_one = self.at_one.lock();
        let before = at_one.get(&(caller.clone(), *owner)).copied().unwrap_or(none);
        at_one.put((caller.clone(), *owner), before.one_more(now));
        let mut at_all = self.at_all.lock();
        let before = at_all.get(caller).copied().unwrap_or(none);
        at_all.put(caller.clone(), before.one_more(now));
    }

    /// The guess that was counted last was right. What the caller guessed at other owners is not forgotten: anyone has an
    /// owner of its own.
    pub(super) fn right(&self, caller: &Arc<str>, owner: &Owner) {
        self.at_one.lock().pop(&(caller.clone(), *owner));
        self.take_back(self.at_all.lock().get_mut(caller));
    }

    /// The guess that was counted last was not judged.
    pub(super) fn not_judged(&self, caller: &Arc<str>, owner: &Owner) {
        self.take_back(self.at_one.lock().get_mut(&(caller.clone(), *owner)));
        self.take_back(self.at_all.lock().get_mut(caller));
    }

    fn take_back(&self, wrong: Option<&mut Wrong>) {
        if let Some(wrong) = wrong {
            wrong.guesses = wrong.guesses.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADAS: Owner = [1; 16];
    const BOBS: Owner = [2; 16];

    fn caller(name: &str) -> Arc<str> {
        name.into()
    }

    fn wait(brake: &Brake, name: &str, owner: &Owner, now: Instant) -> Option<u32> {
        let refused = brake.check(&caller(name), owner, now).err()?;
        assert_eq!(refused.code, Code::RateLimited);
        refused.retry_after
    }

    #[test]
    fn each_wrong_guess_beyond_the_free_ones_waits_twice_as_long_up_to_a_bound() {
        let (brake, now) = (Brake::default(), Instant::now());
        for _ in 0..FREE_AT_ONE {
            assert_eq!(wait(&brake, "eve", &ADAS, now), None);
            brake.wrong(&caller("eve"), &ADAS, now);
        }
        assert_eq!(wait(&brake, "eve", &ADAS, now), None);
        let waits: Vec<_> = (0..13)
            .map(|_| {
                brake.wrong(&caller("eve"), &ADAS, now);
                wait(&brake, "eve", &ADAS, now).unwrap()
            })
            .collect();
        assert_eq!(waits[..5], [1, 2, 4, 8, 16]);
        assert_eq!(waits[12], LONGEST.as_secs() as u32);
        assert_eq!(wait(&brake, "eve", &ADAS, now + LONGEST), None);
    }

    #[test]
    fn nobody_waits_for_the_guesses_of_another_nor_for_those_at_another_owner() {
        let (brake, now) = (Brake::default(), Instant::now());
        (0..10).for_each(|_| brake.wrong(&caller("eve"), &ADAS, now));
        assert!(wait(&brake, "eve", &ADAS, now).is_some());
        assert_eq!(wait(&brake, "ada", &ADAS, now), None);
        assert_eq!(wait(&brake, "eve", &BOBS, now), None);
    }

    #[test]
    fn guesses_at_many_owners_add_up_and_an_own_passphrase_clears_none_of_them() {
        let (brake, now) = (Brake::default(), Instant::now());
        let owner = |number: u32| {
            let mut owner = ADAS;
            owner[..4].copy_from_slice(&number.to_be_bytes());
            owner
        };
        for number in 0..=FREE_AT_ALL {
            assert_eq!(wait(&brake, "eve", &owner(number), now), None);
            brake.wrong(&caller("eve"), &owner(number), now);
        }
        brake.wrong(&caller("eve"), &BOBS, now);
        brake.right(&caller("eve"), &BOBS);
        assert_eq!(wait(&brake, "eve", &owner(9_999), now), Some(1));
        brake.not_judged(&caller("eve"), &owner(0));
        assert_eq!(wait(&brake, "eve", &owner(9_999), now), None);
    }

    #[test]
    fn wrong_guesses_are_forgotten_in_time_and_with_the_right_one() {
        let (brake, now) = (Brake::default(), Instant::now());
        (0..10).for_each(|_| brake.wrong(&caller("ada"), &ADAS, now));
        brake.right(&caller("ada"), &ADAS);
        assert_eq!(wait(&brake, "ada", &ADAS, now), None);
        (0..10).for_each(|_| brake.wrong(&caller("ada"), &ADAS, now));
        brake.wrong(&caller("ada"), &ADAS, now + MEMORY);
        assert_eq!(wait(&brake, "ada", &ADAS, now + MEMORY), None);
    }

    #[tokio::test]
    async fn a_caller_opens_one_passphrase_at_a_time_and_holds_up_no_other() {
        let brake = Brake::default();
        let context = |name: &str| RequestContext::new(name, Duration::from_millis(20));
        let first = brake.turn(&context("eve")).await.unwrap();
        assert_eq!(brake.turn(&context("eve")).await.unwrap_err().code, Code::DeadlineExceeded);
        let _other = brake.turn(&context("ada")).await.unwrap();
        let eve = RequestContext::new("eve", LONGEST);
        let waiting: Vec<_> = (0..limits::MAX_PASSPHRASES_WAITING).map(|_| Box::pin(brake.turn(&eve))).collect();
        let mut waiting = futures::future::join_all(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        let refused = brake.turn(&context("eve")).await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after), (Code::RateLimited, Some(1)));
        drop((first, waiting));
        assert!(brake.turn(&context("eve")).await.is_ok());
    }
}

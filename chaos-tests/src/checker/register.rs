//! Linearizability of one frame as a register with a version: the search of Wing and Gong with Lowe's memory.
//!
//! A history is linearizable if its operations can be put in one order, each between its call and its return, in which
//! every answer is right. Linearizability is local, so each key is judged by itself. The search tries to place one
//! operation after the other and remembers where it has been (which operations are placed, and the state they lead
//! to), because most orders meet again.
//!
//! Three facts keep it near linear where the general problem is exponential:
//! - a read (or a refused comparison) that fits now can be placed now: it changes nothing for the others;
//! - every write of a test has a value of its own, so an unknown write whose value somebody read is known to have
//!   become that version;
//! - unknown writes that nobody read are alike but for the time of their call, so only the earliest is tried.
//!
//! stateright's tester was considered: it has no memory of states and does not know writes of unknown outcome, both of
//! which a history with faults needs.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use serde::Serialize;

use crate::history::{Operation, Outcome};

/// What is asked of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// `store` with `replace: true`.
    Write {
        /// The new value; no two calls of a history have the same.
        value: u64,
    },
    /// `store` with `expected_version`.
    CompareAndSet {
        /// The version that must be current; 0 = none.
        expected: u64,
        /// The new value.
        value: u64,
    },
    /// `recall`, linearizable.
    Read,
}

/// A call, with the register it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Call {
    /// Which register.
    pub key: u32,
    /// What is asked of it.
    pub action: Action,
}

/// What a register answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A write took effect as this version.
    Written(u64),
    /// Another version was current than the expected one.
    Conflict,
    /// What was read; version 0 means that there is nothing.
    Value {
        /// The version.
        version: u64,
        /// The value.
        value: u64,
    },
}

/// An operation on a register.
pub type RegisterOperation = Operation<Call, Answer>;

/// The registers' state: version and value.
type State = (u64, u64);

/// Judges all keys of a history.
pub fn check(history: &[RegisterOperation]) -> Vec<String> {
    let mut keys: BTreeMap<u32, Vec<&RegisterOperation>> = BTreeMap::new();
    for operation in history {
        keys.entry(operation.call.key).or_default().push(operation);
    }
    let judge = |(key, operations): (&u32, &Vec<&RegisterOperation>)| {
        check_key(operations).err().map(|why| format!("register {key} is not linearizable: {why}"))
    };
    keys.iter().filter_map(judge).collect()
}

/// An operation that the search has to place.
#[derive(Debug, Clone)]
struct Event {
    called: Duration,
    /// `None`: it may take effect at any time after its call.
    returned: Option<Duration>,
    effect: Effect,
    /// For the evidence.
    shown: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Effect {
    /// Leads to this state, from the version before it.
    Becomes(State),
    /// Sees this state.
    Sees(State),
    /// Sees any version but this.
    SeesOther(u64),
    /// May lead from this version (any, if `None`) to the next, with this value.
    May(Option<u64>, u64),
}

impl Effect {
    /// The state after it, if it can take place in `state`.
    fn apply(self, state: State) -> Option<State> {
        match self {
            Effect::Becomes(next) => (state.0 + 1 == next.0).then_some(next),
            Effect::Sees(seen) => (state == seen).then_some(state),
            Effect::SeesOther(expected) => (state.0 != expected).then_some(state),
            Effect::May(expected, value) => {
                expected.is_none_or(|expected| expected == state.0).then_some((state.0 + 1, value))
            }
        }
    }

    fn is_read(self) -> bool {
        matches!(self, Effect::Sees(_) | Effect::SeesOther(_))
    }
}

fn check_key(operations: &[&RegisterOperation]) -> Result<(), String> {
    let read: HashMap<u64, u64> = operations
        .iter()
        .filter_map(|operation| match operation.outcome {
            Outcome::Ok(Answer::Value { version, value }) if version > 0 => Some((value, version)),
            _ => None,
        })
        .collect();
    let mut required = Vec::new();
    let mut optional = Vec::new();
    for operation in operations {
        match event(operation, &read)? {
            Some(event) if matches!(event.effect, Effect::May(..)) => optional.push(event),
            Some(event) => required.push(event),
            None => {}
        }
    }
    required.sort_by_key(|event| event.called);
    optional.sort_by_key(|event| event.called);
    let claimed = required.iter().filter_map(|event| match event.effect {
        Effect::Becomes((version, _)) => Some(version),
        _ => None,
    });
    Search { claimed: &claimed.collect(), required: &required, optional: &optional }.run()
}

/// What an operation tells; `None` for those that tell nothing.
fn event(operation: &RegisterOperation, read: &HashMap<u64, u64>) -> Result<Option<Event>, String> {
    let action = operation.call.action;
    let value = match action {
        Action::Write { value } | Action::CompareAndSet { value, .. } => value,
        Action::Read => 0,
    };
    let effect = match (&operation.outcome, action) {
        (Outcome::Ok(Answer::Written(version)), _) => Effect::Becomes((*version, value)),
        (Outcome::Ok(Answer::Value { version, value }), _) => Effect::Sees((*version, *value)),
        (Outcome::Ok(Answer::Conflict), Action::CompareAndSet { expected, .. }) => Effect::SeesOther(expected),
        (Outcome::Ok(Answer::Conflict), _) => {
            return Err(format!("a write without condition conflicted: {operation:?}"));
        }
        (Outcome::Refused(_), Action::Write { .. } | Action::CompareAndSet { .. }) if read.contains_key(&value) => {
            return Err(format!("a refused write took effect as version {}: {operation:?}", read[&value]));
        }
        (Outcome::Unknown(_), Action::Write { .. } | Action::CompareAndSet { .. }) => {
            let expected = match action {
                Action::CompareAndSet { expected, .. } => Some(expected),
                _ => None,
            };
            match read.get(&value) {
                Some(version) if expected.is_some_and(|expected| expected + 1 != *version) => {
                    return Err(format!("a write took effect as version {version}: {operation:?}"));
                }
                Some(&version) => Effect::Becomes((version, value)),
                None => Effect::May(expected, value),
            }
        }
        (Outcome::Refused(_) | Outcome::Unknown(_), _) => return Ok(None),
    };
    if let (Effect::Becomes((version, _)), Action::CompareAndSet { expected, .. }) = (effect, action)
        && version != expected + 1
    {
        return Err(format!("a comparison with version {expected} made version {version}: {operation:?}"));
    }
    let shown = format!(
        "process {} {:?} → {:?} [{:.3} s, {:.3} s]",
        operation.process,
        action,
        operation.outcome,
        operation.called.as_secs_f64(),
        operation.returned.as_secs_f64()
    );
    Ok(Some(Event { called: operation.called, returned: operation.certain_from(), effect, shown }))
}

/// A search over the orders of one key's events.
struct Search<'a> {
    /// Must all be placed.
    required: &'a [Event],
    /// May be placed.
    optional: &'a [Event],
    /// Versions that required events make: no other event can.
    claimed: &'a HashSet<u64>,
}

/// How far an order got.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    /// All required events before this one are placed.
    first_open: usize,
    /// Required events placed beyond it, ascending.
    ahead: Vec<usize>,
    /// Optional events placed, ascending.
    taken: Vec<usize>,
    state: State,
}

impl Search<'_> {
    fn run(&self) -> Result<(), String> {
        let start = Place { first_open: 0, ahead: Vec::new(), taken: Vec::new(), state: (0, 0) };
        let mut open = vec![self.with_reads(start)];
        let mut seen = HashSet::new();
        let mut furthest: Option<Place> = None;
        while let Some(place) = open.pop() {
            if place.first_open == self.required.len() {
                return Ok(());
            }
            if !seen.insert(place.clone()) {
                continue;
            }
            open.extend(self.steps(&place).map(|next| self.with_reads(next)));
            let placed = |place: &Place| place.first_open + place.ahead.len();
            if furthest.as_ref().is_none_or(|best| placed(&place) > placed(best)) {
                furthest = Some(place);
            }
        }
        Err(self.evidence(&furthest.expect("the search began somewhere")))
    }

    /// No event that is called after this moment can come next: one that must come before has returned.
    fn horizon(&self, place: &Place) -> Duration {
        let open = self.open(place).take_while(|&at| {
            // Later events return after their call, which is after this one's.
            self.required[at].called <= self.required[place.first_open].returned.unwrap_or(Duration::MAX)
        });
        open.filter_map(|at| self.required[at].returned).min().unwrap_or(Duration::MAX)
    }

    fn open<'p>(&self, place: &'p Place) -> impl Iterator<Item = usize> + use<'p> {
        (place.first_open..self.required.len()).filter(|at| place.ahead.binary_search(at).is_err())
    }

    /// The required events that may come next, wherever the state leads.
    fn candidates<'p>(&'p self, place: &'p Place) -> impl Iterator<Item = usize> + use<'p> {
        let horizon = self.horizon(place);
        self.open(place).take_while(move |&at| self.required[at].called <= horizon)
    }

    /// Places every read that fits, for as long as one does.
    fn with_reads(&self, mut place: Place) -> Place {
        loop {
            let fits = |&at: &usize| {
                let effect = self.required[at].effect;
                effect.is_read() && effect.apply(place.state).is_some()
            };
            let Some(at) =
                (place.first_open < self.required.len()).then(|| self.candidates(&place).find(fits)).flatten()
            else {
                return place;
            };
            self.take(&mut place, at);
        }
    }

    fn take(&self, place: &mut Place, at: usize) {
        let slot = place.ahead.binary_search(&at).unwrap_err();
        place.ahead.insert(slot, at);
        while place.ahead.first() == Some(&place.first_open) {
            place.ahead.remove(0);
            place.first_open += 1;
        }
    }

    /// Every order that is one write longer.
    fn steps<'p>(&'p self, place: &'p Place) -> impl Iterator<Item = Place> + use<'p> {
        let required = self.candidates(place).filter_map(|at| {
            let state = self.required[at].effect.apply(place.state)?;
            let mut next = Place { state, ..place.clone() };
            self.take(&mut next, at);
            Some(next)
        });
        let horizon = self.horizon(place);
        let mut tried = HashSet::new();
        let optional = self.optional.iter().enumerate().filter_map(move |(at, event)| {
            let Effect::May(condition, _) = event.effect else { return None };
            let slot = place.taken.binary_search(&at).err()?;
            let (version, value) = event.effect.apply(place.state)?;
            if event.called > horizon || self.claimed.contains(&version) || !tried.insert(condition) {
                return None;
            }
            let mut next = Place { state: (version, value), ..place.clone() };
            next.taken.insert(slot, at);
            Some(next)
        });
        // The last is tried first: what must be placed before what may be.
        optional.collect::<Vec<_>>().into_iter().chain(required.collect::<Vec<_>>())
    }

    fn evidence(&self, place: &Place) -> String {
        let stuck: Vec<&str> = self.candidates(place).map(|at| self.required[at].shown.as_str()).take(8).collect();
        let (version, value) = place.state;
        format!("at version {version} (value {value}) none of these can come next: {}", stuck.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(process: u32, (from, to): (u64, u64), action: Action, outcome: Outcome<Answer>) -> RegisterOperation {
        let at = Duration::from_millis;
        Operation { process, called: at(from), returned: at(to), call: Call { key: 1, action }, outcome, shard: None }
    }

    fn write(time: (u64, u64), value: u64, version: u64) -> RegisterOperation {
        operation(1, time, Action::Write { value }, Outcome::Ok(Answer::Written(version)))
    }

    fn unknown(time: (u64, u64), value: u64) -> RegisterOperation {
        operation(2, time, Action::Write { value }, Outcome::Unknown("timeout".into()))
    }

    fn refused(time: (u64, u64), value: u64) -> RegisterOperation {
        operation(2, time, Action::Write { value }, Outcome::Refused("no quorum".into()))
    }

    fn swap(time: (u64, u64), expected: u64, value: u64, answer: Answer) -> RegisterOperation {
        operation(3, time, Action::CompareAndSet { expected, value }, Outcome::Ok(answer))
    }

    fn read(time: (u64, u64), version: u64, value: u64) -> RegisterOperation {
        operation(4, time, Action::Read, Outcome::Ok(Answer::Value { version, value }))
    }

    #[track_caller]
    fn good(history: &[RegisterOperation]) {
        assert_eq!(check(history), Vec::<String>::new());
    }

    #[track_caller]
    fn bad(history: &[RegisterOperation]) {
        assert_eq!(check(history).len(), 1, "{history:?}");
    }

    #[test]
    fn one_after_the_other() {
        good(&[
            read((0, 1), 0, 0),
            write((2, 3), 10, 1),
            read((4, 5), 1, 10),
            write((6, 7), 20, 2),
            read((8, 9), 2, 20),
        ]);
    }

    #[test]
    fn concurrent_operations_may_take_either_order() {
        good(&[write((0, 10), 10, 2), write((0, 10), 20, 1), read((1, 9), 0, 0), read((2, 9), 1, 20)]);
        good(&[write((0, 10), 10, 1), read((1, 2), 1, 10), read((3, 4), 1, 10)]);
    }

    #[test]
    fn a_stale_read_is_found() {
        bad(&[write((0, 1), 10, 1), write((2, 3), 20, 2), read((4, 5), 1, 10)]);
        bad(&[write((0, 1), 10, 1), read((2, 3), 0, 0)]);
    }

    #[test]
    fn reads_do_not_go_back_in_time() {
        bad(&[write((0, 1), 10, 1), write((2, 20), 20, 2), read((3, 4), 2, 20), read((5, 6), 1, 10)]);
    }

    #[test]
    fn a_lost_write_is_found() {
        bad(&[write((0, 1), 10, 1), write((2, 3), 20, 1)]);
        bad(&[write((0, 1), 10, 1), write((2, 3), 20, 2), write((4, 5), 30, 2)]);
    }

    #[test]
    fn a_write_applied_twice_is_found() {
        bad(&[
            write((0, 1), 10, 1),
            unknown((2, 3), 20),
            read((4, 5), 2, 20),
            write((6, 7), 30, 3),
            read((8, 9), 4, 20),
        ]);
        bad(&[write((0, 1), 10, 1), write((2, 3), 20, 3)]);
    }

    #[test]
    fn an_unknown_write_may_take_effect_once_late_or_never() {
        good(&[write((0, 1), 10, 1), unknown((2, 3), 20), read((4, 5), 1, 10)]);
        good(&[write((0, 1), 10, 1), unknown((2, 3), 20), read((4, 5), 1, 10), read((6, 7), 2, 20)]);
        good(&[write((0, 1), 10, 1), unknown((2, 3), 20), write((4, 5), 30, 3)]);
        good(&[unknown((2, 3), 20), unknown((2, 4), 21), write((5, 6), 30, 2), write((7, 8), 31, 4)]);
    }

    #[test]
    fn an_unknown_write_has_no_effect_before_its_call() {
        bad(&[write((0, 1), 10, 1), read((2, 3), 2, 20), unknown((4, 5), 20)]);
        bad(&[write((0, 1), 10, 2), unknown((4, 5), 20)]);
    }

    #[test]
    fn an_effect_that_was_seen_stays() {
        bad(&[write((0, 1), 10, 1), unknown((2, 3), 20), read((4, 5), 2, 20), read((6, 7), 1, 10)]);
    }

    #[test]
    fn a_refused_write_has_no_effect() {
        good(&[refused((0, 1), 10), write((2, 3), 20, 1)]);
        bad(&[refused((0, 1), 10), write((2, 3), 20, 2)]);
        bad(&[refused((0, 1), 10), read((2, 3), 1, 10)]);
    }

    #[test]
    fn comparisons_hold() {
        good(&[swap((0, 1), 0, 10, Answer::Written(1)), swap((2, 3), 0, 20, Answer::Conflict)]);
        good(&[write((0, 9), 5, 1), swap((1, 8), 0, 20, Answer::Conflict)]);
        bad(&[write((0, 1), 5, 1), swap((2, 3), 1, 20, Answer::Conflict)]);
        bad(&[write((0, 1), 5, 1), swap((2, 3), 0, 20, Answer::Written(2))]);
        // Both cannot have won.
        bad(&[write((0, 1), 5, 1), swap((2, 9), 1, 20, Answer::Written(2)), swap((2, 9), 1, 30, Answer::Written(2))]);
    }

    #[test]
    fn keys_are_judged_by_themselves() {
        let mut other = write((0, 1), 10, 1);
        other.call.key = 2;
        good(&[write((2, 3), 20, 1), other]);
    }

    #[test]
    fn a_long_history_with_much_unknown_is_judged_quickly() {
        let mut history = Vec::new();
        let mut version = 0;
        for at in 0..2_000u64 {
            let time = (at * 10, at * 10 + 25);
            match at % 5 {
                0 => history.push(unknown(time, 1_000_000 + at)),
                1 if at % 10 == 1 => {
                    // One of the unknown writes took a version that nobody read.
                    version += 2;
                    history.push(write(time, at, version));
                }
                1 => {
                    version += 1;
                    history.push(write(time, at, version));
                }
                _ => history.push(read(time, version, history_value(&history, version))),
            }
        }
        let started = std::time::Instant::now();
        good(&history);
        history.push(read((30_000, 30_001), version - 1, 1));
        bad(&history);
        assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
    }

    fn history_value(history: &[RegisterOperation], version: u64) -> u64 {
        let value = history.iter().rev().find_map(|operation| match (operation.call.action, &operation.outcome) {
            (Action::Write { value }, Outcome::Ok(Answer::Written(written))) if *written == version => Some(value),
            _ => None,
        });
        value.unwrap_or(0)
    }
}

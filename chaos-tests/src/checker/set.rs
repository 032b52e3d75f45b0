//! Sets that only grow: frames are added to a session, and the session is read as a whole.
//!
//! Each element by itself is a register that goes from absent to present once, so a history is linearizable exactly if
//! no read misses what must be there, shows what cannot be, or takes back what another read has shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;

use crate::history::{Operation, Outcome};

/// What is asked of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// `store` of an element; no two calls of a history add the same.
    Add {
        /// Which set.
        set: u32,
        /// Which element.
        element: u64,
    },
    /// `recall` of the whole session, linearizable.
    ReadAll {
        /// Which set.
        set: u32,
    },
}

/// What a set answers: nothing to an addition, all elements to a read.
pub type Answer = Vec<u64>;

/// An operation on a set.
pub type SetOperation = Operation<Call, Answer>;

/// Judges all sets of a history.
pub fn check(history: &[SetOperation]) -> Vec<String> {
    let sets: BTreeSet<u32> = history
        .iter()
        .map(|operation| match operation.call {
            Call::Add { set, .. } | Call::ReadAll { set } => set,
        })
        .collect();
    sets.into_iter().flat_map(|set| check_set(set, history)).collect()
}

/// What is known of an element.
struct Element {
    /// It cannot be there before.
    possible_from: Duration,
    /// Its addition certainly did nothing.
    refused: bool,
    /// It must be there from then on.
    certain_from: Option<Duration>,
}

fn check_set(set: u32, history: &[SetOperation]) -> Vec<String> {
    let mut elements: BTreeMap<u64, Element> = BTreeMap::new();
    let mut reads: Vec<(&SetOperation, BTreeSet<u64>)> = Vec::new();
    let mut violations = Vec::new();
    for operation in history {
        match (&operation.call, &operation.outcome) {
            (Call::Add { set: of, element }, outcome) if *of == set => {
                let known = Element {
                    possible_from: operation.called,
                    refused: matches!(outcome, Outcome::Refused(_)),
                    certain_from: operation.certain_from(),
                };
                elements.insert(*element, known);
            }
            (Call::ReadAll { set: of }, Outcome::Ok(found)) if *of == set => {
                let distinct: BTreeSet<u64> = found.iter().copied().collect();
                if distinct.len() != found.len() {
                    violations.push(format!("set {set}: a read shows an element twice: {}", time_of(operation)));
                }
                reads.push((operation, distinct));
            }
            _ => {}
        }
    }
    // What a read has shown is there from its return on.
    for (read, found) in &reads {
        for element in found {
            match elements.get_mut(element) {
                Some(known) if known.refused || known.possible_from > read.returned => violations
                    .push(format!("set {set}: element {element} is there though it cannot be: {}", time_of(read))),
                Some(known) => {
                    let shown = known.certain_from.map_or(read.returned, |from| from.min(read.returned));
                    known.certain_from = Some(shown);
                }
                None => violations.push(format!("set {set}: nobody added element {element}: {}", time_of(read))),
            }
        }
    }
    for (read, found) in &reads {
        let missing = |(element, known): (&u64, &Element)| {
            let due = known.certain_from.is_some_and(|from| from < read.called);
            (due && !found.contains(element)).then_some(*element)
        };
        let missing: Vec<u64> = elements.iter().filter_map(missing).collect();
        if !missing.is_empty() {
            let shown = &missing[..missing.len().min(10)];
            violations.push(format!(
                "set {set}: {} of {} elements are lost, such as {shown:?}: {}",
                missing.len(),
                elements.len(),
                time_of(read)
            ));
        }
    }
    violations
}

fn time_of(operation: &SetOperation) -> String {
    let (from, to) = (operation.called.as_secs_f64(), operation.returned.as_secs_f64());
    format!("read by process {} [{from:.3} s, {to:.3} s]", operation.process)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation((from, to): (u64, u64), call: Call, outcome: Outcome<Answer>) -> SetOperation {
        let at = Duration::from_millis;
        Operation { process: 1, called: at(from), returned: at(to), call, outcome, shard: None }
    }

    fn add(time: (u64, u64), element: u64, outcome: Outcome<Answer>) -> SetOperation {
        operation(time, Call::Add { set: 1, element }, outcome)
    }

    fn added(time: (u64, u64), element: u64) -> SetOperation {
        add(time, element, Outcome::Ok(vec![]))
    }

    fn read(time: (u64, u64), found: &[u64]) -> SetOperation {
        operation(time, Call::ReadAll { set: 1 }, Outcome::Ok(found.to_vec()))
    }

    #[test]
    fn good_histories_pass() {
        let unknown = |element| add((2, 3), element, Outcome::Unknown("timeout".into()));
        let good = [
            vec![read((0, 1), &[]), added((2, 3), 7), read((4, 5), &[7])],
            vec![added((0, 9), 7), read((1, 2), &[]), read((3, 4), &[7]), read((5, 6), &[7])],
            vec![unknown(7), read((4, 5), &[]), read((6, 7), &[7])],
            vec![unknown(7), read((4, 5), &[])],
            vec![add((0, 1), 7, Outcome::Refused("no quorum".into())), read((2, 3), &[])],
        ];
        for history in good {
            assert_eq!(check(&history), Vec::<String>::new(), "{history:?}");
        }
    }

    #[test]
    fn bad_histories_do_not() {
        let bad = [
            vec![added((0, 1), 7), read((2, 3), &[])],
            vec![added((0, 9), 7), read((1, 2), &[7]), read((3, 4), &[])],
            vec![added((0, 1), 7), read((2, 3), &[7, 7])],
            vec![read((0, 1), &[7]), added((2, 3), 7)],
            vec![read((0, 1), &[7])],
            vec![add((0, 1), 7, Outcome::Refused("no quorum".into())), read((2, 3), &[7])],
            vec![add((0, 1), 7, Outcome::Unknown("timeout".into())), read((2, 3), &[7]), read((4, 5), &[])],
        ];
        for history in bad {
            assert_eq!(check(&history).len(), 1, "{history:?}");
        }
    }
}

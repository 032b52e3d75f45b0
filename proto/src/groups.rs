//! What a search that groups gives out: the best frames of the best groups, by one rule in a shard as over all shards.

use std::collections::HashMap;
use std::hash::Hash;

/// How much a search that groups gives out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBounds {
    /// Groups at most.
    pub groups: usize,
    /// Items of each group at most.
    pub size: usize,
}

/// The best `size` items of each of the best groups of a ranked list, in order of rank. An item without a group is a group
/// by itself.
pub fn first_of_groups<T, K: Hash + Eq>(
    ranked: Vec<T>,
    bounds: GroupBounds,
    group: impl Fn(&T) -> Option<K>,
) -> Vec<T> {
    let mut taken: HashMap<K, usize> = HashMap::new();
    let mut groups = 0;
    let mut kept = Vec::new();
    for item in ranked {
        let is_new_wanted = groups < bounds.groups;
        let is_kept = match group(&item) {
            Some(name) => match taken.get_mut(&name) {
                Some(have) => {
                    *have += 1;
                    *have <= bounds.size
                }
                None if is_new_wanted => {
                    taken.insert(name, 1);
                    groups += 1;
                    true
                }
                None => false,
            },
            None => {
                groups += usize::from(is_new_wanted);
                is_new_wanted
            }
        };
        if is_kept {
            kept.push(item);
        }
    }
    kept
}

/// Whether what [`first_of_groups`] kept has as many groups, with as many items each, as the bounds allow: nothing that ranks
/// lower changes it.
pub fn are_full<T, K: Hash + Eq>(kept: &[T], bounds: GroupBounds, group: impl Fn(&T) -> Option<K>) -> bool {
    let (mut counts, mut alone): (HashMap<K, usize>, usize) = (HashMap::new(), 0);
    for item in kept {
        match group(item) {
            Some(name) => *counts.entry(name).or_default() += 1,
            None => alone += 1,
        }
    }
    alone + counts.len() >= bounds.groups && counts.values().all(|&count| count >= bounds.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_their_best() {
        let ranked = || vec![(1, "a"), (2, "a"), (3, "a"), (4, ""), (5, "b"), (6, ""), (7, "a"), (8, "b")];
        let take = |groups, size| {
            let group = |item: &(i32, &'static str)| (!item.1.is_empty()).then_some(item.1);
            first_of_groups(ranked(), GroupBounds { groups, size }, group).iter().map(|item| item.0).collect::<Vec<_>>()
        };
        assert_eq!(take(3, 2), [1, 2, 4, 5, 8]);
        assert_eq!(take(9, 1), [1, 4, 5, 6]);
        assert_eq!(take(1, 9), [1, 2, 3, 7]);
        assert_eq!(take(0, 9), Vec::<i32>::new());
    }

    #[test]
    fn groups_are_full_when_each_has_its_items() {
        let full = |names: &[&str], groups, size| {
            are_full(names, GroupBounds { groups, size }, |name| (!name.is_empty()).then(|| name.to_owned()))
        };
        assert!(full(&["a", "", "b"], 3, 1));
        assert!(!full(&["a", "", "b"], 4, 1), "a group is missing");
        assert!(!full(&["a", "a", "b"], 2, 2), "b has one only");
        assert!(full(&["a", "", "b", "b", "a"], 3, 2), "what has no group is whole by itself");
        assert!(full(&[], 0, 1));
    }
}

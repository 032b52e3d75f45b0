//! What a search that groups gives out: the best frames of the best groups, in a shard and over all shards alike.

use std::collections::HashMap;
use std::hash::Hash;

/// The best `size` of each of the best `k` groups of a ranked list, in order of rank. What has no group is one by itself.
pub fn first_of_groups<T, K: Hash + Eq>(
    ranked: Vec<T>,
    (k, size): (usize, usize),
    group: impl Fn(&T) -> Option<K>,
) -> Vec<T> {
    let mut taken: HashMap<K, usize> = HashMap::new();
    let mut groups = 0;
    let mut kept = Vec::new();
    for item in ranked {
        let is_new_wanted = groups < k;
        let is_kept = match group(&item) {
            Some(name) => match taken.get_mut(&name) {
                Some(have) => {
                    *have += 1;
                    *have <= size
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

/// Whether what [`first_of_groups`] kept is so many groups with so many items each: nothing that ranks lower changes it.
pub fn are_full<T, K: Hash + Eq>(kept: &[T], (k, size): (usize, usize), group: impl Fn(&T) -> Option<K>) -> bool {
    let (mut counts, mut alone): (HashMap<K, usize>, usize) = (HashMap::new(), 0);
    for item in kept {
        match group(item) {
            Some(name) => *counts.entry(name).or_default() += 1,
            None => alone += 1,
        }
    }
    alone + counts.len() >= k && counts.values().all(|&count| count >= size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_their_best() {
        let ranked = || vec![(1, "a"), (2, "a"), (3, "a"), (4, ""), (5, "b"), (6, ""), (7, "a"), (8, "b")];
        let take = |k, size| {
            let group = |item: &(i32, &'static str)| (!item.1.is_empty()).then_some(item.1);
            first_of_groups(ranked(), (k, size), group).iter().map(|item| item.0).collect::<Vec<_>>()
        };
        assert_eq!(take(3, 2), [1, 2, 4, 5, 8]);
        assert_eq!(take(9, 1), [1, 4, 5, 6]);
        assert_eq!(take(1, 9), [1, 2, 3, 7]);
        assert_eq!(take(0, 9), Vec::<i32>::new());
    }

    #[test]
    fn groups_are_full_when_each_has_its_items() {
        let full =
            |names: &[&str], k, size| are_full(names, (k, size), |name| (!name.is_empty()).then(|| name.to_owned()));
        assert!(full(&["a", "", "b"], 3, 1));
        assert!(!full(&["a", "", "b"], 4, 1), "a group is missing");
        assert!(!full(&["a", "a", "b"], 2, 2), "b has one only");
        assert!(full(&["a", "", "b", "b", "a"], 3, 2), "what has no group is whole by itself");
        assert!(full(&[], 0, 1));
    }
}

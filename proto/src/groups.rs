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
}

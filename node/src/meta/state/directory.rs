//! All collections of a cluster, and which of them changed of late.
//!
//! Both are persistent maps: the next state of the cluster shares with the one before what did not change, so that making one
//! of a hundred thousand collections costs what making the first one costs.

use std::collections::BTreeSet;
use std::ops::Bound;

use mira_proto::{CollectionId, limits};
use rpds::RedBlackTreeMapSync;

use super::CollectionRecord;

/// Collections by number and by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collections {
    by_id: RedBlackTreeMapSync<CollectionId, CollectionRecord>,
    by_name: RedBlackTreeMapSync<String, CollectionId>,
}

impl Collections {
    /// The collection of a number.
    pub fn get(&self, id: &CollectionId) -> Option<&CollectionRecord> {
        self.by_id.get(id)
    }

    /// Whether there is a collection of that number.
    pub fn contains_key(&self, id: &CollectionId) -> bool {
        self.by_id.contains_key(id)
    }

    /// The collection of a name.
    pub fn named(&self, name: &str) -> Option<&CollectionRecord> {
        self.by_id.get(self.by_name.get(name)?)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// All of them, by number.
    pub fn iter(&self) -> impl Iterator<Item = (&CollectionId, &CollectionRecord)> {
        self.by_id.iter()
    }

    /// All of them, in the order of their numbers.
    pub fn values(&self) -> impl Iterator<Item = &CollectionRecord> {
        self.by_id.values()
    }

    /// Those whose names come after this one, in the order of their names.
    pub fn after<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a CollectionRecord> {
        let behind = (Bound::Excluded(name), Bound::Unbounded);
        self.by_name.range::<str, _>(behind).filter_map(|(_, id)| self.by_id.get(id))
    }

    /// Puts a collection in the place of the one of its number.
    pub fn insert(&mut self, record: CollectionRecord) {
        self.remove(&record.id);
        self.by_name.insert_mut(record.name.clone(), record.id);
        self.by_id.insert_mut(record.id, record);
    }

    /// Takes a collection out.
    pub fn remove(&mut self, id: &CollectionId) {
        if let Some(before) = self.by_id.get(id) {
            // Another may have taken the name since.
            if self.by_name.get(&before.name) == Some(id) {
                self.by_name.remove_mut(&before.name.clone());
            }
            self.by_id.remove_mut(id);
        }
    }
}

impl FromIterator<CollectionRecord> for Collections {
    fn from_iter<I: IntoIterator<Item = CollectionRecord>>(records: I) -> Self {
        let mut collections = Collections::default();
        records.into_iter().for_each(|record| collections.insert(record));
        collections
    }
}

/// Which collections changed with which epochs of the map, as far as this node remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionChanges {
    /// Everything is known that changed after this epoch.
    since: u64,
    by_epoch: RedBlackTreeMapSync<u64, BTreeSet<CollectionId>>,
}

impl CollectionChanges {
    /// Of a state that was read as a whole: what changed before is not known.
    pub fn since(epoch: u64) -> Self {
        CollectionChanges { since: epoch, by_epoch: RedBlackTreeMapSync::default() }
    }

    /// Notes what changed up to an epoch, and forgets the oldest.
    pub fn note(&mut self, epoch: u64, changed: BTreeSet<CollectionId>) {
        if changed.is_empty() {
            return;
        }
        let mut changed = changed;
        changed.extend(self.by_epoch.get(&epoch).into_iter().flatten());
        self.by_epoch.insert_mut(epoch, changed);
        while self.by_epoch.size() > limits::REMEMBERED_CHANGES
            && let Some(oldest) = self.by_epoch.first().map(|(epoch, _)| *epoch)
        {
            self.by_epoch.remove_mut(&oldest);
            self.since = oldest;
        }
    }

    /// The collections that changed after an epoch; `None` if that is not known any more, or if they are so many that
    /// asking for each that is wanted is less.
    pub fn after(&self, epoch: u64) -> Option<BTreeSet<CollectionId>> {
        if epoch < self.since {
            return None;
        }
        let mut changed = BTreeSet::new();
        for (_, ids) in self.by_epoch.range((Bound::Excluded(epoch), Bound::Unbounded)) {
            changed.extend(ids);
            if changed.len() > limits::REMEMBERED_CHANGES {
                return None;
            }
        }
        Some(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: CollectionId, name: &str) -> CollectionRecord {
        CollectionRecord::new(id, name, 4)
    }

    #[test]
    fn a_collection_is_found_by_number_and_name_until_it_is_removed() {
        let mut collections: Collections = [record(1, "b"), record(2, "a"), record(3, "c")].into_iter().collect();
        let before = collections.clone();
        assert_eq!(collections.named("a").map(|found| found.id), Some(2));
        let names = |after: &str| collections.after(after).map(|found| found.name.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(""), names("a"), names("c")),
            (vec!["a".into(), "b".into(), "c".into()], vec!["b".into(), "c".into()], vec![])
        );
        collections.remove(&2);
        collections.insert(record(9, "a"));
        collections.remove(&2);
        assert_eq!((collections.named("a").map(|found| found.id), collections.get(&2)), (Some(9), None));
        assert_eq!((collections.len(), before.len(), before.named("a").map(|found| found.id)), (3, 3, Some(2)));
    }

    #[test]
    fn changes_are_known_as_far_back_as_they_are_remembered() {
        let mut changes = CollectionChanges::since(10);
        assert_eq!((changes.after(9), changes.after(10)), (None, Some(BTreeSet::new())));
        changes.note(11, [1].into());
        changes.note(13, [2, 3].into());
        changes.note(13, [4].into());
        assert_eq!(changes.after(10), Some([1, 2, 3, 4].into()));
        assert_eq!(changes.after(11), Some([2, 3, 4].into()));
        assert_eq!(changes.after(13), Some(BTreeSet::new()));
        for epoch in 14..14 + limits::REMEMBERED_CHANGES as u64 {
            changes.note(epoch, [epoch].into());
        }
        assert_eq!(changes.after(12), None, "the oldest are forgotten");
        assert_eq!(changes.after(13).map(|changed| changed.len()), Some(limits::REMEMBERED_CHANGES));
    }
}

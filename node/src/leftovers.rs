//! Which dropped collections a node looks for in the shards that it leads.
//!
//! Collections that were dropped are known for ever, and may be very many, so each is looked for only where something of it
//! may still be: everywhere for a while after the drop became known, since a write that was let in before may be on its way,
//! and in a shard that this node has just come to lead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mira_proto::{CollectionId, ShardId};

use crate::meta::ClusterState;

/// For how long a collection is looked for after it was dropped or last found: no write takes so long.
const LOOK_FOR: Duration = Duration::from_secs(120);

/// What a node remembers of its looks.
pub struct Leftovers<I> {
    /// Everything that was dropped up to this epoch is in `recent`, or was looked for.
    epoch: Option<u64>,
    /// The term in which each shard was led at the last look.
    terms: BTreeMap<ShardId, u64>,
    /// Collections that are looked for everywhere, and since when.
    recent: BTreeMap<CollectionId, I>,
}

impl<I> Default for Leftovers<I> {
    fn default() -> Self {
        Leftovers { epoch: None, terms: BTreeMap::new(), recent: BTreeMap::new() }
    }
}

impl<I: Copy + std::ops::Sub<I, Output = Duration>> Leftovers<I> {
    /// What to look for in each shard that is led, in these terms.
    pub fn looks(
        &mut self,
        cluster: &ClusterState,
        terms: BTreeMap<ShardId, u64>,
        now: I,
    ) -> BTreeMap<ShardId, BTreeSet<CollectionId>> {
        let epoch = cluster.header.epoch;
        if self.epoch != Some(epoch) {
            match self.epoch.and_then(|known| cluster.changes.after(known)) {
                Some(changed) => {
                    let dropped = changed.into_iter().filter(|id| cluster.dropped.contains(id));
                    self.recent.extend(dropped.map(|id| (id, now)));
                }
                // Nobody knows what is new: everything is looked for once.
                None => self.terms.clear(),
            }
            self.epoch = Some(epoch);
        }
        self.recent.retain(|id, since| now - *since <= LOOK_FOR && cluster.dropped.contains(id));
        let of = |(&shard, term): (&ShardId, &u64)| {
            let looked = self.terms.get(&shard) == Some(term);
            let ids =
                if looked { self.recent.keys().copied().collect() } else { cluster.dropped.iter().copied().collect() };
            (shard, ids)
        };
        let looks = terms.iter().map(of).collect();
        self.terms = terms;
        looks
    }

    /// What was found goes on being looked for.
    pub fn found(&mut self, collections: impl Iterator<Item = CollectionId>, now: I) {
        self.recent.extend(collections.map(|id| (id, now)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{CollectionChanges, state::ClusterHeader};

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn cluster(epoch: u64, dropped: &[CollectionId]) -> ClusterState {
        let header = ClusterHeader { epoch, ..ClusterHeader::default() };
        let mut changes = CollectionChanges::since(1);
        changes.note(epoch, dropped.iter().copied().collect());
        ClusterState { header, changes, dropped: dropped.iter().copied().collect(), ..ClusterState::default() }
    }

    #[test]
    fn a_dropped_collection_is_looked_for_while_something_may_come_and_where_nobody_has_looked() {
        let mut leftovers = Leftovers::<Duration>::default();
        let terms = |of: &[(ShardId, u64)]| of.iter().copied().collect::<BTreeMap<_, _>>();
        let ids = |ids: &[CollectionId]| ids.iter().copied().collect::<BTreeSet<_>>();
        let old = cluster(5, &[1, 2]);
        assert_eq!(leftovers.looks(&old, terms(&[(0, 3)]), at(0)), [(0, ids(&[1, 2]))].into());
        leftovers.found([2].into_iter(), at(100));
        assert_eq!(leftovers.looks(&old, terms(&[(0, 3)]), at(121)), [(0, ids(&[2]))].into(), "2 was found");
        let newer = cluster(6, &[1, 2, 9]);
        let mut seen = newer.clone();
        seen.changes = CollectionChanges::since(1);
        seen.changes.note(6, [9].into());
        assert_eq!(leftovers.looks(&seen, terms(&[(0, 3)]), at(300)), [(0, ids(&[9]))].into(), "2 is over, 9 is new");
        let looks = leftovers.looks(&seen, terms(&[(0, 3), (1, 1)]), at(301));
        assert_eq!(looks, [(0, ids(&[9])), (1, ids(&[1, 2, 9]))].into(), "shard 1 is led since now");
        assert_eq!(leftovers.looks(&seen, terms(&[(0, 4)]), at(302)), [(0, ids(&[1, 2, 9]))].into(), "another term");
    }
}

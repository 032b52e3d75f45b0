//! How old the state was that answered a read at level `any`.

use mira_proto::node_v1::ReadState;

/// The age of the oldest answer of several.
#[derive(Debug, Default, Clone, Copy)]
pub struct Staleness {
    staleness_ms: Option<u64>,
    /// Some answer came from a replica that lags, for want of another.
    pub lagging: bool,
}

impl Staleness {
    /// Notes what one answer says of itself.
    pub fn note(&mut self, state: Option<&ReadState>) {
        if let Some(freshness) = state.and_then(|state| state.freshness) {
            self.staleness_ms = self.staleness_ms.max(Some(freshness.staleness_ms));
            self.lagging |= freshness.lagging;
        }
    }

    /// Notes what several answers said.
    pub fn merge(&mut self, other: Staleness) {
        self.staleness_ms = self.staleness_ms.max(other.staleness_ms);
        self.lagging |= other.lagging;
    }

    /// As callers see it: absent at other levels, and when a replica did not know.
    pub fn milliseconds(&self) -> Option<u64> {
        self.staleness_ms.filter(|&staleness_ms| staleness_ms != u64::MAX)
    }
}

//! Where a frame stands in its session.
//!
//! A session's order is the order in which its frames were given, whatever their times say: by call, then by place in the call.
//! Both are packed into one number, so that an order of bytes is the order of the session:
//!
//! ```text
//!  bits 63..12  the call: microseconds since the Unix epoch, until the year 2112
//!  bits 11..0   the frame's place in its call
//! ```
//!
//! The microseconds are those of a hybrid logical clock (Kulkarni et al., *Logical Physical Clocks and Consistent Snapshots
//! in Globally Distributed Databases*, 2014): no earlier than the clock of whoever gives them, and later than every position
//! that the caller has seen. So a call that follows another has the greater position, on whichever shard and through
//! whichever router; of two calls at the same time either may be the first, but it is so for every reader.

/// Frames that one call may hold.
pub const MAX_FRAMES: usize = 1 << INDEX_BITS;

const INDEX_BITS: u32 = 12;

/// A frame's place in its session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// Of the frame at `index` of the call at `micros`. An index beyond [`MAX_FRAMES`] counts into the microseconds: a
    /// longer call takes more of them.
    pub fn new(micros: u64, index: usize) -> Self {
        Position((micros << INDEX_BITS).saturating_add(index as u64))
    }

    /// As it is kept and sent; 0 stands for none.
    pub fn of_packed(packed: u64) -> Option<Self> {
        (packed != 0).then_some(Position(packed))
    }

    /// As it is kept and sent.
    pub fn packed(self) -> u64 {
        self.0
    }

    /// The call, in microseconds.
    pub fn micros(self) -> u64 {
        self.0 >> INDEX_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_come_first_then_places_in_them() {
        let in_order =
            [(1, 0), (1, 1), (1, MAX_FRAMES - 1), (2, 0), (1_800_000_000_000_000, 0), (1_800_000_000_000_000, 999)];
        let positions = in_order.map(|(micros, index)| Position::new(micros, index));
        assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
        assert_eq!(positions.map(Position::micros), in_order.map(|(micros, _)| micros));
        assert_eq!(Position::of_packed(positions[2].packed()), Some(positions[2]));
        assert_eq!(Position::of_packed(0), None);
        assert_eq!(Position::new(1, MAX_FRAMES), Position::new(2, 0));
    }
}

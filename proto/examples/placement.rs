//! How evenly sessions spread: places the frames of whole sessions with the code that ships, and compares with frames that
//! are placed one by one. `docs/SCALING.md` has the table; `make scaling` prints it.

use std::collections::BTreeMap;

use mira_proto::placement::{Partitioning, shards_of_collection, with_session_bits};
use uuid::Uuid;

const SHARDS: u32 = 16;
/// Collections that each row is the mean of: each has other shards, and other sessions.
const COLLECTIONS: u64 = 5;
/// Frames that are placed one by one at most: more would show the same.
const FRAMES_ONE_BY_ONE: u64 = 1_000_000;
/// Turns of a session: log-normal, cut to this range. Half of them have at most the median.
const TURNS: std::ops::RangeInclusive<f64> = 10.0..=5_000.0;
const MEDIAN_TURNS: f64 = 100.0;
/// Standard deviation of the logarithm: one session in six has more than three times the median.
const SPREAD: f64 = 1.2;

fn main() {
    println!(
        "| sessions | frames | partitions | largest partition by session, of the mean | smallest | \
         largest partition by frame, of the mean | smallest |"
    );
    println!("|{}", "---:|".repeat(7));
    for sessions in [1_000, 10_000, 100_000] {
        for partitions in [1, 4, 16] {
            println!("{}", row(sessions, partitions));
        }
    }
}

/// The largest and the smallest partition, as shares of the mean.
#[derive(Default)]
struct Extremes {
    largest: f64,
    smallest: f64,
}

impl Extremes {
    fn of(counts: &BTreeMap<u32, u64>) -> Self {
        let mean = counts.values().sum::<u64>() as f64 / counts.len() as f64;
        let share = |count: Option<&u64>| *count.expect("a partition") as f64 / mean;
        Extremes { largest: share(counts.values().max()), smallest: share(counts.values().min()) }
    }

    fn add_part(&mut self, other: &Self) {
        self.largest += other.largest / COLLECTIONS as f64;
        self.smallest += other.smallest / COLLECTIONS as f64;
    }
}

fn row(sessions: u64, partitions: u32) -> String {
    let (mut by_session, mut by_frame, mut turns) = (Extremes::default(), Extremes::default(), 0);
    for collection in 1..=COLLECTIONS {
        let mut random = Random(collection << 32 | sessions);
        let shards = shards_of_collection(collection, partitions, SHARDS);
        let empty: BTreeMap<u32, u64> = shards.iter().map(|&shard| (shard, 0)).collect();
        let (mut whole, mut single) = (empty.clone(), empty);
        let partitioning = Partitioning::new(shards);
        for _ in 0..sessions {
            let session_turns = random.turns();
            turns += session_turns;
            let shard = partitioning.shard_of(with_session_bits(random.id(), random.next() as u32).as_u128());
            *whole.get_mut(&shard).expect("one of them") += session_turns;
            let already = single.values().sum::<u64>();
            for _ in 0..session_turns.min(FRAMES_ONE_BY_ONE.saturating_sub(already)) {
                *single.get_mut(&partitioning.shard_of(random.id().as_u128())).expect("one of them") += 1;
            }
        }
        by_session.add_part(&Extremes::of(&whole));
        by_frame.add_part(&Extremes::of(&single));
    }
    format!(
        "| {sessions} | {} | {partitions} | {:.2} | {:.2} | {:.2} | {:.2} |",
        turns / COLLECTIONS,
        by_session.largest,
        by_session.smallest,
        by_frame.largest,
        by_frame.smallest,
    )
}

/// SplitMix64: the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let n = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    /// Above 0 and at most 1.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Turns of a session: a normal number by Box and Muller, as an exponent.
    fn turns(&mut self) -> u64 {
        let normal = (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
        (MEDIAN_TURNS * (SPREAD * normal).exp()).clamp(*TURNS.start(), *TURNS.end()) as u64
    }

    /// As a router makes it: version 7.
    fn id(&mut self) -> Uuid {
        let bits = u128::from(self.next()) << 64 | u128::from(self.next());
        uuid::Builder::from_u128(bits)
            .with_version(uuid::Version::SortRand)
            .with_variant(uuid::Variant::RFC4122)
            .into_uuid()
    }
}

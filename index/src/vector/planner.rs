//! Which way of answering a search is cheapest, by what each costs.

/// Whether scanning everything is cheaper than walking the graph.
///
/// The constants are nanoseconds on the machine of the ADR: asking a filter about a slot 15, scoring a full row 60, and a
/// node compared on the way 80, of which a walk needs about 14 for each place in the beam it fills.
pub(crate) fn scan_is_cheaper(live: usize, ef: usize, selectivity: f64) -> bool {
    let live = live as f64;
    let share = selectivity.clamp(0.0, 1.0);
    let scan = live * 15.0 + live * share * 60.0;
    scan < walk_cost(live, ef, share)
}

/// Whether comparing the vectors of the documents that meet a condition is cheaper than walking the graph, when a share
/// of all documents does. They lie anywhere, so each costs what a node on the way of a walk does.
pub(crate) fn list_is_cheaper(live: usize, ef: usize, share: f64) -> bool {
    let live = live as f64;
    live * share * 80.0 < walk_cost(live, ef, share)
}

/// Nanoseconds that a walk takes until its beam is full.
fn walk_cost(live: f64, ef: usize, share: f64) -> f64 {
    80.0 * (14.0 * ef as f64 / share.max(1e-9)).min(live)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planner_lists_when_few_match() {
        // live, ef, share, list?
        let table = [
            (1_000_000, 64, 1.0, false),
            (1_000_000, 64, 0.1, false),
            (1_000_000, 64, 0.02, true),
            (1_000_000, 64, 0.0, true),
            (10_000, 64, 0.5, false),
            (10_000, 64, 0.2, true),
        ];
        for (live, ef, share, list) in table {
            assert_eq!(list_is_cheaper(live, ef, share), list, "{live} {ef} {share}");
        }
    }

    #[test]
    fn planner_scans_when_few_match() {
        // live, ef, selectivity, scan?
        let table = [
            (1_000_000, 64, 1.0, false),
            (1_000_000, 64, 0.1, false),
            (1_000_000, 64, 0.001, true),
            (50_000, 64, 0.5, false),
            (50_000, 64, 0.01, true),
            (5_000, 64, 0.0, true),
        ];
        for (live, ef, selectivity, scan) in table {
            assert_eq!(scan_is_cheaper(live, ef, selectivity), scan, "{live} {ef} {selectivity}");
        }
    }
}

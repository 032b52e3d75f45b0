//! How one shard will answer a search.

use mira_proto::node_v1;

/// How a search will be answered, from what is cheapest to what is dearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchRoute {
    /// An answer is at hand, to be confirmed.
    Cached,
    /// Nearest neighbours, nothing else: the fast path.
    Plain,
    /// Nearest neighbours of those that a filter means.
    Filtered,
    /// A pool of neighbours, ranked by more than similarity.
    Ranked,
}

impl SearchRoute {
    /// Decides for one shard. Looks at nothing but the request and what is cached.
    pub fn of(request: &node_v1::SearchRequest, cached: Option<u64>) -> SearchRoute {
        let is_ranked = request.recency.is_some()
            || request.after.is_some()
            || !request.group_field.is_empty()
            || !request.more_vectors.is_empty();
        let is_timed = request.created_from_ms != 0 || request.created_to_ms != 0;
        match cached {
            Some(_) => SearchRoute::Cached,
            None if is_ranked => SearchRoute::Ranked,
            None if !request.filter_json.is_empty() || is_timed => SearchRoute::Filtered,
            None => SearchRoute::Plain,
        }
    }

    /// Its name in metrics and `explain`.
    pub fn name(self) -> &'static str {
        match self {
            SearchRoute::Cached => "cached",
            SearchRoute::Plain => "plain",
            SearchRoute::Filtered => "filtered",
            SearchRoute::Ranked => "ranked",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use mira_proto::limits;

    use super::*;
    use crate::operations::search::answer_cache::tests::{reply, request};
    use crate::operations::search::answer_cache::{SearchCache, key};

    #[test]
    fn routes_go_from_cheap_to_dear() {
        let plain = request(10, 0);
        let filtered = node_v1::SearchRequest { filter_json: "{}".into(), ..plain.clone() };
        let timed = node_v1::SearchRequest { created_to_ms: 5, ..plain.clone() };
        let ranked = node_v1::SearchRequest { group_field: "session".into(), ..filtered.clone() };
        let table = [
            (&plain, None, SearchRoute::Plain),
            (&filtered, None, SearchRoute::Filtered),
            (&timed, None, SearchRoute::Filtered),
            (&ranked, None, SearchRoute::Ranked),
            (&ranked, Some(3), SearchRoute::Cached),
        ];
        for (request, cached, route) in table {
            assert_eq!(SearchRoute::of(request, cached), route, "{request:?}");
        }
    }

    /// Not a benchmark: the bound is ten times what it takes, in an unoptimised build.
    #[test]
    fn the_decision_takes_microseconds() {
        let answers = SearchCache::default();
        for number in 0..limits::KEPT_ANSWERS as u32 {
            answers.keep(key(&request(number, 0)).unwrap(), &reply(1, 10));
        }
        let asked = request(77, 0);
        let decide = || SearchRoute::of(&asked, key(&asked).and_then(|key| answers.position(&key)));
        let mut times: Vec<Duration> = (0..200)
            .map(|_| {
                let started = Instant::now();
                assert_eq!(decide(), SearchRoute::Cached);
                started.elapsed()
            })
            .collect();
        times.sort_unstable();
        assert!(times[100] < Duration::from_micros(500), "{:?}", times[100]);
        println!("median {:?}, p99 {:?}", times[100], times[198]);
    }
}

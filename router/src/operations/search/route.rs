//! How one shard will answer a search.

use mira_proto::node_v1;

/// How a search will be answered, from what is cheapest to what is dearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchRoute {
    /// Nearest neighbours, nothing else: the fast path.
    Plain,
    /// Nearest neighbours of those that a filter means.
    Filtered,
    /// A pool of neighbours, ranked by more than similarity.
    Ranked,
}

impl SearchRoute {
    /// Decides for one shard. Looks at nothing but the request.
    pub fn of(request: &node_v1::SearchRequest) -> SearchRoute {
        let is_ranked = request.recency.is_some()
            || request.after.is_some()
            || !request.group_field.is_empty()
            || !request.more_vectors.is_empty();
        let is_timed = request.created_from_ms != 0 || request.created_to_ms != 0;
        if is_ranked {
            SearchRoute::Ranked
        } else if !request.filter_json.is_empty() || is_timed {
            SearchRoute::Filtered
        } else {
            SearchRoute::Plain
        }
    }

    /// Its name in metrics and `explain`.
    pub fn name(self) -> &'static str {
        match self {
            SearchRoute::Plain => "plain",
            SearchRoute::Filtered => "filtered",
            SearchRoute::Ranked => "ranked",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_go_from_cheap_to_dear() {
        let plain = node_v1::SearchRequest { k: 10, ..Default::default() };
        let filtered = node_v1::SearchRequest { filter_json: "{}".into(), ..plain.clone() };
        let timed = node_v1::SearchRequest { created_to_ms: 5, ..plain.clone() };
        let ranked = node_v1::SearchRequest { group_field: "session".into(), ..filtered.clone() };
        let table = [
            (&plain, SearchRoute::Plain),
            (&filtered, SearchRoute::Filtered),
            (&timed, SearchRoute::Filtered),
            (&ranked, SearchRoute::Ranked),
        ];
        for (request, route) in table {
            assert_eq!(SearchRoute::of(request), route, "{request:?}");
        }
    }
}

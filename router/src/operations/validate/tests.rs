//! Tables of what passes and what does not. The full way of each bad input, on all protocols, is tested over sockets.

use super::*;

const NOW_MS: u64 = 1_800_000_000_000;

fn text(content: &str) -> StoreItem {
    StoreItem { content: Some(content.to_owned()), ..Default::default() }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Problem>, code: Code, word: &str) {
    let problem = result.unwrap_err();
    assert!(problem.code == code && problem.detail.contains(word), "{problem}, expected {code} and {word:?}");
}

#[test]
fn an_item_is_filled_in_with_defaults() {
    let draft = item(text("tea"), NOW_MS).unwrap();
    assert_eq!((draft.kind.as_str(), draft.collection.as_str()), ("general", "default"));
    assert!(draft.text && draft.session.is_empty() && draft.metadata_json.is_empty() && draft.expires_ms == 0);
}

#[test]
fn limits_are_inclusive() {
    assert!(item(text(&"x".repeat(limits::MAX_CONTENT_BYTES)), NOW_MS).is_ok());
    refused(item(text(&"x".repeat(limits::MAX_CONTENT_BYTES + 1)), NOW_MS), Code::TooLarge, "1048577");
    let named = |bytes: usize| StoreItem { session: Some("s".repeat(bytes)), ..text("a") };
    assert!(item(named(limits::MAX_NAME_BYTES), NOW_MS).is_ok());
    refused(item(named(limits::MAX_NAME_BYTES + 1), NOW_MS), Code::TooLarge, "session");
    let vector = |dim: usize| StoreItem { vector: Some(vec![1.0; dim]), ..text("a") };
    assert!(item(vector(limits::MAX_DIM as usize), NOW_MS).is_ok());
    refused(item(vector(limits::MAX_DIM as usize + 1), NOW_MS), Code::TooLarge, "4096");
}

#[test]
fn content_is_measured_after_decoding() {
    let opaque = |bytes: usize| StoreItem { bytes: Some(STANDARD.encode(vec![7; bytes])), ..Default::default() };
    assert_eq!(item(opaque(limits::MAX_CONTENT_BYTES), NOW_MS).unwrap().content.len(), limits::MAX_CONTENT_BYTES);
    refused(item(opaque(limits::MAX_CONTENT_BYTES + 1), NOW_MS), Code::TooLarge, "content");
    refused(item(opaque(0), NOW_MS), Code::InvalidArgument, "bytes is empty");
}

#[test]
fn components_must_be_finite() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let vector = Some(vec![0.5, bad]);
        refused(item(StoreItem { vector, ..text("a") }, NOW_MS), Code::InvalidArgument, "component 1");
    }
    refused(item(StoreItem { vector: Some(vec![]), ..text("a") }, NOW_MS), Code::InvalidArgument, "vector is empty");
}

#[test]
fn metadata_may_be_as_deep_as_the_limit() {
    let nested = |depth: usize| {
        let inner = (1..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        StoreItem { metadata: Some(Metadata::from_iter([("k".to_owned(), inner)])), ..text("a") }
    };
    assert!(item(nested(limits::MAX_METADATA_DEPTH), NOW_MS).is_ok());
    refused(item(nested(limits::MAX_METADATA_DEPTH + 1), NOW_MS), Code::TooLarge, "33 deep");
}

#[test]
fn expiry_lies_ahead() {
    let expires = |text_: &str| StoreItem { expires_at: Some(text_.to_owned()), ..text("a") };
    assert_eq!(item(expires("2027-01-15T08:00:00.001Z"), NOW_MS).unwrap().expires_ms, NOW_MS + 1);
    assert_eq!(item(expires("2027-01-15T09:00:01+01:00"), NOW_MS).unwrap().expires_ms, NOW_MS + 1_000);
    for (bad, word) in [("2027-01-15T08:00:00Z", "past"), ("2027-01-15", "RFC 3339"), ("1960-01-01T00:00:00Z", "1970")]
    {
        refused(item(expires(bad), NOW_MS), Code::InvalidArgument, word);
    }
}

#[test]
fn vectors_fit_their_collection() {
    let fits = |vector: &[f32], metric| vector_fits(vector, ("c", ""), Space { number: 0, dim: 2, metric, ef: 0 });
    assert!(fits(&[0.0, 1.0], Metric::Cosine).is_ok());
    assert!(fits(&[0.0, 0.0], Metric::L2).is_ok());
    refused(fits(&[0.0, 0.0], Metric::Cosine), Code::InvalidArgument, "zeros");
    refused(fits(&[1.0], Metric::Dot), Code::DimensionMismatch, "have 2");
}

#[test]
fn searches_have_defaults_and_bounds() {
    let ask = |k| SearchRequest { query: Some("tea".into()), k, ..Default::default() };
    assert_eq!(search(ask(None)).unwrap().k, limits::DEFAULT_K);
    assert_eq!(search(ask(Some(limits::MAX_K))).unwrap().k, limits::MAX_K);
    for bad in [0, limits::MAX_K + 1] {
        refused(search(ask(Some(bad))), Code::InvalidArgument, "1 to 1000");
    }
}

#[test]
fn a_recall_has_exactly_one_selector() {
    let id = Uuid::from_u128(7);
    let recall = |request| recall(request).map(|(_, wanted)| wanted);
    let by_id = RecallRequest { id: Some(id), ..Default::default() };
    assert_eq!(recall(by_id.clone()).unwrap(), Wanted::One(id));
    let by_ids = RecallRequest { ids: Some(vec![id]), ..Default::default() };
    assert_eq!(recall(by_ids.clone()).unwrap(), Wanted::Many(vec![id]));
    let both = RecallRequest { ids: by_ids.ids, ..by_id.clone() };
    refused(recall(both), Code::InvalidArgument, "exclude");
    refused(recall(RecallRequest { last: true, ..by_id }), Code::InvalidArgument, "session only");
    let many = RecallRequest { ids: Some(vec![id; 1_001]), ..Default::default() };
    refused(recall(many), Code::TooLarge, "1001");
}

#[test]
fn everything_is_forgotten_only_when_asked_in_so_many_words() {
    refused(forget(ForgetRequest::default()), Code::InvalidArgument, "all: true");
    let all = ForgetRequest { all: true, ..Default::default() };
    assert_eq!(forget(all.clone()).unwrap(), ("default".to_owned(), Doomed::All));
    let also = ForgetRequest { session: Some("s".into()), ..all };
    refused(forget(also), Code::InvalidArgument, "exclude");
}

#[test]
fn a_filter_that_means_everything_forgets_nothing() {
    let by = |filter: Filter| forget(ForgetRequest { filter: Some(filter), ..Default::default() });
    refused(by(Filter { and: Some(vec![]), ..Default::default() }), Code::InvalidArgument, "all: true");
    let drafts: Filter = serde_json::from_str(r#"{"field": "type", "eq": "draft"}"#).unwrap();
    assert_eq!(by(drafts.clone()).unwrap().1, Doomed::Filtered(serde_json::to_string(&drafts).unwrap()));
}

//! What this crate writes to disks and peers, held against committed samples of it.

use std::time::Duration;

use bytes::Bytes;
use openraft::impls::leader_id_adv::LeaderId;

use crate::archive::Record;
use crate::codec::{decode_entry, decode_record, encode_entry, encode_record, to_postcard};
use crate::requests;
use crate::state::{Applied, Incoming};
use crate::types::{
    Entry, Fingerprint, LogId, LoggedRequest, Membership, Payload, Proposal, RequestId, SnapshotMeta, Vote,
};
use crate::wire::{
    self, Append, ChunkHeader, Heard, Kind, NodeHeartbeat, NodeHeartbeatReply, Refusal, RestingGroup, SnapshotFinish,
    SnapshotOffer, SnapshotReply, Status,
};

#[path = "../../../proto/tests/support/samples.rs"]
mod committed;

use committed::Samples;

fn log_id(index: u64) -> LogId {
    LogId { leader_id: LeaderId { term: 3, node_id: 2 }, index }
}

fn membership() -> Membership {
    let nodes = [(1, ()), (2, ()), (4, ())].map(|(id, ())| (id, crate::types::Node::default()));
    let voters = vec![[1, 2].into(), [1, 4].into()];
    let membership = openraft::Membership::new(voters, std::collections::BTreeMap::from(nodes)).expect("a membership");
    Membership::new(Some(log_id(6)), membership)
}

fn entries() -> [(&'static str, Entry); 5] {
    let fingerprint = Some(Fingerprint { id: RequestId(0x0102_0304), digest: [9; 16] });
    let named = LoggedRequest { fingerprint, payload: "payload".into() };
    let nameless = LoggedRequest { fingerprint: None, payload: "payload".into() };
    let proposal = |requests| Payload::Normal(Proposal { time_ms: 1_800_000_000_123, requests });
    [
        ("log_entry_blank", Payload::Blank),
        ("log_entry_proposal", proposal(vec![nameless.clone()])),
        ("log_entry_request", proposal(vec![named.clone()])),
        ("log_entry_requests", proposal(vec![named, nameless])),
        ("log_entry_membership", Payload::Membership(membership().membership().clone())),
    ]
    .map(|(name, payload)| (name, Entry { log_id: log_id(7), payload }))
}

#[test]
fn disks_and_peers_read_what_was_written_before() {
    let mut samples = Samples::of(env!("CARGO_MANIFEST_DIR"));
    for (name, entry) in entries() {
        let committed = samples.check(name, &encode_entry(&entry));
        assert_eq!(decode_entry(committed.into()).expect("readable"), entry, "{name}");
    }
    records(&mut samples);
    messages(&mut samples);
    samples.finish();
}

fn records(samples: &mut Samples) {
    let vote = Vote::new_committed(3, 2);
    let committed = samples.check("vote", &encode_record(&vote));
    assert_eq!(decode_record::<Vote>(&committed).expect("readable"), vote);

    let applied = Applied { last: Some(log_id(7)), membership: membership(), clock_ms: 1_800_000_000_123 };
    let committed = samples.check("applied_position", &encode_record(&applied));
    assert_eq!(decode_record::<Applied>(&committed).expect("readable"), applied);

    let incoming = Incoming { snapshot: 77, generation: 3, chunks: 2, pairs: 40, chain: [5; 16] };
    let committed = samples.check("snapshot_progress", &encode_record(&incoming));
    assert_eq!(decode_record::<Incoming>(&committed).expect("readable"), incoming);

    let generation = samples.check("live_generation", &encode_record(&3u32));
    assert_eq!(decode_record::<u32>(&generation).expect("readable"), 3);

    let start = Record { applied, requests: requests::sample_known() };
    let committed = samples.check("replay_start", &encode_record(&start));
    assert_eq!(decode_record::<Record>(&committed).expect("readable"), start);

    for (name, written, reads) in requests::samples() {
        let committed = samples.check(name, &written);
        assert!(reads(&committed), "{name}");
    }
}

fn messages(samples: &mut Samples) {
    let vote = Vote::new_committed(3, 2);
    let [_, _, (_, request), ..] = entries();
    let append = Append {
        vote,
        prev: Some(log_id(6)),
        commit: Some(log_id(5)),
        quorum_age: Duration::from_millis(70),
        entries: vec![request.clone()],
    };
    let committed = samples.check("message_append", &wire::encode_append(4, &append));
    let (kind, group, body) = wire::parse_request(committed.into()).expect("readable");
    let read = wire::decode_append(body).expect("readable");
    assert_eq!((kind, group), (Kind::Append, 4));
    assert_eq!((read.vote, read.prev, read.commit), (append.vote, append.prev, append.commit));
    assert_eq!((read.quorum_age, read.entries), (append.quorum_age, append.entries));

    let offer = SnapshotOffer { vote, snapshot: 77, last: Some(log_id(7)), from_start: true };
    let written = wire::request(Kind::SnapshotOffer, 4, &to_postcard(&offer));
    let committed = samples.check("message_snapshot_offer", &written);
    let read: SnapshotOffer = body_of(committed, Kind::SnapshotOffer);
    assert_eq!((read.vote, read.snapshot, read.last, read.from_start), (vote, 77, Some(log_id(7)), true));

    let chunk = ChunkHeader { snapshot: 77, seq: 2, pairs: 9, crc: 0xdead_beef };
    let written = [&wire::request(Kind::SnapshotChunk, 4, &to_postcard(&chunk))[..], b"pairs"].concat();
    let committed = samples.check("message_snapshot_chunk", &written);
    let (_, _, body) = wire::parse_request(committed.into()).expect("readable");
    let (read, pairs) = wire::take::<ChunkHeader>(body).expect("readable");
    assert_eq!((read.snapshot, read.seq, read.pairs, read.crc, &pairs[..]), (77, 2, 9, 0xdead_beef, &b"pairs"[..]));

    let meta = SnapshotMeta { last_log_id: Some(log_id(7)), last_membership: membership() };
    let finish = SnapshotFinish { vote, snapshot: 77, meta: meta.clone(), chunks: 3, pairs: 50, chain: [8; 16] };
    let written = wire::request(Kind::SnapshotFinish, 4, &to_postcard(&finish));
    let committed = samples.check("message_snapshot_finish", &written);
    let read: SnapshotFinish = body_of(committed, Kind::SnapshotFinish);
    assert_eq!((read.vote, read.snapshot, read.meta, read.chunks, read.pairs), (vote, 77, meta, 3, 50));

    let replies = [
        ("reply_snapshot_continue", SnapshotReply::Continue { chunks: 2, chain: [5; 16] }),
        ("reply_snapshot_installed", SnapshotReply::Installed(vote)),
        ("reply_snapshot_higher_vote", SnapshotReply::HigherVote(vote)),
        ("reply_snapshot_restart", SnapshotReply::Restart),
    ];
    for (name, reply) in replies {
        let committed = samples.check(name, &wire::reply(Status::Ok, &to_postcard(&reply)));
        let body = wire::parse_reply(committed.into()).expect("readable");
        assert_eq!(postcard::from_bytes::<SnapshotReply>(&body).expect("readable"), reply);
    }
    let resting = RestingGroup { group: 4, vote, log: log_id(7), quorum_age_ms: 70 };
    let heard = Some(Heard { number: 0x0102_0304, refused: vec![5] });
    let heartbeat = NodeHeartbeat { from: 2, heard, groups: vec![resting.clone()] };
    let written = wire::request(Kind::NodeHeartbeat, 0, &to_postcard(&heartbeat));
    let (kind, _, body) =
        wire::parse_request(samples.check("message_node_heartbeat", &written).into()).expect("readable");
    assert_eq!(kind, Kind::NodeHeartbeat);
    assert_eq!(postcard::from_bytes::<NodeHeartbeat>(&body).expect("readable"), heartbeat);
    let reply = NodeHeartbeatReply { refused: vec![6], number: 9, groups: vec![resting] };
    let committed = samples.check("reply_node_heartbeat", &wire::reply(Status::Ok, &to_postcard(&reply)));
    let body = wire::parse_reply(committed.into()).expect("readable");
    assert_eq!(postcard::from_bytes::<NodeHeartbeatReply>(&body).expect("readable"), reply);

    let committed = samples.check("reply_no_group", &wire::reply(Status::NoGroup, b"group 4 is not open here"));
    let refused = wire::parse_reply(committed.into()).expect_err("a refusal");
    assert_eq!(refused, Refusal::new(Status::NoGroup, "group 4 is not open here"));
}

fn body_of<T: serde::de::DeserializeOwned>(message: Vec<u8>, kind: Kind) -> T {
    let (found, group, body): (Kind, u32, Bytes) = wire::parse_request(message.into()).expect("readable");
    assert_eq!((found, group), (kind, 4));
    postcard::from_bytes(&body).expect("readable")
}

//! Collections as an operator sees them: they are made, told what to keep, tuned, grown and dropped.

use std::collections::BTreeSet;

use bytes::Bytes;
use mira_proto::{
    Code, CollectionId, Problem, Refusal, limits,
    names::{self, NameError},
    node_v1,
};

use super::{
    must_lead, newest,
    requests::{Answered, AskedOnce},
};
use crate::{
    keys::keyring::Keyring,
    member::Member,
    meta::{ClusterState, CollectionRecord, Growth, GrowthStep, MetaAnswer, MetaCommand, NamedSpace},
    shard::{history::Retention, index::recall::check_ef},
};

/// Makes a collection; one of that name with the same settings is as good, and keeps as much of the past as is said from then on.
pub async fn create(
    member: &Member,
    request: node_v1::CreateCollectionRequest,
) -> Result<node_v1::Collection, Refusal> {
    must_lead(member)?;
    let asked = AskedOnce::new(&member.cluster(), &request.request_id)?;
    if !request.request_id.is_empty() {
        newest(member).await?;
    }
    let said = request.retention.unwrap_or_default();
    let mut wanted = checked(request, member.cluster().header.shards)?;
    if let Some(answered) = asked.answered(&member.cluster())? {
        return made_before(member, answered);
    }
    if let Some(existing) = member.cluster().collection_named(&wanted.name) {
        return keep_as_said(member, existing, &wanted, &said).await;
    }
    wanted.id = rand::random_range(1..u64::MAX);
    wanted.wrapped_keys = member.shared().keyring.new_collection_keys(wanted.id);
    let reply = wanted.to_wire(Bytes::new());
    let answer = asked.propose(member, &MetaCommand::CreateCollection(wanted.clone()), &reply).await?;
    let cluster = member.cluster();
    if let Some(answered) = asked.answered(&cluster)? {
        return made_before(member, answered);
    }
    match (answer, cluster.collection_named(&wanted.name)) {
        (MetaAnswer::Done, Some(made)) => Ok(made.to_wire(member.shared().keyring.placement_key(made)?)),
        (MetaAnswer::Exists, Some(existing)) => keep_as_said(member, existing, &wanted, &said).await,
        (MetaAnswer::Full, _) => {
            let detail = format!("a cluster has at most {} collections", limits::MAX_COLLECTIONS);
            Err(Problem::new(Code::TooLarge, detail).into())
        }
        // Dropped by someone else in the same moment.
        _ => Err(Refusal::NotReady("the collection vanished while it was made".into())),
    }
}

/// The answer to a request that has made a collection, which may be gone since.
fn made_before(member: &Member, answered: Answered<node_v1::Collection>) -> Result<node_v1::Collection, Refusal> {
    let Answered { reply, at_ms, .. } = answered;
    let made = node_v1::Collection { created_ms: at_ms, ..reply };
    match member.cluster().collections.get(&made.id) {
        Some(record) => {
            let there = record.to_wire(member.shared().keyring.placement_key(record)?);
            Ok(node_v1::Collection { placement_key: there.placement_key, retention: there.retention, ..made })
        }
        None => Ok(node_v1::Collection { placement_key: Bytes::new(), ..made }),
    }
}

/// A collection that is there, if it has the settings that are wanted; it keeps as much of the past as is said.
async fn keep_as_said(
    member: &Member,
    existing: &CollectionRecord,
    wanted: &CollectionRecord,
    said: &node_v1::Retention,
) -> Result<node_v1::Collection, Refusal> {
    let found = existing_collection(&member.shared().keyring, existing, wanted)?;
    let (collection, retention) = (existing.id, retention(said, existing.retention)?);
    if retention == existing.retention {
        return Ok(found);
    }
    let answer = member.propose_meta(&MetaCommand::SetRetention { collection, retention }).await?;
    let cluster = member.cluster();
    match (answer, cluster.collections.get(&collection)) {
        (MetaAnswer::Done | MetaAnswer::Exists, Some(there)) => {
            Ok(there.to_wire(member.shared().keyring.placement_key(there)?))
        }
        _ => Err(Refusal::NotReady("the collection vanished while it was changed".into())),
    }
}

/// What is kept from now on, where `there` is what was kept before; checked.
fn retention(said: &node_v1::Retention, there: Retention) -> Result<Retention, Problem> {
    let within = |field: &str, said: Option<u32>, there: u32, most: u32| match said {
        Some(said) if said > most => Err(Problem::invalid(format!("{field} is {said}, allowed are 0 to {most}"))),
        said => Ok(said.unwrap_or(there)),
    };
    Ok(Retention {
        last: within("versions.last", said.last, there.last, limits::MAX_VERSIONS)?,
        days: within("versions.days", said.days, there.days, limits::MAX_DAYS)?,
        bin_days: within("bin_days", said.bin_days, there.bin_days, limits::MAX_DAYS)?,
    })
}

/// The collection of a name as this node knows it, with the epoch of the map as of which that is so.
pub fn get(member: &Member, request: &node_v1::GetCollectionRequest) -> node_v1::GetCollectionReply {
    let cluster = member.cluster();
    let found = cluster.collection_named(&request.name);
    node_v1::GetCollectionReply {
        epoch: cluster.header.epoch,
        collection: found.map(|record| cluster.collection_to_wire(record, member.placement_key(record))),
    }
}

/// A page of all collections by name, as a quorum knows them.
pub async fn list(
    member: &Member,
    request: &node_v1::ListCollectionsRequest,
) -> Result<node_v1::ListCollectionsReply, Refusal> {
    let cluster = newest(member).await?;
    let mut page: Vec<_> = cluster.collections.after(&request.after).take(limits::LISTED_COLLECTIONS + 1).collect();
    let more = page.len() > limits::LISTED_COLLECTIONS;
    page.truncate(limits::LISTED_COLLECTIONS);
    // Who makes ids asks for the collection by its name.
    let collections = page.into_iter().map(|record| cluster.collection_to_wire(record, Bytes::new())).collect();
    Ok(node_v1::ListCollectionsReply { collections, more })
}

/// The record that a request describes, without number and keys, in a cluster of so many shards.
fn checked(request: node_v1::CreateCollectionRequest, shards: u32) -> Result<CollectionRecord, Problem> {
    let (metric, quantization) = (request.metric().try_into()?, request.quantization().try_into()?);
    check_name("a collection's name", &request.name, names::collection)?;
    check_dim(request.dim)?;
    let spaces = request.spaces.into_iter().map(NamedSpace::try_from).collect::<Result<Vec<_>, _>>()?;
    check_spaces(&spaces)?;
    if request.partitions == 0 || request.partitions > shards {
        return Err(Problem::invalid(format!("partitions is {}, allowed are 1 to {shards}", request.partitions)));
    }
    Ok(CollectionRecord {
        metric,
        quantization,
        partitions: request.partitions,
        first_partitions: request.partitions,
        ttl_seconds: request.ttl_seconds,
        retention: retention(&request.retention.unwrap_or_default(), Retention::default())?,
        model: request.model,
        spaces,
        ..CollectionRecord::new(0, request.name, request.dim)
    })
}

/// Refuses a name that breaks its rule, or is not as it would be kept: routers bring names into that form.
fn check_name(what: &str, name: &str, rule: fn(&str) -> Result<String, NameError>) -> Result<(), Problem> {
    match rule(name) {
        Ok(kept) if kept == name => Ok(()),
        Ok(_) => Err(Problem::invalid(format!("{what} is not in Unicode's form NFC"))),
        Err(error) => Err(Problem::invalid(format!("{what} {error}"))),
    }
}

/// Refuses vectors of a length that no index could have.
fn check_dim(dim: u32) -> Result<(), Problem> {
    if dim == 0 || dim > limits::MAX_DIM {
        return Err(Problem::invalid(format!("dim is {dim}, allowed are 1 to {}", limits::MAX_DIM)));
    }
    Ok(())
}

fn check_spaces(spaces: &[NamedSpace]) -> Result<(), Problem> {
    if spaces.len() > limits::MAX_NAMED_VECTORS {
        let detail = format!("{} named vectors, allowed are {}", spaces.len(), limits::MAX_NAMED_VECTORS);
        return Err(Problem::new(Code::TooLarge, detail));
    }
    for (at, space) in spaces.iter().enumerate() {
        check_name("the name of named vectors", &space.name, names::label)?;
        if spaces[..at].iter().any(|before| before.name == space.name) {
            return Err(Problem::invalid(format!("two of the named vectors are called {:?}", space.name)));
        }
        check_dim(space.dim)?;
    }
    Ok(())
}

fn existing_collection(
    keyring: &Keyring,
    existing: &CollectionRecord,
    wanted: &CollectionRecord,
) -> Result<node_v1::Collection, Refusal> {
    if existing.same_settings(wanted) {
        return Ok(existing.to_wire(keyring.placement_key(existing)?));
    }
    let detail =
        format!("collection {:?} exists with other settings; delete it first or use another name", wanted.name);
    Err(Problem::new(Code::AlreadyExists, detail).into())
}

/// Removes a collection, and with `shred` its keys.
pub async fn drop_collection(
    member: &Member,
    request: node_v1::DropCollectionRequest,
) -> Result<node_v1::DropCollectionReply, Refusal> {
    let cluster = newest(member).await?;
    let node_v1::DropCollectionRequest { name, shred, request_id } = request;
    let asked = AskedOnce::new(&cluster, &request_id)?;
    if let Some(answered) = asked.answered(&cluster)? {
        return Ok(dropped(answered, shred));
    }
    let record = named(&cluster, &name)?;
    let id = record.id;
    let command = if shred {
        MetaCommand::Shred { names: member.key_names(record)?, name: name.clone(), id }
    } else {
        MetaCommand::DropCollection { name: name.clone(), id }
    };
    let reply = node_v1::DropCollectionReply { collection: id, ..Default::default() };
    let answer = asked.propose(member, &command, &reply).await?;
    let cluster = member.cluster();
    if let Some(answered) = asked.answered(&cluster)? {
        return Ok(dropped(answered, shred));
    }
    if answer == MetaAnswer::Missing {
        return Err(missing(&name).into());
    }
    let erasure = cluster.erasures.iter().find(|(_, erasure)| erasure.whole && erasure.collection == id);
    let erasure = erasure.map(|(&erasure, _)| erasure).unwrap_or_default();
    Ok(node_v1::DropCollectionReply { epoch: cluster.header.epoch, erasure, ..reply })
}

/// The answer to a request that has removed a collection. The end of its keys is named by the epoch that it made.
fn dropped(answered: Answered<node_v1::DropCollectionReply>, shred: bool) -> node_v1::DropCollectionReply {
    let Answered { reply, epoch, .. } = answered;
    node_v1::DropCollectionReply { epoch, erasure: if shred { epoch } else { 0 }, ..reply }
}

/// Sets the beam of a space's searches.
pub async fn tune(
    member: &Member,
    request: node_v1::TuneCollectionRequest,
) -> Result<node_v1::TuneCollectionReply, Refusal> {
    must_lead(member)?;
    let node_v1::TuneCollectionRequest { collection, ef, space } = request;
    if ef != 0 {
        check_ef(ef)?;
    }
    let gone = || Problem::new(Code::NotFound, "the collection is gone");
    let cluster = member.cluster();
    let space = cluster.collections.get(&collection).ok_or_else(gone)?.space_named(&space)?.number;
    match member.propose_meta(&MetaCommand::TuneCollection { collection, space, ef }).await? {
        MetaAnswer::Missing => Err(gone().into()),
        _ => Ok(node_v1::TuneCollectionReply { epoch: member.cluster().header.epoch }),
    }
}

/// Begins to spread a collection over more shards; a dry run only says over which.
pub async fn grow(
    member: &Member,
    request: node_v1::GrowCollectionRequest,
) -> Result<node_v1::GrowCollectionReply, Refusal> {
    let cluster = newest(member).await?;
    let node_v1::GrowCollectionRequest { name, partitions: to, dry_run, request_id } = request;
    let asked = AskedOnce::new(&cluster, &request_id)?;
    if let Some(Answered { reply, epoch, .. }) = asked.answered(&cluster)? {
        return Ok(node_v1::GrowCollectionReply { epoch, ..reply });
    }
    let planned = plan_growth(&cluster, &name, to)?;
    if planned.is_under_way || dry_run {
        return Ok(planned.reply);
    }
    let command = MetaCommand::StartGrowth { collection: planned.collection, to };
    match asked.propose(member, &command, &planned.reply).await? {
        MetaAnswer::Done => Ok(node_v1::GrowCollectionReply { epoch: member.cluster().header.epoch, ..planned.reply }),
        MetaAnswer::Full => {
            Err(conflict(format!("{} collections grow already: wait for one", limits::MAX_GROWTHS)).into())
        }
        _ => Err(conflict("the collection changed meanwhile: ask again").into()),
    }
}

/// A growth that may begin, or that has begun.
#[derive(Debug)]
struct PlannedGrowth {
    collection: CollectionId,
    is_under_way: bool,
    reply: node_v1::GrowCollectionReply,
}

fn plan_growth(cluster: &ClusterState, name: &str, to: u32) -> Result<PlannedGrowth, Problem> {
    let record = named(cluster, name)?;
    let (collection, have, shards) = (record.id, record.partitions, cluster.header.shards);
    if let Some(growth) = cluster.growths.get(&collection) {
        if growth.to == to {
            return Ok(PlannedGrowth { collection, is_under_way: true, reply: growth_reply(record, growth, cluster) });
        }
        return Err(conflict(match growth.step {
            GrowthStep::Copying | GrowthStep::Clearing => {
                format!("it is growing to {} partitions: wait until it has", growth.to)
            }
            GrowthStep::Remembering => format!(
                "it has grown a moment ago, and retries of earlier writes must still find their way: try again {} minutes \
                 after that",
                limits::GROWTH_MEMORY.as_secs() / 60
            ),
        }));
    }
    if cluster.rotations.contains_key(&collection) {
        return Err(conflict("its key is being rotated: wait until that is over"));
    }
    if to <= have || to > shards {
        let detail =
            format!("partitions is {to}, allowed are {} to {shards}: it has {have}, and never shrinks", have + 1);
        return Err(Problem::invalid(detail));
    }
    let (step, epoch) = (GrowthStep::Copying, cluster.header.epoch);
    let growth = Growth { from: have, to, step, epoch, since_ms: 0, done: BTreeSet::new() };
    Ok(PlannedGrowth { collection, is_under_way: false, reply: growth_reply(record, &growth, cluster) })
}

fn growth_reply(record: &CollectionRecord, growth: &Growth, cluster: &ClusterState) -> node_v1::GrowCollectionReply {
    let (sources, targets) = growth.shards(record.id, cluster.header.shards);
    let epoch = cluster.header.epoch;
    node_v1::GrowCollectionReply { from: growth.from, to: growth.to, sources, targets, epoch }
}

fn named<'a>(cluster: &'a ClusterState, name: &str) -> Result<&'a CollectionRecord, Problem> {
    cluster.collection_named(name).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> Problem {
    Problem::new(Code::NotFound, format!("no collection is named {name:?}"))
}

fn conflict(detail: impl Into<String>) -> Problem {
    Problem::new(Code::Conflict, detail)
}

#[cfg(test)]
mod tests {
    use mira_crypto::{ClusterKey, KEY_LEN, os_rng};

    use super::*;
    use crate::meta::{Rotation, RotationStep, state::ClusterHeader};

    const SHARDS: u32 = 8;

    fn request() -> node_v1::CreateCollectionRequest {
        node_v1::CreateCollectionRequest {
            name: "notes".into(),
            dim: 4,
            metric: node_v1::Metric::Cosine.into(),
            quantization: node_v1::Quantization::Int8.into(),
            partitions: 2,
            ..Default::default()
        }
    }

    fn space(name: &str, dim: u32) -> node_v1::VectorSpace {
        node_v1::VectorSpace {
            name: name.into(),
            dim,
            metric: node_v1::Metric::Dot.into(),
            quantization: node_v1::Quantization::None.into(),
            ef: 0,
        }
    }

    #[test]
    fn settings_that_no_collection_can_have_are_refused() {
        assert_eq!(checked(request(), SHARDS).expect("it can be made").partitions, 2);
        let keeping = |retention| node_v1::CreateCollectionRequest { retention: Some(retention), ..request() };
        let refused = [
            node_v1::CreateCollectionRequest { name: String::new(), ..request() },
            node_v1::CreateCollectionRequest { name: "a//b".into(), ..request() },
            node_v1::CreateCollectionRequest { name: "..".into(), ..request() },
            node_v1::CreateCollectionRequest { name: "a\nb".into(), ..request() },
            node_v1::CreateCollectionRequest { name: "cafe\u{301}".into(), ..request() },
            node_v1::CreateCollectionRequest { name: "n".repeat(limits::MAX_NAME_BYTES + 1), ..request() },
            node_v1::CreateCollectionRequest { dim: 0, ..request() },
            node_v1::CreateCollectionRequest { dim: limits::MAX_DIM + 1, ..request() },
            node_v1::CreateCollectionRequest { metric: node_v1::Metric::Unspecified.into(), ..request() },
            node_v1::CreateCollectionRequest { quantization: node_v1::Quantization::Unspecified.into(), ..request() },
            node_v1::CreateCollectionRequest { partitions: 0, ..request() },
            node_v1::CreateCollectionRequest { partitions: SHARDS + 1, ..request() },
            node_v1::CreateCollectionRequest { spaces: vec![space("", 4)], ..request() },
            node_v1::CreateCollectionRequest { spaces: vec![space("title", 4), space("title", 8)], ..request() },
            node_v1::CreateCollectionRequest { spaces: vec![space("title", 0)], ..request() },
            keeping(node_v1::Retention { last: Some(limits::MAX_VERSIONS + 1), ..Default::default() }),
            keeping(node_v1::Retention { days: Some(limits::MAX_DAYS + 1), ..Default::default() }),
            keeping(node_v1::Retention { bin_days: Some(u32::MAX), ..Default::default() }),
        ];
        for request in refused {
            let problem = checked(request.clone(), SHARDS).expect_err("it cannot be made");
            assert_eq!(problem.code, Code::InvalidArgument, "{request:?}");
        }
        let many = (0..=limits::MAX_NAMED_VECTORS).map(|at| space(&at.to_string(), 4)).collect();
        let many = node_v1::CreateCollectionRequest { spaces: many, ..request() };
        assert_eq!(checked(many, SHARDS).expect_err("too many").code, Code::TooLarge);
    }

    #[test]
    fn the_same_settings_are_answered_with_what_is_there_and_others_are_refused() {
        let keyring = Keyring::new(vec![ClusterKey::generate(&mut os_rng())]);
        let wrapped_keys = keyring.new_collection_keys(7);
        let existing =
            CollectionRecord { id: 7, ef: 100, wrapped_keys, ..checked(request(), SHARDS).expect("settings") };
        let wanted = |request| checked(request, SHARDS).expect("settings");
        let answer = existing_collection(&keyring, &existing, &wanted(request())).expect("the same");
        assert_eq!((answer.id, answer.placement_key.len()), (7, KEY_LEN));
        let other = node_v1::CreateCollectionRequest { dim: 8, ..request() };
        let refused = existing_collection(&keyring, &existing, &wanted(other));
        let Err(Refusal::Problem(problem)) = refused else { panic!("refused") };
        assert_eq!(problem.code, Code::AlreadyExists);
    }

    #[test]
    fn a_collection_grows_to_more_partitions_if_nothing_else_happens_to_it() {
        let record = CollectionRecord { id: 7, ..checked(request(), SHARDS).expect("settings") };
        let header = ClusterHeader { cluster_id: 1, epoch: 5, shards: SHARDS, ..ClusterHeader::default() };
        let still = ClusterState { header, collections: [record].into_iter().collect(), ..ClusterState::default() };
        let planned = plan_growth(&still, "notes", 4).expect("it may grow");
        assert!(!planned.is_under_way);
        assert_eq!((planned.reply.sources.len(), planned.reply.targets.len()), (2, 2));
        for to in [1, 2, SHARDS + 1] {
            assert_eq!(plan_growth(&still, "notes", to).expect_err("not there").code, Code::InvalidArgument, "{to}");
        }
        assert_eq!(plan_growth(&still, "other", 4).expect_err("unknown").code, Code::NotFound);

        let growth = |step| Growth { from: 2, to: 4, step, epoch: 5, since_ms: 0, done: BTreeSet::new() };
        for step in [GrowthStep::Copying, GrowthStep::Clearing, GrowthStep::Remembering] {
            let grows = ClusterState { growths: [(7, growth(step))].into(), ..still.clone() };
            assert!(plan_growth(&grows, "notes", 4).expect("it is what is done").is_under_way);
            assert_eq!(plan_growth(&grows, "notes", 8).expect_err("one at a time").code, Code::Conflict);
        }
        let (step, done) = (RotationStep::Preparing, BTreeSet::new());
        let rotation = Rotation { id: 1, request: 0, to: 2, step, since_ms: 0, done };
        let rotates = ClusterState { rotations: [(7, rotation)].into(), ..still };
        assert_eq!(plan_growth(&rotates, "notes", 4).expect_err("its key changes").code, Code::Conflict);
    }
}

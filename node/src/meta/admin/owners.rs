//! Passphrase records of owners: kept by the cluster, opened by routers.

use mira_crypto::PassphraseCost;
use mira_proto::{Code, Problem, Refusal, limits, node_v1};

use super::{must_lead, newest, requests::AskedOnce};
use crate::{
    keys::keyring::FIRST_KEY,
    member::Member,
    meta::{ClusterState, MetaAnswer, MetaCommand, OwnerName},
};

/// Bytes of an owner's name, as routers make it of a principal's.
const NAME_BYTES: usize = 16;

/// The record of an owner; empty if there is none.
pub async fn get(member: &Member, request: &node_v1::GetOwnerRequest) -> Result<node_v1::OwnerReply, Refusal> {
    let cluster = newest(member).await?;
    let owner = record_name(member, &cluster, &request.owner)?;
    let asked = AskedOnce::new(&cluster, &request.request_id)?;
    let carried_out = asked.answered::<node_v1::OwnerReply>(&cluster)?.is_some();
    Ok(node_v1::OwnerReply { record: cluster.owners.get(&owner).cloned().unwrap_or_default(), carried_out })
}

/// Keeps a record in the place of the one that its writer saw, or none; answers with what is there then.
pub async fn put(member: &Member, request: node_v1::PutOwnerRequest) -> Result<node_v1::OwnerReply, Refusal> {
    must_lead(member)?;
    check(&request)?;
    let cluster = member.cluster();
    let owner = record_name(member, &cluster, &request.owner)?;
    let node_v1::PutOwnerRequest { record, replaces, request_id, .. } = request;
    let asked = AskedOnce::new(&cluster, &request_id)?;
    // What is remembered is that it was carried out: a record may be open to guesses, and none is kept longer than its owner
    // wants it.
    let reply = node_v1::OwnerReply::default();
    match asked.propose(member, &MetaCommand::PutOwner { owner, record, replaces }, &reply).await? {
        MetaAnswer::Full => {
            let detail = format!("a cluster has at most {} owners with a passphrase", limits::MAX_OWNERS);
            Err(Problem::new(Code::TooLarge, detail).into())
        }
        // Done, there already, or another was quicker: the caller gets what is there now.
        _ => {
            let record = member.cluster().owners.get(&owner).cloned().unwrap_or_default();
            Ok(node_v1::OwnerReply { record, carried_out: false })
        }
    }
}

/// Refuses what may not be kept.
fn check(request: &node_v1::PutOwnerRequest) -> Result<(), Problem> {
    check_name(&request.owner)?;
    if request.record.is_empty() && !request.replaces.is_empty() {
        return Ok(());
    }
    // Whoever opens it is made to spend what it says: nothing else may be kept.
    PassphraseCost::of_record(&request.record).map_err(|error| Problem::invalid(error.to_string()))?;
    Ok(())
}

fn check_name(name: &[u8]) -> Result<(), Problem> {
    if name.len() == NAME_BYTES {
        return Ok(());
    }
    Err(Problem::invalid(format!("an owner's name has {} bytes instead of {NAME_BYTES}", name.len())))
}

/// What an owner's record is kept under.
fn record_name(member: &Member, cluster: &ClusterState, owner: &[u8]) -> Result<OwnerName, Refusal> {
    check_name(owner)?;
    Ok(member.shared().keyring.layer(cluster, FIRST_KEY)?.owner_record(owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_sixteen_bytes_and_a_record_says_what_it_costs() {
        let request = |owner: &[u8], record: &str| node_v1::PutOwnerRequest {
            owner: owner.to_vec().into(),
            record: record.to_owned(),
            ..Default::default()
        };
        let refused = check(&request(b"short", "")).expect_err("a short name");
        assert_eq!(refused.code, Code::InvalidArgument);
        for record in ["not a record", ""] {
            let refused = check(&request(&[7; 16], record)).expect_err("no cost");
            assert_eq!(refused.code, Code::InvalidArgument, "{record:?}");
        }
        let removal = node_v1::PutOwnerRequest { replaces: "an old one".to_owned(), ..request(&[7; 16], "") };
        assert_eq!(check(&removal), Ok(()));
    }
}

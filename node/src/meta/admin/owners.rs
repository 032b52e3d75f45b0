//! Passphrase records of owners: kept by the cluster, opened by routers.

use mira_crypto::PassphraseCost;
use mira_proto::{Code, Problem, Refusal, limits, node_v1};

use super::{must_lead, newest};
use crate::{
    member::Member,
    meta::{MetaAnswer, MetaCommand, OwnerName},
};

/// The record of an owner; empty if there is none.
pub async fn get(member: &Member, request: &node_v1::GetOwnerRequest) -> Result<node_v1::OwnerReply, Refusal> {
    let cluster = newest(member).await?;
    let owner = owner_name(&request.owner)?;
    Ok(node_v1::OwnerReply { record: cluster.owners.get(&owner).cloned().unwrap_or_default() })
}

/// Keeps a record in the place of the one that its writer saw; answers with what is there then.
pub async fn put(member: &Member, request: node_v1::PutOwnerRequest) -> Result<node_v1::OwnerReply, Refusal> {
    must_lead(member)?;
    let owner = checked(&request)?;
    let node_v1::PutOwnerRequest { record, replaces, .. } = request;
    match member.propose_meta(&MetaCommand::PutOwner { owner, record, replaces }).await? {
        MetaAnswer::Full => {
            let detail = format!("a cluster has at most {} owners with a passphrase", limits::MAX_OWNERS);
            Err(Problem::new(Code::TooLarge, detail).into())
        }
        // Done, there already, or another was quicker: the caller gets what is there now.
        _ => Ok(node_v1::OwnerReply { record: member.cluster().owners.get(&owner).cloned().unwrap_or_default() }),
    }
}

/// The owner of a record that may be kept.
fn checked(request: &node_v1::PutOwnerRequest) -> Result<OwnerName, Problem> {
    let owner = owner_name(&request.owner)?;
    // Whoever opens it is made to spend what it says: nothing else may be kept.
    PassphraseCost::of_record(&request.record).map_err(|error| Problem::invalid(error.to_string()))?;
    Ok(owner)
}

fn owner_name(bytes: &[u8]) -> Result<OwnerName, Problem> {
    bytes.try_into().map_err(|_| Problem::invalid("an owner's name has 16 bytes"))
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
        let refused = checked(&request(b"short", "")).expect_err("a short name");
        assert_eq!(refused.code, Code::InvalidArgument);
        let refused = checked(&request(&[7; 16], "not a record")).expect_err("no cost");
        assert_eq!(refused.code, Code::InvalidArgument);
    }
}

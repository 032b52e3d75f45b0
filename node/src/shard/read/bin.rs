//! Naming what rests in the bin, step by step, for whoever wants it back.

use bytes::Bytes;
use mira_proto::{Refusal, node_v1};
use node_v1::forget_request::Scope;

use super::private;
use crate::shard::Shard;

impl<R: mira_raft::Runtime> Shard<R> {
    /// The next frames in the bin that a request means and its owner may have back.
    pub async fn list_bin(&self, request: node_v1::ListBinRequest) -> Result<node_v1::ListBinReply, Refusal> {
        let read = self.begin_read(request.header.as_ref()).await?;
        let node_v1::ListBinRequest { session, private_session, filter_json, all, owner, after, .. } = request;
        let asker = private::asker_named(&self.shared.keyring, &read.collection, &owner)?;
        let scope = Scope::FromBin.into();
        let meant = node_v1::ForgetRequest {
            session,
            private_session,
            filter_json,
            all,
            owner,
            after,
            scope,
            ..Default::default()
        };
        let step = self.found_in_bin((&read.view, &read.collection), &meant, asker)?;
        let wire = |frame: u128| Bytes::copy_from_slice(&frame.to_be_bytes());
        Ok(node_v1::ListBinReply {
            state: Some(read.state),
            ids: step.frames.into_iter().filter(|&frame| read.shown.shows(frame)).map(wire).collect(),
            more: step.next.is_some(),
            next: step.next.map(wire).unwrap_or_default(),
        })
    }
}

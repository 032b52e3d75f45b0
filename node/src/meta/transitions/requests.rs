//! The memory of requests that were carried out.

use mira_proto::limits;

use crate::meta::{
    command::RequestOutcome,
    records::{RecordKey, Records},
    state::AnsweredRequest,
};

/// Remembers a request whose command has just taken effect, in the place of the one that was carried out so many commands
/// ago: for at least as many commands it is answered alike.
pub fn remember(request: RequestOutcome, records: &mut Records<'_, '_>) {
    let RequestOutcome { name, reply } = request;
    let answered = AnsweredRequest { name, epoch: records.header.epoch, at_ms: records.now_ms, reply };
    records.put(RecordKey::Request(records.index % limits::REMEMBERED_REQUESTS), &answered);
}

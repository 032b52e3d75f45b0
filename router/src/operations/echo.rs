//! `echo`: says back what was said.

use mira_proto::Problem;
use mira_proto::model::{EchoReply, EchoRequest};

use crate::operations::validate::too_large;
use crate::{Memory, RequestContext};

/// Bytes of a text.
const MAX_ECHO_BYTES: usize = 64;

impl Memory {
    /// Says back what was said.
    pub async fn echo(&self, context: &RequestContext, request: EchoRequest) -> Result<EchoReply, Problem> {
        self.bounded("echo", context, async {
            let (text, limit) = (request.text, MAX_ECHO_BYTES);
            if text.len() > limit {
                return Err(too_large(format!("text has {} bytes, the limit is {limit}", text.len())));
            }
            Ok(EchoReply { text })
        })
        .await
    }
}

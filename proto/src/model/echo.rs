//! `echo`: what is to be said back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `echo`: have a text said back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EchoRequest {
    /// The text, up to 64 bytes.
    pub text: String,
}

/// What was said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EchoReply {
    /// The text.
    pub text: String,
}

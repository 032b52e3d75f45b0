//! Taking the arguments of a tool out of the message that they come in.
//!
//! The library reads a message into a tree of values, which takes twenty times a message of `[0,0,…]`. So the message is
//! looked over here first: the arguments are kept as they were sent and read once, into what the tool takes, with the
//! bounds of REST; what the library gets is a small message with `{}` in their place.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::middleware::Next;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use mira_net::Peer;
use mira_proto::{Code, Problem, limits};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::cancel::CallName;
use crate::api::access::CalledTool;
use crate::api::extract::Principal;
use crate::api::failure::Failure;
use crate::api::{Api, body, operations};

/// The arguments of a call as they were sent, for the handler.
#[derive(Clone)]
pub(super) struct Arguments(pub(super) Bytes);

/// The header of clients that keep a session.
const SESSION: &str = "mcp-session-id";

/// What is looked at of a message.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default)]
    method: String,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(default)]
    name: String,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow, rename = "requestId")]
    request_id: Option<&'a RawValue>,
}

/// A message that was looked over.
#[derive(Debug, Default, PartialEq)]
struct Message {
    /// Where its arguments are, if it is a call of a tool.
    arguments: Option<Range<usize>>,
    /// The tool that it calls.
    tool: Option<String>,
    /// Its own name as a request.
    id: Option<String>,
    /// The request that it cancels.
    cancels: Option<String>,
}

/// Takes a message apart before the library reads it, and cancels what it says is to be cancelled.
pub(in crate::api) async fn unpack(
    State(api): State<Arc<Api>>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    if request.method() != Method::POST {
        return Ok(next.run(request).await);
    }
    let (mut parts, sent) = request.into_parts();
    let sent = body::read_of(&parts, sent, &api).await?;
    let (message, sent) = looked_over(sent).await?;
    let name = |id: &String| {
        let Principal(principal) = parts.extensions.get()?;
        let address = parts.extensions.get::<Peer>().map(|peer| peer.address.ip());
        let session = parts.headers.get(SESSION).map(|session| session.as_bytes().to_vec());
        Some(CallName { principal: principal.clone(), address, session, id: id.clone() })
    };
    if let Some(name) = message.cancels.as_ref().and_then(name) {
        api.calls.cancel(&name);
    }
    let running =
        message.id.as_ref().filter(|_| message.tool.is_some()).and_then(name).map(|name| api.calls.begin(name));
    if let Some(running) = &running {
        parts.extensions.insert(running.token());
    }
    let (rest, arguments) = without_arguments(sent, message.arguments)?;
    parts.extensions.insert(Arguments(arguments));
    parts.headers.remove(TRANSFER_ENCODING);
    parts.headers.insert(CONTENT_LENGTH, rest.len().into());
    let mut response = next.run(Request::from_parts(parts, Body::from(rest))).await;
    if let Some(tool) = message.tool {
        response.extensions_mut().insert(CalledTool(known_tool(&tool)));
    }
    Ok(response)
}

/// Looks a message over, a large one on a thread of its own.
async fn looked_over(sent: Bytes) -> Result<(Message, Bytes), Problem> {
    if sent.len() <= limits::INLINE_PARSE_BYTES {
        return Ok((look_over(&sent), sent));
    }
    let looked = tokio::task::spawn_blocking(move || (look_over(&sent), sent)).await;
    looked.map_err(|_| Problem::internal("reading the message failed"))
}

/// What matters of a message here. Of one that is none of JSON-RPC nothing does: the library says what is wrong with it.
fn look_over(sent: &[u8]) -> Message {
    let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(sent) else { return Message::default() };
    let id = envelope.id.map(|id| id.get().to_owned());
    let params = envelope.params.and_then(|params| serde_json::from_str::<Params<'_>>(params.get()).ok());
    let Some(params) = params else { return Message { id, ..Message::default() } };
    match envelope.method.as_str() {
        "tools/call" => {
            let place = |arguments: &RawValue| {
                let from = arguments.get().as_ptr() as usize - sent.as_ptr() as usize;
                from..from + arguments.get().len()
            };
            Message { arguments: params.arguments.map(place), tool: Some(params.name), id, cancels: None }
        }
        "notifications/cancelled" => {
            Message { cancels: params.request_id.map(|id| id.get().to_owned()), ..Message::default() }
        }
        _ => Message { id, ..Message::default() },
    }
}

/// The message with `{}` for its arguments, and the arguments.
fn without_arguments(sent: Bytes, place: Option<Range<usize>>) -> Result<(Bytes, Bytes), Problem> {
    let (rest, arguments) = match place {
        None => (sent, Bytes::from_static(b"{}")),
        Some(place) => {
            let mut rest = BytesMut::with_capacity(sent.len() - place.len() + 2);
            rest.extend_from_slice(&sent[..place.start]);
            rest.extend_from_slice(b"{}");
            rest.extend_from_slice(&sent[place.end..]);
            (rest.freeze(), sent.slice(place))
        }
    };
    if rest.len() > limits::MAX_ENVELOPE_BYTES {
        let limit = limits::MAX_ENVELOPE_BYTES;
        let detail = format!("the message without the arguments of a tool has more than {limit} bytes");
        return Err(Problem::new(Code::TooLarge, detail));
    }
    Ok((rest, arguments))
}

/// The name of a tool that there is: lines of the log hold no others.
fn known_tool(name: &str) -> &'static str {
    operations::tool_names().find(|known| *known == name).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_a_tool_are_taken_out_and_nothing_else_changes() {
        let sent = r#"{"jsonrpc":"2.0","id":"a\n1","method":"tools/call","params":{"_meta":{"x":1},"name":"store","arguments": {"content":"}"} }}"#;
        let message = look_over(sent.as_bytes());
        assert_eq!((message.tool.as_deref(), message.id.as_deref()), (Some("store"), Some(r#""a\n1""#)));
        let (rest, arguments) = without_arguments(Bytes::from(sent), message.arguments).unwrap();
        assert_eq!(arguments, r#"{"content":"}"}"#);
        assert_eq!(rest, sent.replace(r#"{"content":"}"}"#, "{}"));
    }

    #[test]
    fn a_message_without_a_tool_is_left_as_it_is_within_its_bound() {
        for sent in ["", "{", "[]", "null", r#"{"method":"ping","id":1}"#, r#"{"method":"tools/call","params":[1]}"#] {
            let message = look_over(sent.as_bytes());
            assert_eq!(message.arguments, None, "{sent}");
            assert_eq!(without_arguments(Bytes::from(sent), None).unwrap().0, sent);
        }
        let long = format!(r#"{{"method":"ping","id":[{}0]}}"#, "0,".repeat(limits::MAX_ENVELOPE_BYTES));
        assert_eq!(without_arguments(Bytes::from(long), None).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn a_cancellation_names_its_request() {
        let sent = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7,"reason":"x"}}"#;
        assert_eq!(look_over(sent.as_bytes()), Message { cancels: Some("7".into()), ..Message::default() });
    }

    #[test]
    fn only_tools_that_there_are_have_a_name() {
        assert_eq!((known_tool("store"), known_tool("x\ny")), ("store", "unknown"));
    }
}

//! What one operation is to those who call it over HTTP: a row of the table of operations.
//!
//! A row knows its route, what describes it in `/openapi.json`, and, if models may call it, the MCP tool. It is written
//! once, in [`super::operations`]; the router's routes, the description and the list of tools are made of it.

use std::sync::Arc;

use axum::handler::Handler;
use axum::http::{Method, StatusCode};
use axum::routing::{MethodFilter, MethodRouter, on};
use futures::future::BoxFuture;
use mira_proto::Problem;
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Api;
use super::mcp::text::Readable;
use crate::{Memory, RequestContext};

/// A row of the table.
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    pub(super) access: Access,
    /// Of the query and of headers; those of the path follow from it.
    pub(super) parameters: Vec<Parameter>,
    pub(super) request: Media,
    pub(super) replies: Vec<Reply>,
    pub(super) tool: Option<Tool>,
    pub(super) route: MethodRouter<Arc<Api>>,
}

/// Who is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Who has a token.
    Token,
    /// Everybody.
    Open,
    /// Who has a token, unless the router was told to show its metrics to everybody.
    Metrics,
}

/// A parameter beside the body.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// `query` or `header`, as OpenAPI says it.
    pub(super) place: &'static str,
    pub(super) is_required: bool,
    pub(super) schema: Value,
}

/// What a body is.
pub(super) enum Media {
    /// There is none.
    Empty,
    /// JSON of this schema.
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Bytes of a media type; text, if it is text.
    Bytes(&'static str),
}

/// An answer that is no problem.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) description: &'static str,
    pub(super) media: Media,
}

/// An operation as models call it.
pub(super) struct Tool {
    pub(super) about: About,
    pub(super) input: fn() -> Value,
    pub(super) output: fn() -> Value,
    call: Call,
}

/// What a model is told about a tool beside its schemas.
pub(super) struct About {
    pub(super) description: &'static str,
    pub(super) is_read_only: bool,
    pub(super) is_destructive: bool,
    pub(super) is_idempotent: bool,
}

/// What a tool hands back: a document, and a text to read.
pub(super) struct ToolAnswer {
    pub(super) document: Value,
    pub(super) text: String,
}

type Call = Box<
    dyn for<'a> Fn(&'a Memory, &'a RequestContext, Value) -> BoxFuture<'a, Result<ToolAnswer, Problem>> + Send + Sync,
>;
/// The operation itself.
type Work<Q, R> = for<'a> fn(&'a Memory, &'a RequestContext, Q) -> BoxFuture<'a, Result<R, Problem>>;

impl Operation {
    fn new<H, T>(method: (Method, MethodFilter), name: &'static str, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<Api>>,
        T: 'static,
    {
        let (method, filter) = method;
        Operation {
            name,
            method,
            path,
            summary: "",
            access: Access::Token,
            parameters: Vec::new(),
            request: Media::Empty,
            replies: Vec::new(),
            tool: None,
            route: on(filter, handler),
        }
    }

    /// An operation that reads.
    pub(super) fn get<H: Handler<T, Arc<Api>>, T: 'static>(name: &'static str, path: &'static str, handler: H) -> Self {
        Operation::new((Method::GET, MethodFilter::GET), name, path, handler)
    }

    /// An operation that is more than reading, or whose question needs a body.
    pub(super) fn post<H: Handler<T, Arc<Api>>, T: 'static>(
        name: &'static str,
        path: &'static str,
        handler: H,
    ) -> Self {
        Operation::new((Method::POST, MethodFilter::POST), name, path, handler)
    }

    /// An operation after which there is what its path names.
    pub(super) fn put<H: Handler<T, Arc<Api>>, T: 'static>(name: &'static str, path: &'static str, handler: H) -> Self {
        Operation::new((Method::PUT, MethodFilter::PUT), name, path, handler)
    }

    /// An operation that adds to what its path names.
    pub(super) fn patch<H: Handler<T, Arc<Api>>, T: 'static>(
        name: &'static str,
        path: &'static str,
        handler: H,
    ) -> Self {
        Operation::new((Method::PATCH, MethodFilter::PATCH), name, path, handler)
    }

    /// An operation after which what its path names is gone.
    pub(super) fn delete<H: Handler<T, Arc<Api>>, T: 'static>(
        name: &'static str,
        path: &'static str,
        handler: H,
    ) -> Self {
        Operation::new((Method::DELETE, MethodFilter::DELETE), name, path, handler)
    }

    /// What it does, in a few words.
    pub(super) fn summary(self, summary: &'static str) -> Self {
        Operation { summary, ..self }
    }

    /// Who is let in, other than who has a token.
    pub(super) fn access(self, access: Access) -> Self {
        Operation { access, ..self }
    }

    /// A parameter of the query.
    pub(super) fn query(mut self, name: &'static str, schema: Value) -> Self {
        self.parameters.push(Parameter { name, place: "query", is_required: false, schema });
        self
    }

    /// A header with a meaning of its own.
    pub(super) fn header(mut self, name: &'static str, is_required: bool, schema: Value) -> Self {
        self.parameters.push(Parameter { name, place: "header", is_required, schema });
        self
    }

    /// The request is this document.
    pub(super) fn takes<Q: JsonSchema>(self) -> Self {
        Operation { request: Media::Json(SchemaGenerator::subschema_for::<Q>), ..self }
    }

    /// The request is bytes of this media type.
    pub(super) fn takes_bytes(self, media_type: &'static str) -> Self {
        Operation { request: Media::Bytes(media_type), ..self }
    }

    /// It answers with this document.
    pub(super) fn gives<R: JsonSchema>(self) -> Self {
        self.replies(StatusCode::OK, "Done", Media::Json(SchemaGenerator::subschema_for::<R>))
    }

    /// It makes something, and answers with this document about it.
    pub(super) fn creates<R: JsonSchema>(self) -> Self {
        self.replies(StatusCode::CREATED, "Done", Media::Json(SchemaGenerator::subschema_for::<R>))
    }

    /// It answers with bytes of this media type.
    pub(super) fn gives_bytes(self, status: StatusCode, description: &'static str, media_type: &'static str) -> Self {
        self.replies(status, description, Media::Bytes(media_type))
    }

    /// It answers that it is done, and nothing else.
    pub(super) fn gives_nothing(self, description: &'static str) -> Self {
        self.replies(StatusCode::NO_CONTENT, description, Media::Empty)
    }

    fn replies(mut self, status: StatusCode, description: &'static str, media: Media) -> Self {
        self.replies.push(Reply { status, description, media });
        self
    }

    /// Models may call it.
    pub(super) fn tool<Q, R>(self, about: About, work: Work<Q, R>) -> Self
    where
        Q: JsonSchema + DeserializeOwned + Send + 'static,
        R: JsonSchema + Serialize + Readable + 'static,
    {
        let call: Call = Box::new(move |memory, context, arguments| {
            let read = serde_json::from_value(arguments);
            Box::pin(async move {
                let wrong = |error| Problem::invalid(format!("the arguments are wrong: {error}"));
                let reply = work(memory, context, read.map_err(wrong)?).await?;
                let odd = |error| Problem::internal(format!("the answer is no JSON: {error}"));
                Ok(ToolAnswer { text: reply.text(), document: serde_json::to_value(&reply).map_err(odd)? })
            })
        });
        let input = || tool_schemas().for_deserialize().into_generator().into_root_schema_for::<Q>().to_value();
        let output = || tool_schemas().for_serialize().into_generator().into_root_schema_for::<R>().to_value();
        Operation { tool: Some(Tool { about, input, output, call }), ..self }
    }
}

impl Tool {
    /// Runs the operation with the arguments of a call.
    pub(super) async fn call(
        &self,
        memory: &Memory,
        context: &RequestContext,
        arguments: Value,
    ) -> Result<ToolAnswer, Problem> {
        (self.call)(memory, context, arguments).await
    }
}

fn tool_schemas() -> schemars::generate::SchemaSettings {
    schemars::generate::SchemaSettings::draft2020_12()
}

/// The schema of a text.
pub(super) fn string() -> Value {
    json!({ "type": "string" })
}

/// The schema of a text with a form: `uuid`, `date-time`.
pub(super) fn string_of(format: &str) -> Value {
    json!({ "type": "string", "format": format })
}

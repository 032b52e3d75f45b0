//! What one operation is to those who call it over HTTP: a row of the table of operations.
//!
//! A row knows its route, what describes it in `/openapi.json`, and, if models may call it, the MCP tool. It is written
//! once, in [`super::operations`]; the router's routes, the description and the list of tools are made of it.
//!
//! Nearly every operation takes a document and gives one: a [`Typed`] row says which, and how the operation is called, and
//! that is all there is to write. The few that move bytes or look into headers bring a handler of their own.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use bytes::Bytes;
use futures::future::BoxFuture;
use mira_proto::Problem;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::extract::{Caller, Document, Input};
use super::failure::Failure;
use super::{Api, CONSISTENCY_TOKEN, body};
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
    call: ToolCall,
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

type ToolCall = Box<
    dyn for<'a> Fn(&'a Memory, &'a RequestContext, Bytes) -> BoxFuture<'a, Result<ToolAnswer, Problem>> + Send + Sync,
>;
/// The operation itself, called with what it takes from a request.
type Work<I, R> = for<'a> fn(&'a Memory, &'a RequestContext, I) -> BoxFuture<'a, Result<R, Problem>>;

/// A row whose request and reply are documents, on its way to the table.
pub(super) struct Typed<I, R> {
    operation: Operation,
    work: Work<I, R>,
    respond: Respond<R>,
}

type Respond<R> = Arc<dyn Fn(R) -> Response + Send + Sync>;

impl Operation {
    fn new(method: Method, name: &'static str, path: &'static str) -> Self {
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
            route: MethodRouter::new(),
        }
    }

    /// An operation with a handler of its own, which says itself what it takes and gives.
    pub(super) fn handled<H, T>(method: Method, name: &'static str, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<Api>>,
        T: 'static,
    {
        Operation::new(method, name, path).with_route(handler)
    }

    fn with_route<H, T>(self, handler: H) -> Self
    where
        H: Handler<T, Arc<Api>>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(self.method.clone()).expect("a method that routes know");
        Operation { route: on(filter, handler), ..self }
    }

    /// What it does, in a few words.
    pub(super) fn summary(self, summary: &'static str) -> Self {
        Operation { summary, ..self }
    }

    /// Who is let in, other than who has a token.
    pub(super) fn access(self, access: Access) -> Self {
        Operation { access, ..self }
    }

    /// A header with a meaning of its own.
    pub(super) fn header(mut self, name: &'static str, is_required: bool, schema: Value) -> Self {
        self.parameters.push(Parameter { name, place: "header", is_required, schema });
        self
    }

    /// The request is bytes of this media type.
    pub(super) fn takes_bytes(self, media_type: &'static str) -> Self {
        Operation { request: Media::Bytes(media_type), ..self }
    }

    /// It answers with this document.
    pub(super) fn gives<R: JsonSchema>(self) -> Self {
        self.replies(StatusCode::OK, "Done", Media::Json(SchemaGenerator::subschema_for::<R>))
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
}

impl<I: Input, R: Serialize + JsonSchema + Send + 'static> Typed<I, R> {
    /// An operation that reads.
    pub(super) fn get(name: &'static str, path: &'static str, work: Work<I, R>) -> Self {
        Typed::new(Method::GET, name, path, work)
    }

    /// An operation that is more than reading, or whose question needs a body.
    pub(super) fn post(name: &'static str, path: &'static str, work: Work<I, R>) -> Self {
        Typed::new(Method::POST, name, path, work)
    }

    /// An operation after which there is what its path names.
    pub(super) fn put(name: &'static str, path: &'static str, work: Work<I, R>) -> Self {
        Typed::new(Method::PUT, name, path, work)
    }

    fn new(method: Method, name: &'static str, path: &'static str, work: Work<I, R>) -> Self {
        let operation = Operation { request: I::media(), ..Operation::new(method, name, path) };
        Typed { operation: operation.gives::<R>(), work, respond: Arc::new(|reply| Json(reply).into_response()) }
    }

    /// Its reply says what was seen, and so does a header.
    pub(super) fn seen(self, token: fn(&R) -> &str) -> Self {
        let respond = move |reply: R| {
            let token = HeaderValue::from_str(token(&reply));
            let mut response = Json(reply).into_response();
            if let Ok(token) = token {
                response.headers_mut().insert(CONSISTENCY_TOKEN, token);
            }
            response
        };
        Typed { respond: Arc::new(respond), ..self }
    }

    /// It makes something, and its reply is about that.
    pub(super) fn creates(mut self) -> Self {
        self.operation.replies.iter_mut().for_each(|reply| reply.status = StatusCode::CREATED);
        Typed { respond: Arc::new(|reply| (StatusCode::CREATED, Json(reply)).into_response()), ..self }
    }
}

impl<I: Input> Typed<I, ()> {
    /// An operation after which what its path names is gone.
    pub(super) fn delete(name: &'static str, path: &'static str, description: &'static str, work: Work<I, ()>) -> Self {
        let operation = Operation { request: I::media(), ..Operation::new(Method::DELETE, name, path) };
        let operation = operation.gives_nothing(description);
        Typed { operation, work, respond: Arc::new(|()| StatusCode::NO_CONTENT.into_response()) }
    }
}

impl<I: Input, R: Send + 'static> Typed<I, R> {
    /// What it does, in a few words.
    pub(super) fn summary(self, summary: &'static str) -> Self {
        Typed { operation: self.operation.summary(summary), ..self }
    }

    /// A parameter of the query.
    pub(super) fn query(mut self, name: &'static str, schema: Value) -> Self {
        self.operation.parameters.push(Parameter { name, place: "query", is_required: false, schema });
        self
    }

    /// The row, with its route.
    pub(super) fn row(self) -> Operation {
        let Typed { operation, work, respond } = self;
        operation.with_route(async move |State(api): State<Arc<Api>>, Caller(context): Caller, request: Request| {
            let input = I::read(request, &api).await?;
            Ok::<_, Failure>(respond(work(&api.memory, &context, input).await?))
        })
    }
}

impl<Q, R> Typed<Document<Q>, R>
where
    Q: JsonSchema + DeserializeOwned + Send + 'static,
    R: JsonSchema + Serialize + 'static,
{
    /// Models may call it; `text` is what they read of a reply.
    pub(super) fn tool(mut self, about: About, text: fn(&R) -> String) -> Self {
        let work = self.work;
        let call: ToolCall = Box::new(move |memory, context, arguments| {
            Box::pin(async move {
                let read = body::parse(arguments, "the arguments are wrong").await?;
                let reply = work(memory, context, Document(read)).await?;
                let odd = |_| Problem::internal("the answer is no JSON");
                Ok(ToolAnswer { text: text(&reply), document: serde_json::to_value(&reply).map_err(odd)? })
            })
        });
        let input =
            || SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<Q>().to_value();
        let output =
            || SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<R>().to_value();
        self.operation.tool = Some(Tool { about, input, output, call });
        self
    }
}

impl Tool {
    /// Runs the operation with the arguments of a call, a JSON document.
    pub(super) async fn call(
        &self,
        memory: &Memory,
        context: &RequestContext,
        arguments: Bytes,
    ) -> Result<ToolAnswer, Problem> {
        (self.call)(memory, context, arguments).await
    }
}

/// The schema of a text.
pub(super) fn string() -> Value {
    json!({ "type": "string" })
}

/// The schema of a text with a form: `uuid`, `date-time`.
pub(super) fn string_of(format: &str) -> Value {
    json!({ "type": "string", "format": format })
}

//! The table of operations: one row each.
//!
//! The routes of HTTP, `/openapi.json` and the list of MCP tools are made of it, so none of them can lack what another
//! has. What gRPC offers stands in `proto/proto/mira/v1`.

use std::sync::LazyLock;

use axum::Json;
use axum::http::{Method, StatusCode};
use futures::FutureExt;
use mira_proto::limits;
use mira_proto::model::{
    ChangeRequest, Collection, ForgetRequest, MovesSetting, RecallRequest, SearchRequest, StatusRequest, StoreRequest,
    UploadReply,
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::extract::{Document, Name, NameAndId, Parameters};
use super::mcp::text;
use super::operation::{About, Access, Operation, Typed, string, string_of};
use super::rest::{contents, service};
use super::{NEW_PASSPHRASE, OWNER_PASSPHRASE, openapi};
use crate::operations::uploads::UploadRef;

const UPLOAD: &str = "/collections/{name}/uploads/{id}";
const FINISH: &str = "/collections/{name}/uploads/{id}/finish";
const CONTENT: &str = "/collections/{name}/frames/{id}/content";

const BYTES: &str = "application/octet-stream";
const PROTOBUF: &str = "application/x-protobuf";
const TEXT: &str = "text/plain";

/// All operations, in the order in which tools are listed.
pub(super) fn table() -> Vec<Operation> {
    [tools(), of_collections(), of_contents(), of_administration(), of_the_router()].into_iter().flatten().collect()
}

/// The names of the tools.
pub(super) fn tool_names() -> impl Iterator<Item = &'static str> {
    static NAMES: LazyLock<Vec<&'static str>> =
        LazyLock::new(|| table().iter().filter(|row| row.tool.is_some()).map(|row| row.name).collect());
    NAMES.iter().copied()
}

/// What models are told about `store`.
const STORE: About = About {
    description: "Store a memory (content), or up to 1,000 of them (items, each stored or refused by itself). \
        Returns the id and version of each. Give an id to make a repeated store harmless; with an id that exists, \
        other content is a conflict unless replace is true.",
    is_read_only: false,
    // With `replace` a version takes another's place.
    is_destructive: true,
    is_idempotent: false,
};

/// What models are told about `search`.
const SEARCH: About = About {
    description: "Find the memories nearest in meaning to a query in words (or to a vector). Returns the best k, \
        best first, each with its score. A filter narrows them by type, session, role, created_at or metadata, such \
        as {\"field\": \"metadata.project\", \"eq\": \"atlas\"}. `degraded` means that some could not be searched: others may exist.",
    is_read_only: true,
    is_destructive: false,
    is_idempotent: true,
};

/// What models are told about `recall`.
const RECALL: About = About {
    description: "Read memories by id or ids, or the memories of a session in the order they were stored (with \
        last, the newest ones). With version an earlier version of one, with known_at what was known at a time. `more` means that the answer was cut: send next_cursor as cursor with the same request.",
    is_read_only: true,
    is_destructive: false,
    is_idempotent: true,
};

/// What models are told about `forget`.
const FORGET: About = About {
    description: "Remove memories: by id or ids, a whole session, by filter (as in search), or with \
        all: true everything in a collection. They rest in a bin for some days (until restorable_until), where change \
        with the action restore brings them back; with now: true they are gone at once. With shred: true the key is destroyed \
        too, so that no copy anywhere can be read any more. Returns how many were removed; what does not exist is not counted.",
    is_read_only: false,
    is_destructive: true,
    is_idempotent: true,
};

/// What models are told about `change`.
const CHANGE: About = About {
    description: "Do something to a memory: action restore brings a forgotten one back from the bin, as a new \
        version, and returns that version; with session, filter or all: true instead of an id, everything of that in the bin.",
    is_read_only: false,
    is_destructive: false,
    is_idempotent: true,
};

/// What models are told about `status`.
const STATUS: About = About {
    description: "Whether the service is ok, degraded or unavailable, with its nodes, shards and number of \
        memories; detailed adds every replica and collection.",
    is_read_only: true,
    is_destructive: false,
    is_idempotent: true,
};

fn tools() -> Vec<Operation> {
    vec![
        Typed::post("store", "/mcp/store", |memory, context, Document(request): Document<StoreRequest>| {
            memory.store(context, request).boxed()
        })
        .summary("Remember something")
        .seen(|reply| &reply.consistency_token)
        .tool(STORE, text::of_store)
        .row(),
        Typed::post("search", "/mcp/search", |memory, context, Document(request): Document<SearchRequest>| {
            memory.search(context, request).boxed()
        })
        .summary("Find memories by meaning")
        .seen(|reply| &reply.consistency_token)
        .tool(SEARCH, text::of_search)
        .row(),
        Typed::post("recall", "/mcp/recall", |memory, context, Document(request): Document<RecallRequest>| {
            memory.recall(context, request).boxed()
        })
        .summary("Read memories")
        .tool(RECALL, text::of_recall)
        .row(),
        Typed::post("forget", "/mcp/forget", |memory, context, Document(request): Document<ForgetRequest>| {
            memory.forget(context, request).boxed()
        })
        .summary("Remove memories")
        .seen(|reply| &reply.consistency_token)
        .tool(FORGET, text::of_forget)
        .row(),
        Typed::post("change", "/mcp/change", |memory, context, Document(request): Document<ChangeRequest>| {
            memory.change(context, request).boxed()
        })
        .summary("Bring a memory back")
        .seen(|reply| &reply.consistency_token)
        .tool(CHANGE, text::of_change)
        .row(),
        Typed::post("status", "/mcp/status", |memory, context, Document(request): Document<StatusRequest>| {
            memory.status(context, request).boxed()
        })
        .summary("State of the memory service")
        .tool(STATUS, text::of_status)
        .row(),
        Typed::get("get_status", "/mcp/status", |memory, context, Parameters(request): Parameters<StatusRequest>| {
            memory.status(context, request).boxed()
        })
        .summary("State of the memory service")
        .query("detailed", json!({ "type": "boolean" }))
        .row(),
    ]
}

fn of_collections() -> Vec<Operation> {
    vec![
        Typed::get("list_collections", "/collections", |memory, context, ()| {
            async move { Ok(CollectionList { collections: memory.list_collections(context).await? }) }.boxed()
        })
        .summary("All collections")
        .row(),
        Typed::get("get_collection", "/collections/{name}", |memory, context, (Name(name), ())| {
            async move { memory.get_collection(context, &name).await }.boxed()
        })
        .summary("One collection")
        .row(),
        Typed::put("put_collection", "/collections/{name}", |memory, context, (Name(name), Document(settings))| {
            async move { memory.put_collection(context, &name, settings).await }.boxed()
        })
        .summary("Make a collection")
        .row(),
        Typed::delete("delete_collection", "/collections/{name}", "Removed", |memory, context, (Name(name), ())| {
            async move { memory.delete_collection(context, &name).await }.boxed()
        })
        .summary("Remove a collection with all its frames")
        .row(),
        Typed::get("scan", "/collections/{name}/frames", |memory, context, (Name(name), Parameters(request))| {
            async move { memory.scan(context, &name, request).await }.boxed()
        })
        .summary("Everything in a collection, page by page")
        .query("cursor", string_of("uuid"))
        .query("limit", page_size())
        .row(),
        Typed::get("sessions", "/collections/{name}/sessions", |memory, context, (Name(name), Parameters(request))| {
            async move { memory.sessions(context, &name, request).await }.boxed()
        })
        .summary("The sessions of a collection, page by page")
        .query("agent", string())
        .query("active_since", string_of("date-time"))
        .query("cursor", string())
        .query("limit", page_size())
        .row(),
        Typed::post(
            "grow_collection",
            "/collections/{name}/grow",
            |memory, context, (Name(name), Document(request))| {
                async move { memory.grow_collection(context, &name, request).await }.boxed()
            },
        )
        .summary("Spread a collection over more shards")
        .row(),
        Typed::post(
            "tune_collection",
            "/collections/{name}/tune",
            |memory, context, (Name(name), Document(request))| {
                async move { memory.tune_collection(context, &name, request).await }.boxed()
            },
        )
        .summary("Find and set the beam with which searches of a collection reach a recall")
        .row(),
    ]
}

fn of_contents() -> Vec<Operation> {
    vec![
        Typed::post(
            "begin_upload",
            "/collections/{name}/uploads",
            |memory, context, (Name(name), Document(request))| {
                async move { memory.begin_upload(context, &name, request).await }.boxed()
            },
        )
        .summary("Begin the upload of a large content")
        .creates()
        .row(),
        Typed::get("get_upload", UPLOAD, |memory, context, NameAndId(collection, upload)| {
            async move { memory.get_upload(context, UploadRef { collection: &collection, upload }).await }.boxed()
        })
        .summary("How far an upload has come")
        .row(),
        Operation::handled(Method::PATCH, "append_upload", UPLOAD, contents::append_upload)
            .summary("Add bytes to an upload")
            .header("Upload-Offset", true, json!({ "type": "integer", "minimum": 0 }))
            .takes_bytes(BYTES)
            .gives::<UploadReply>(),
        Typed::delete("cancel_upload", UPLOAD, "Given up", |memory, context, NameAndId(collection, upload)| {
            async move { memory.cancel_upload(context, UploadRef { collection: &collection, upload }).await }.boxed()
        })
        .summary("Give an upload up")
        .row(),
        Typed::post("finish_upload", FINISH, |memory, context, NameAndId(collection, upload)| {
            async move { memory.finish_upload(context, UploadRef { collection: &collection, upload }).await }.boxed()
        })
        .summary("Make a frame of an upload")
        .row(),
        Operation::handled(Method::GET, "read_content", CONTENT, contents::read_content)
            .summary("The content of a frame, or a range of its bytes")
            .header("Range", false, string())
            .header("If-Range", false, string())
            .gives_bytes(StatusCode::OK, "All of it", BYTES)
            .gives_bytes(StatusCode::PARTIAL_CONTENT, "A range of it", BYTES),
    ]
}

fn of_administration() -> Vec<Operation> {
    vec![
        Typed::post("change_node", "/admin/nodes", |memory, context, Document(change)| {
            memory.change_node(context, change).boxed()
        })
        .summary("Add, drain, replace or remove a storage node")
        .row(),
        Typed::post("set_moves", "/admin/moves", |memory, context, Document(setting): Document<MovesSetting>| {
            async move { memory.set_moves(context, setting.paused).await.map(|()| setting) }.boxed()
        })
        .summary("Stop moves of replicas for now, or let them go on")
        .row(),
        Typed::post("verify_shards", "/admin/shards/verify", |memory, context, Document(request)| {
            memory.verify_shards(context, request).boxed()
        })
        .summary("Compare what the replicas of shards hold")
        .row(),
        Operation::handled(Method::PUT, "create_passphrase", "/owner/passphrase", service::create_passphrase)
            .summary("Make the record of the caller's passphrase, with a fresh owner key in it")
            .header(OWNER_PASSPHRASE, true, string())
            .gives_nothing("Made"),
        Operation::handled(Method::POST, "set_passphrase", "/owner/passphrase", service::set_passphrase)
            .summary("Protect the caller's owner key by another passphrase")
            .header(OWNER_PASSPHRASE, true, string())
            .header(NEW_PASSPHRASE, true, string())
            .gives_nothing("Changed"),
        Operation::handled(Method::DELETE, "remove_passphrase", "/owner/passphrase", service::remove_passphrase)
            .summary("Remove the record of the caller's passphrase, with the key that it protects")
            .header(OWNER_PASSPHRASE, true, string())
            .gives_nothing("Removed"),
        Typed::get("list_keys", "/admin/keys", |memory, context, ()| memory.list_keys(context).boxed())
            .summary("The cluster's keys, by name")
            .row(),
        Typed::post("rotate_key", "/admin/keys/rotate", |memory, context, Document(request)| {
            memory.rotate_key(context, request).boxed()
        })
        .summary("Put another key in the place of the cluster's or of a collection's")
        .row(),
        Typed::get("list_erasures", "/admin/erasures", |memory, context, ()| memory.list_erasures(context).boxed())
            .summary("Keys that end, and those that have, with receipts")
            .row(),
        Typed::get("list_repositories", "/admin/repositories", |memory, context, ()| {
            memory.list_repositories(context).boxed()
        })
        .summary("Places that hold backups")
        .row(),
        Operation::handled(Method::POST, "backup_step", "/admin/backup/{step}", service::backup_step)
            .summary("One step of a backup or a restore, in the storage nodes' own messages")
            .takes_bytes(PROTOBUF)
            .gives_bytes(StatusCode::OK, "Done", PROTOBUF),
    ]
}

/// What tells of the router itself.
fn of_the_router() -> Vec<Operation> {
    vec![
        Operation::handled(Method::GET, "health", "/healthz", async || "ok\n")
            .summary("Whether this router runs")
            .access(Access::Open)
            .gives_bytes(StatusCode::OK, "It runs", TEXT),
        Operation::handled(Method::GET, "readiness", "/readyz", service::readiness)
            .summary("Whether this router can serve, and what stands against it")
            .access(Access::Open)
            .gives::<Value>(),
        Operation::handled(Method::GET, "metrics", "/metrics", service::metrics)
            .summary("What this router measures, as Prometheus reads it")
            .access(Access::Metrics)
            .gives_bytes(StatusCode::OK, "Metrics", TEXT),
        Operation::handled(Method::GET, "openapi", "/openapi.json", async || Json(openapi::document(&table())))
            .summary("This description")
            .gives::<Value>(),
    ]
}

/// All collections.
#[derive(Serialize, JsonSchema)]
struct CollectionList {
    /// By name.
    collections: Vec<Collection>,
}

fn page_size() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": limits::MAX_SCAN })
}

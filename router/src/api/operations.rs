//! The table of operations: one row each.
//!
//! The routes of HTTP, `/openapi.json` and the list of MCP tools are made of it, so none of them can lack what another
//! has. What gRPC offers stands in `proto/proto/mira/v1`.

use axum::Json;
use axum::http::StatusCode;
use futures::FutureExt;
use mira_proto::limits;
use mira_proto::model::{
    Collection, CollectionSettings, ErasuresReply, ForgetReply, ForgetRequest, GrowReply, GrowRequest, KeysReply,
    MovesSetting, NodeChange, NodeChangeReply, RecallReply, RecallRequest, RepositoriesReply, RotateReply,
    RotateRequest, ScanReply, SearchReply, SearchRequest, SessionsReply, StatusReply, StatusRequest, StoreReply,
    StoreRequest, TuneReply, TuneRequest, UploadReply, UploadRequest, VerifyReply, VerifyRequest,
};
use serde_json::{Value, json};

use super::operation::{About, Access, Operation, string, string_of};
use super::rest::{admin, collections, memory, service, uploads};
use super::{NEW_PASSPHRASE, OWNER_PASSPHRASE, openapi};

const BYTES: &str = "application/octet-stream";
const PROTOBUF: &str = "application/x-protobuf";
const TEXT: &str = "text/plain";

/// All operations, in the order in which tools are listed.
pub(super) fn table() -> Vec<Operation> {
    [tools(), of_collections(), of_contents(), of_administration(), of_the_router()].into_iter().flatten().collect()
}

fn tools() -> Vec<Operation> {
    vec![
        Operation::post("store", "/mcp/store", memory::store)
            .summary("Remember something")
            .takes::<StoreRequest>()
            .gives::<StoreReply>()
            .tool(
                About {
                    description: "Store a memory (content), or up to 1,000 of them (items, each stored or refused by itself). \
                        Returns the id and version of each. Give an id to make a repeated store harmless; with an id that exists, \
                        other content is a conflict unless replace is true.",
                    is_read_only: false,
                    // With `replace` a version takes another's place.
                    is_destructive: true,
                    is_idempotent: false,
                },
                |memory, context, request: StoreRequest| memory.store(context, request).boxed(),
            ),
        Operation::post("search", "/mcp/search", memory::search)
            .summary("Find memories by meaning")
            .takes::<SearchRequest>()
            .gives::<SearchReply>()
            .tool(
                About {
                    description: "Find the memories nearest in meaning to a query in words (or to a vector). Returns the best k, \
                        best first, each with its score. A filter narrows them by type, session, role, created_at or metadata, such \
                        as {\"field\": \"metadata.project\", \"eq\": \"atlas\"}. `degraded` means that some could not be searched: others may exist.",
                    is_read_only: true,
                    is_destructive: false,
                    is_idempotent: true,
                },
                |memory, context, request: SearchRequest| memory.search(context, request).boxed(),
            ),
        Operation::post("recall", "/mcp/recall", memory::recall)
            .summary("Read memories")
            .takes::<RecallRequest>()
            .gives::<RecallReply>()
            .tool(
                About {
                    description: "Read memories by id or ids, or the memories of a session in the order they were stored (with \
                        last, the newest ones).",
                    is_read_only: true,
                    is_destructive: false,
                    is_idempotent: true,
                },
                |memory, context, request: RecallRequest| memory.recall(context, request).boxed(),
            ),
        Operation::post("forget", "/mcp/forget", memory::forget)
            .summary("Remove memories")
            .takes::<ForgetRequest>()
            .gives::<ForgetReply>()
            .tool(
                About {
                    description: "Remove memories for good: by id or ids, a whole session, by filter (as in search), or with \
                        all: true everything in a collection. With shred: true the key is destroyed too, so that no copy anywhere can \
                        be read any more. Returns how many were removed; what does not exist is not counted.",
                    is_read_only: false,
                    is_destructive: true,
                    is_idempotent: true,
                },
                |memory, context, request: ForgetRequest| memory.forget(context, request).boxed(),
            ),
        Operation::post("status", "/mcp/status", memory::post_status)
            .summary("State of the memory service")
            .takes::<StatusRequest>()
            .gives::<StatusReply>()
            .tool(
                About {
                    description: "Whether the service is ok, degraded or unavailable, with its nodes, shards and number of \
                        memories; detailed adds every replica and collection.",
                    is_read_only: true,
                    is_destructive: false,
                    is_idempotent: true,
                },
                |memory, context, request: StatusRequest| memory.status(context, request).boxed(),
            ),
        Operation::get("get_status", "/mcp/status", memory::get_status)
            .summary("State of the memory service")
            .query("detailed", json!({ "type": "boolean" }))
            .gives::<StatusReply>(),
    ]
}

fn of_collections() -> Vec<Operation> {
    vec![
        Operation::get("list_collections", "/collections", collections::list_collections)
            .summary("All collections")
            .gives::<collections::CollectionList>(),
        Operation::get("get_collection", "/collections/{name}", collections::get_collection)
            .summary("One collection")
            .gives::<Collection>(),
        Operation::put("put_collection", "/collections/{name}", collections::put_collection)
            .summary("Make a collection")
            .takes::<CollectionSettings>()
            .gives::<Collection>(),
        Operation::delete("delete_collection", "/collections/{name}", collections::delete_collection)
            .summary("Remove a collection with all its frames")
            .gives_nothing("Removed"),
        Operation::get("scan", "/collections/{name}/frames", memory::scan)
            .summary("Everything in a collection, page by page")
            .query("after", string_of("uuid"))
            .query("limit", page_size())
            .gives::<ScanReply>(),
        Operation::get("sessions", "/collections/{name}/sessions", memory::sessions)
            .summary("The sessions of a collection, page by page")
            .query("agent", string())
            .query("active_since", string_of("date-time"))
            .query("after", string())
            .query("limit", page_size())
            .gives::<SessionsReply>(),
        Operation::post("grow_collection", "/collections/{name}/grow", collections::grow_collection)
            .summary("Spread a collection over more shards")
            .takes::<GrowRequest>()
            .gives::<GrowReply>(),
        Operation::post("tune_collection", "/collections/{name}/tune", collections::tune_collection)
            .summary("Find and set the beam with which searches of a collection reach a recall")
            .takes::<TuneRequest>()
            .gives::<TuneReply>(),
    ]
}

fn of_contents() -> Vec<Operation> {
    vec![
        Operation::post("begin_upload", "/collections/{name}/uploads", uploads::begin_upload)
            .summary("Begin the upload of a large content")
            .takes::<UploadRequest>()
            .creates::<UploadReply>(),
        Operation::get("get_upload", "/collections/{name}/uploads/{id}", uploads::get_upload)
            .summary("How far an upload has come")
            .gives::<UploadReply>(),
        Operation::patch("append_upload", "/collections/{name}/uploads/{id}", uploads::append_upload)
            .summary("Add bytes to an upload")
            .header("Upload-Offset", true, json!({ "type": "integer", "minimum": 0 }))
            .takes_bytes(BYTES)
            .gives::<UploadReply>(),
        Operation::delete("cancel_upload", "/collections/{name}/uploads/{id}", uploads::cancel_upload)
            .summary("Give an upload up")
            .gives_nothing("Given up"),
        Operation::post("finish_upload", "/collections/{name}/uploads/{id}/finish", uploads::finish_upload)
            .summary("Make a frame of an upload")
            .gives::<UploadReply>(),
        Operation::get("read_content", "/collections/{name}/frames/{id}/content", uploads::read_content)
            .summary("The content of a frame, or a range of its bytes")
            .header("Range", false, string())
            .header("If-Range", false, string())
            .gives_bytes(StatusCode::OK, "All of it", BYTES)
            .gives_bytes(StatusCode::PARTIAL_CONTENT, "A range of it", BYTES),
    ]
}

fn of_administration() -> Vec<Operation> {
    vec![
        Operation::post("change_node", "/admin/nodes", admin::change_node)
            .summary("Add, drain, replace or remove a storage node")
            .takes::<NodeChange>()
            .gives::<NodeChangeReply>(),
        Operation::post("set_moves", "/admin/moves", admin::set_moves)
            .summary("Stop moves of replicas for now, or let them go on")
            .takes::<MovesSetting>()
            .gives::<MovesSetting>(),
        Operation::post("verify_shards", "/admin/shards/verify", admin::verify_shards)
            .summary("Compare what the replicas of shards hold")
            .takes::<VerifyRequest>()
            .gives::<VerifyReply>(),
        Operation::post("set_passphrase", "/owner/passphrase", memory::set_passphrase)
            .summary("Protect the caller's owner key by another passphrase")
            .header(OWNER_PASSPHRASE, true, string())
            .header(NEW_PASSPHRASE, true, string())
            .gives_nothing("Changed"),
        Operation::get("list_keys", "/admin/keys", admin::list_keys)
            .summary("The cluster's keys, by name")
            .gives::<KeysReply>(),
        Operation::post("rotate_key", "/admin/keys/rotate", admin::rotate_key)
            .summary("Put another key in the place of the cluster's or of a collection's")
            .takes::<RotateRequest>()
            .gives::<RotateReply>(),
        Operation::get("list_erasures", "/admin/erasures", admin::list_erasures)
            .summary("Keys that end, and those that have, with receipts")
            .gives::<ErasuresReply>(),
        Operation::get("list_repositories", "/admin/repositories", admin::list_repositories)
            .summary("Places that hold backups")
            .gives::<RepositoriesReply>(),
        Operation::post("backup_step", "/admin/backup/{step}", admin::backup_step)
            .summary("One step of a backup or a restore, in the storage nodes' own messages")
            .takes_bytes(PROTOBUF)
            .gives_bytes(StatusCode::OK, "Done", PROTOBUF),
    ]
}

/// What tells of the router itself.
fn of_the_router() -> Vec<Operation> {
    vec![
        Operation::get("health", "/healthz", async || "ok\n")
            .summary("Whether this router runs")
            .access(Access::Open)
            .gives_bytes(StatusCode::OK, "It runs", TEXT),
        Operation::get("readiness", "/readyz", service::readiness)
            .summary("Whether this router can serve, and what stands against it")
            .access(Access::Open)
            .gives::<Value>(),
        Operation::get("metrics", "/metrics", service::metrics)
            .summary("What this router measures, as Prometheus reads it")
            .access(Access::Metrics)
            .gives_bytes(StatusCode::OK, "Metrics", TEXT),
        Operation::get("openapi", "/openapi.json", async || Json(openapi::document(&table())))
            .summary("This description")
            .gives::<Value>(),
    ]
}

fn page_size() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": limits::MAX_SCAN })
}

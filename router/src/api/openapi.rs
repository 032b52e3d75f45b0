//! `/openapi.json`: REST described by the same schemas that MCP's tools carry.

use mira_proto::limits;
use mira_proto::model::{
    Collection, CollectionSettings, ErasuresReply, ForgetReply, ForgetRequest, GrowReply, GrowRequest, KeysReply,
    MovesSetting, NodeChange, NodeChangeReply, RecallReply, RecallRequest, RepositoriesReply, RotateReply,
    RotateRequest, ScanReply, SearchReply, SearchRequest, SessionsReply, StatusReply, StatusRequest, StoreReply,
    StoreRequest, TuneReply, TuneRequest, UploadReply, UploadRequest, VerifyReply, VerifyRequest,
};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use super::mcp::TOOLS;
use super::{NEW_PASSPHRASE, OWNER_PASSPHRASE};

/// The whole document, OpenAPI 3.1.
pub fn document() -> Value {
    let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    }));
    let mut paths = serde_json::Map::new();
    let mut tool = |name: &str, request: Schema, reply: Schema| {
        let summary = TOOLS.iter().find(|tool| tool.name == name).map(|tool| tool.title);
        paths.insert(format!("/mcp/{name}"), json!({ "post": operation(summary, Some(request), &reply) }));
    };
    tool("store", of::<StoreRequest>(&mut generator), of::<StoreReply>(&mut generator));
    tool("search", of::<SearchRequest>(&mut generator), of::<SearchReply>(&mut generator));
    tool("recall", of::<RecallRequest>(&mut generator), of::<RecallReply>(&mut generator));
    tool("forget", of::<ForgetRequest>(&mut generator), of::<ForgetReply>(&mut generator));
    tool("status", of::<StatusRequest>(&mut generator), of::<StatusReply>(&mut generator));
    let (collection, settings) = (of::<Collection>(&mut generator), of::<CollectionSettings>(&mut generator));
    let list = json!({ "type": "object", "properties": { "collections": { "type": "array", "items": collection } } });
    let list = Schema::try_from(list).expect("an object is a schema");
    paths.insert("/collections".into(), json!({ "get": operation(Some("All collections"), None, &list) }));
    paths.insert(
        "/collections/{name}".into(),
        json!({
            "parameters": [{ "name": "name", "in": "path", "required": true, "schema": { "type": "string" } }],
            "get": operation(Some("One collection"), None, &collection),
            "put": operation(Some("Make a collection"), Some(settings), &collection),
            "delete": { "summary": "Remove a collection with all its frames", "responses": {
                "204": { "description": "Removed" }, "default": problem() } },
        }),
    );
    let scanned = of::<ScanReply>(&mut generator);
    let parameter = |name: &str, kind: Value| json!({ "name": name, "in": "query", "schema": kind });
    let mut scan = operation(Some("Everything in a collection, page by page"), None, &scanned);
    scan["parameters"] = json!([
        parameter("after", json!({ "type": "string", "format": "uuid" })),
        parameter("limit", json!({ "type": "integer", "minimum": 1, "maximum": limits::MAX_SCAN })),
    ]);
    paths.insert(
        "/collections/{name}/frames".into(),
        json!({
            "parameters": [{ "name": "name", "in": "path", "required": true, "schema": { "type": "string" } }],
            "get": scan,
        }),
    );
    let listed = of::<SessionsReply>(&mut generator);
    let mut sessions = operation(Some("The sessions of a collection, page by page"), None, &listed);
    sessions["parameters"] = json!([
        parameter("agent", json!({ "type": "string" })),
        parameter("active_since", json!({ "type": "string", "format": "date-time" })),
        parameter("after", json!({ "type": "string" })),
        parameter("limit", json!({ "type": "integer", "minimum": 1, "maximum": limits::MAX_SCAN })),
    ]);
    paths.insert(
        "/collections/{name}/sessions".into(),
        json!({
            "parameters": [{ "name": "name", "in": "path", "required": true, "schema": { "type": "string" } }],
            "get": sessions,
        }),
    );
    large_contents(&mut paths, &mut generator);
    let (grow, grown) = (of::<GrowRequest>(&mut generator), of::<GrowReply>(&mut generator));
    paths.insert(
        "/collections/{name}/grow".into(),
        json!({
            "parameters": [{ "name": "name", "in": "path", "required": true, "schema": { "type": "string" } }],
            "post": operation(Some("Spread a collection over more shards"), Some(grow), &grown),
        }),
    );
    let (tune, tuned) = (of::<TuneRequest>(&mut generator), of::<TuneReply>(&mut generator));
    let summary = "Find and set the beam with which searches of a collection reach a recall";
    paths.insert(
        "/collections/{name}/tune".into(),
        json!({
            "parameters": [{ "name": "name", "in": "path", "required": true, "schema": { "type": "string" } }],
            "post": operation(Some(summary), Some(tune), &tuned),
        }),
    );
    let (change, changed) = (of::<NodeChange>(&mut generator), of::<NodeChangeReply>(&mut generator));
    let summary = "Add, drain, replace or remove a storage node";
    paths.insert("/admin/nodes".into(), json!({ "post": operation(Some(summary), Some(change), &changed) }));
    let moves = of::<MovesSetting>(&mut generator);
    let summary = "Stop moves of replicas for now, or let them go on";
    paths.insert("/admin/moves".into(), json!({ "post": operation(Some(summary), Some(moves.clone()), &moves) }));
    let (verify, verified) = (of::<VerifyRequest>(&mut generator), of::<VerifyReply>(&mut generator));
    let summary = "Compare what the replicas of shards hold";
    paths.insert("/admin/shards/verify".into(), json!({ "post": operation(Some(summary), Some(verify), &verified) }));
    let passphrase =
        |name: &str| json!({ "name": name, "in": "header", "required": true, "schema": { "type": "string" } });
    paths.insert(
        "/owner/passphrase".into(),
        json!({ "post": {
            "summary": "Protect the caller's owner key by another passphrase",
            "parameters": [passphrase(OWNER_PASSPHRASE), passphrase(NEW_PASSPHRASE)],
            "responses": { "204": { "description": "Changed" }, "default": problem() },
        } }),
    );
    let keys = of::<KeysReply>(&mut generator);
    paths.insert("/admin/keys".into(), json!({ "get": operation(Some("The cluster's keys, by name"), None, &keys) }));
    let (rotate, rotated) = (of::<RotateRequest>(&mut generator), of::<RotateReply>(&mut generator));
    let summary = "Put another key in the place of the cluster's or of a collection's";
    paths.insert("/admin/keys/rotate".into(), json!({ "post": operation(Some(summary), Some(rotate), &rotated) }));
    let erasures = of::<ErasuresReply>(&mut generator);
    let summary = "Keys that end, and those that have, with receipts";
    paths.insert("/admin/erasures".into(), json!({ "get": operation(Some(summary), None, &erasures) }));
    let places = of::<RepositoriesReply>(&mut generator);
    let summary = "Places that hold backups";
    paths.insert("/admin/repositories".into(), json!({ "get": operation(Some(summary), None, &places) }));
    json!({
        "openapi": "3.1.0",
        "info": { "title": "MIRA", "version": crate::VERSION, "description": "Memory for AI agents" },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": generator.take_definitions(true),
        },
    })
}

/// Uploads, and contents in ranges.
fn large_contents(paths: &mut serde_json::Map<String, Value>, generator: &mut SchemaGenerator) {
    let path = |name: &str, schema: Value| json!({ "name": name, "in": "path", "required": true, "schema": schema });
    let (name, id) =
        (path("name", json!({ "type": "string" })), path("id", json!({ "type": "string", "format": "uuid" })));
    let (begin, state) = (of::<UploadRequest>(generator), of::<UploadReply>(generator));
    let bytes = json!({ "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } });
    let mut begun = operation(Some("Begin the upload of a large content"), Some(begin), &state);
    let done = begun["responses"]["200"].take();
    begun["responses"] = json!({ "201": done, "default": problem() });
    paths.insert("/collections/{name}/uploads".into(), json!({ "parameters": [name], "post": begun }));
    let mut append = operation(Some("Add bytes to an upload"), None, &state);
    append["requestBody"] = json!({ "required": true, "content": bytes });
    let offset = json!({ "type": "integer", "minimum": 0 });
    append["parameters"] = json!([{ "name": "Upload-Offset", "in": "header", "required": true, "schema": offset }]);
    paths.insert(
        "/collections/{name}/uploads/{id}".into(),
        json!({
            "parameters": [name, id],
            "get": operation(Some("How far an upload has come"), None, &state),
            "patch": append,
            "delete": { "summary": "Give an upload up", "responses": {
                "204": { "description": "Given up" }, "default": problem() } },
        }),
    );
    paths.insert(
        "/collections/{name}/uploads/{id}/finish".into(),
        json!({ "parameters": [name, id], "post": operation(Some("Make a frame of an upload"), None, &state) }),
    );
    paths.insert(
        "/collections/{name}/frames/{id}/content".into(),
        json!({ "parameters": [name, id], "get": {
            "summary": "The content of a frame, or a range of its bytes",
            "parameters": [
                { "name": "Range", "in": "header", "schema": { "type": "string" } },
                { "name": "If-Range", "in": "header", "schema": { "type": "string" } },
            ],
            "responses": {
                "200": { "description": "All of it", "content": bytes },
                "206": { "description": "A range of it", "content": bytes },
                "default": problem(),
            },
        } }),
    );
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

fn operation(summary: Option<&str>, request: Option<Schema>, reply: &Schema) -> Value {
    let mut operation = json!({
        "summary": summary,
        "responses": {
            "200": { "description": "Done", "content": { "application/json": { "schema": reply } } },
            "default": problem(),
        },
    });
    if let Some(request) = request {
        let content = json!({ "application/json": { "schema": request } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn problem() -> Value {
    let schema = json!({ "type": "object", "properties": {
        "type": { "type": "string" }, "title": { "type": "string" }, "status": { "type": "integer" },
        "code": { "type": "string" }, "detail": { "type": "string" } } });
    json!({ "description": "A problem (RFC 9457)", "content": { "application/problem+json": { "schema": schema } } })
}

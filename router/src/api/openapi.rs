//! `/openapi.json`: the table of operations as OpenAPI 3.1, with the same schemas that MCP's tools carry.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::operation::{Access, Media, Operation, Parameter, string, string_of};

/// The whole document.
pub(super) fn document(operations: &[Operation]) -> Value {
    let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    }));
    let mut paths = Map::new();
    for operation in operations {
        let path = paths.entry(operation.path).or_insert_with(|| path_item(operation.path));
        path[operation.method.as_str().to_lowercase()] = described(operation, &mut generator);
    }
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

/// What all methods of a path share: the parameters that stand in it.
fn path_item(path: &str) -> Value {
    let names = path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = names
        .map(|name| {
            let schema = if name == "id" { string_of("uuid") } else { string() };
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    if parameters.is_empty() { json!({}) } else { json!({ "parameters": parameters }) }
}

fn described(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    for reply in &operation.replies {
        let mut response = json!({ "description": reply.description });
        if let Some(content) = content(&reply.media, generator) {
            response["content"] = content;
        }
        responses.insert(reply.status.as_str().to_owned(), response);
    }
    responses.insert("default".to_owned(), problem());
    let mut described = json!({ "operationId": operation.name, "summary": operation.summary, "responses": responses });
    if !operation.parameters.is_empty() {
        described["parameters"] = operation.parameters.iter().map(parameter).collect();
    }
    if let Some(content) = content(&operation.request, generator) {
        described["requestBody"] = json!({ "required": true, "content": content });
    }
    if operation.access == Access::Open {
        described["security"] = json!([]);
    }
    described
}

fn parameter(Parameter { name, place, is_required, schema }: &Parameter) -> Value {
    let mut parameter = json!({ "name": name, "in": place, "schema": schema });
    if *is_required {
        parameter["required"] = true.into();
    }
    parameter
}

fn content(media: &Media, generator: &mut SchemaGenerator) -> Option<Value> {
    match media {
        Media::Empty => None,
        Media::Json(schema) => Some(json!({ "application/json": { "schema": schema(generator) } })),
        Media::Bytes(media_type) if media_type.starts_with("text/") => {
            Some(json!({ *media_type: { "schema": string() } }))
        }
        Media::Bytes(media_type) => Some(json!({ *media_type: { "schema": string_of("binary") } })),
    }
}

fn problem() -> Value {
    let schema = json!({ "type": "object", "properties": {
        "type": { "type": "string" }, "title": { "type": "string" }, "status": { "type": "integer" },
        "code": { "type": "string" }, "detail": { "type": "string" } } });
    json!({ "description": "A problem (RFC 9457)", "content": { "application/problem+json": { "schema": schema } } })
}

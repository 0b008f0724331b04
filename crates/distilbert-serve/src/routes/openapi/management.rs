//! The OpenAPI document of the door of management.

use super::schema::*;
use super::{described_model, error_schema, error_schemas, page_of, reference};
use crate::App;
use crate::http::error::{ApiError, ErrorKind, Protocol};
use crate::routes::{JSON, Reply};
use serde_json::{Map, Value, json};

/// `GET /openapi.json`.
pub fn document(app: &App) -> Result<Reply, ApiError> {
    Reply::of(&of(app))
}

/// `GET /docs`.
pub fn page(app: &App) -> Reply {
    page_of(&of(app))
}

fn of(app: &App) -> Value {
    let listed = list(json!({"type": "object", "properties": described_model()}));
    let precision = one_of_or_null(["f32", "bf16", "int8", "auto"].map(str::to_owned).to_vec());
    let request = object(&[("source", text())], &[("precision", precision)]);
    let loaded = object(&[("loaded", text())], &[]);
    let name = json!({
        "name": "name", "in": "path", "required": true, "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,100}$"},
    });
    let mut put = operation(
        app,
        "Loads a model, or puts one in the place of the one with this name.",
        loaded,
        &[
            ErrorKind::Syntax,
            ErrorKind::SlowBody,
            ErrorKind::TooLarge,
            ErrorKind::MediaType,
            ErrorKind::Validation,
            ErrorKind::Overloaded,
            ErrorKind::Internal,
            ErrorKind::Unhealthy,
            ErrorKind::Timeout,
        ],
    );
    let example = json!({"source": "runs/sst2-int8", "precision": "auto"});
    put["requestBody"] = json!({"required": true, "content": {JSON: {"schema": request, "example": example}}});
    let delete = operation(app, "Takes a model out.", listed.clone(), &[ErrorKind::ModelNotFound]);
    let mut components = json!({"schemas": error_schemas()});
    if app.keys.is_some() {
        components["securitySchemes"] = json!({"key": {"type": "http", "scheme": "bearer"}});
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "distilbert: models",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Models come and go while others are served. Every answer has `x-request-id`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": TAG, "description": "Loaded, replaced and removed."}],
        "paths": {
            "/models": {"get": operation(app, "What is served.", listed, &[])},
            "/models/{name}": {"parameters": [name], "put": put, "delete": delete},
        },
        "components": components,
    })
}

/// Under which all stands.
const TAG: &str = "models";

fn operation(app: &App, summary: &str, given: Value, errors: &[ErrorKind]) -> Value {
    let ok = json!({"description": "The answer.", "content": {JSON: {"schema": given}}});
    let mut responses = Map::from_iter([("200".to_owned(), ok)]);
    let of_keys = [ErrorKind::Unauthorized, ErrorKind::Forbidden];
    let of_keys = app.keys.iter().flat_map(|_| &of_keys);
    for kind in errors.iter().chain(of_keys) {
        let content = json!({JSON: {"schema": reference(error_schema(Protocol::Tei))}});
        let response = json!({"description": kind.meaning(), "content": content});
        responses.insert(kind.status(Protocol::Tei).to_string(), response);
    }
    let mut operation = json!({"tags": [TAG], "summary": summary, "responses": responses});
    if app.keys.is_some() {
        operation["security"] = json!([{"key": []}]);
    }
    operation
}

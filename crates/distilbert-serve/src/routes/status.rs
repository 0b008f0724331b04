//! How the server is, and what it serves.

use super::Reply;
use super::common::model;
use crate::App;
use crate::STUCK_AFTER;
use crate::http::error::{ApiError, ErrorKind};
use crate::model::{Ability, ServedModel, ServedTask};
use distilbert::heads::Head;
use distilbert::model::Pooling;
use distilbert_kernels::Precision;
use serde_json::{Map, Value, json};

/// `GET /health` and `/health/ready`: whether requests should be sent here. Not while the server is stopping.
pub fn ready(app: &App, _: Option<&str>) -> Result<Reply, ApiError> {
    if app.is_stopping() {
        return Err(ApiError::new(ErrorKind::Unhealthy, "the server is stopping"));
    }
    if app.models.all().is_empty() {
        return Err(ApiError::new(ErrorKind::Unhealthy, "no model is loaded"));
    }
    live(app, None)
}

/// `GET /health/live`: whether the process works; if not, it should be started anew.
pub fn live(app: &App, _: Option<&str>) -> Result<Reply, ApiError> {
    if app.engine.is_alive(STUCK_AFTER) {
        return Ok(Reply::empty());
    }
    Err(ApiError::new(ErrorKind::Unhealthy, "the engine does not answer"))
}

/// `GET /metrics`: for Prometheus.
pub fn metrics(app: &App, _: Option<&str>) -> Result<Reply, ApiError> {
    let media_type = Some("text/plain; version=0.0.4; charset=utf-8");
    Ok(Reply { media_type, ..Reply::json(app.metrics.text().into_bytes()) })
}

/// `GET /info`: the first model in text-embeddings-inference's shape, and in `models` all of them; under
/// `/models/NAME/info` that one.
pub fn info(app: &App, name: Option<&str>) -> Result<Reply, ApiError> {
    let models = app.models.all();
    let first = match (name, models.first()) {
        (Some(_), _) => model(app, name, None, Ability::Tokenize)?,
        (None, Some(first)) => first.clone(),
        (None, None) => return Err(ApiError::new(ErrorKind::Unhealthy, "no model is loaded")),
    };
    let mut info = describe(&first);
    let config = &app.config;
    let of_server = json!({
        "max_concurrent_requests": config.max_connections,
        "max_batch_tokens": config.engine.batch_tokens,
        "max_batch_requests": null,
        "max_client_batch_size": config.max_texts,
        "auto_truncate": config.auto_truncate,
        "tokenization_workers": crate::compute::THREADS,
        "version": env!("CARGO_PKG_VERSION"),
        "sha": null,
        "docker_label": null,
    });
    if let Value::Object(of_server) = of_server {
        info.extend(of_server);
    }
    if name.is_none() {
        info.insert("models".into(), models.iter().map(|model| Value::Object(describe(model))).collect());
    }
    Reply::of(&info)
}

/// What is served, for management.
pub fn loaded(app: &App) -> Result<Reply, ApiError> {
    Reply::of(&app.models.all().iter().map(|model| describe(model)).collect::<Vec<_>>())
}

/// What is said of a model.
fn describe(model: &ServedModel) -> Map<String, Value> {
    let dtype = match model.model.precision() {
        Precision::F32 => "float32",
        Precision::Bf16 => "bfloat16",
        Precision::Int8 => "int8",
    };
    let labels = |labels: &[String]| {
        let by_id: Map<String, Value> =
            labels.iter().enumerate().map(|(id, label)| (id.to_string(), json!(label))).collect();
        let by_label: Map<String, Value> =
            labels.iter().enumerate().map(|(id, label)| (label.clone(), json!(id))).collect();
        json!({"id2label": by_id, "label2id": by_label})
    };
    let kind = match (&model.task, &model.model.head) {
        (ServedTask::Classify { labels: names, .. }, _) if names.len() == 1 => json!({"reranker": labels(names)}),
        (ServedTask::Classify { labels: names, .. }, _) => json!({"classifier": labels(names)}),
        (ServedTask::Tag { labels: names, .. }, _) => json!({"token_classifier": labels(names)}),
        (ServedTask::Intents { intents, slots, .. }, _) => {
            json!({"intent_classifier": {"intents": labels(intents), "slots": labels(slots)}})
        }
        (ServedTask::FillMask, _) => json!({"masked_lm": {}}),
        (ServedTask::Answer { .. }, _) => json!({"question_answerer": {}}),
        (ServedTask::Embed { .. }, Head::Embedder(head)) => {
            let pooling = match head.config.pooling {
                Pooling::Mean => "mean",
                Pooling::Cls => "cls",
                Pooling::Max => "max",
            };
            json!({"embedding": {"pooling": pooling}})
        }
        (ServedTask::Embed { .. }, _) => Value::Null,
    };
    let parity = model.parity.map(|parity| {
        json!({
            "reference": "float32",
            "largest_relative_difference": parity.largest_relative_difference,
            "texts": parity.texts,
        })
    });
    let info = json!({
        "model_id": model.source,
        "model_sha": null,
        "model_dtype": dtype,
        "served_model_name": model.name,
        "model_type": kind,
        "max_input_length": model.max_length,
        "parity": parity,
    });
    match info {
        Value::Object(info) => info,
        _ => Map::new(),
    }
}

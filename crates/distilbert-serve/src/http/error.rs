//! Errors as each protocol spells them.

use crate::engine::EngineError;
use crate::model::NoModel;
use distilbert::checkpoint::sentence_folder::UnknownPrompt;
use serde_json::{Value, json};
use std::borrow::Cow;

/// Whose rules a path follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// text-embeddings-inference's, and what is in no protocol.
    Tei,
    /// OpenAI's.
    OpenAi,
    /// The Open Inference Protocol's, version 2.
    Inference,
}

impl Protocol {
    /// By the path.
    pub fn of(path: &str) -> Protocol {
        // Behind a model's name a route keeps its protocol.
        let of_model = path.strip_prefix("/models/").and_then(|rest| rest.find('/').map(|end| &rest[end..]));
        let path = of_model.unwrap_or(path);
        let is_below = |prefix| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match path {
            _ if is_below("/v1") || path == "/embeddings" => Protocol::OpenAi,
            _ if is_below("/v2") => Protocol::Inference,
            _ => Protocol::Tei,
        }
    }
}

/// What is wrong with a request or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The body is not JSON.
    Syntax,
    /// Nothing where something is needed.
    Empty,
    /// JSON of another kind than the route takes, or values that it does not take.
    Validation,
    /// The model is of another kind than the route needs.
    Backend,
    /// No key, or one that is not known.
    Unauthorized,
    /// The key may not do this.
    Forbidden,
    /// No model has this name.
    ModelNotFound,
    /// No such path.
    NotFound,
    /// The path takes another method.
    Method,
    /// The body is too large.
    TooLarge,
    /// The body is not declared as JSON.
    MediaType,
    /// The body came too slowly.
    SlowBody,
    /// Too much waits.
    Overloaded,
    /// The deadline passed.
    Timeout,
    /// The server is stopping, or has no model.
    Unhealthy,
    /// A mistake in the server.
    Internal,
}

impl ErrorKind {
    /// Its HTTP status.
    pub fn status(self, protocol: Protocol) -> u16 {
        match (self, protocol) {
            // These have one status for all that is wrong with a body.
            (ErrorKind::Validation | ErrorKind::Backend, Protocol::OpenAi | Protocol::Inference) => 400,
            (ErrorKind::Syntax | ErrorKind::Empty, _) => 400,
            (ErrorKind::Validation, _) => 422,
            (ErrorKind::Backend, _) => 424,
            (ErrorKind::Unauthorized, _) => 401,
            (ErrorKind::Forbidden, _) => 403,
            (ErrorKind::ModelNotFound | ErrorKind::NotFound, _) => 404,
            (ErrorKind::Method, _) => 405,
            (ErrorKind::SlowBody, _) => 408,
            (ErrorKind::TooLarge, _) => 413,
            (ErrorKind::MediaType, _) => 415,
            (ErrorKind::Overloaded, _) => 429,
            (ErrorKind::Unhealthy, _) => 503,
            (ErrorKind::Timeout, _) => 504,
            (ErrorKind::Internal, _) => 500,
        }
    }

    /// What it means, for documents.
    pub fn meaning(self) -> &'static str {
        match self {
            ErrorKind::Syntax | ErrorKind::Empty => "No JSON, or nothing where something is needed.",
            ErrorKind::Validation => "JSON or values that the route does not take.",
            ErrorKind::Backend => "The model is of another kind.",
            ErrorKind::Unauthorized => "No key that is known.",
            ErrorKind::Forbidden => "The key may not do this.",
            ErrorKind::ModelNotFound => "No model has this name.",
            ErrorKind::NotFound => "Nothing is at this path.",
            ErrorKind::Method => "The path takes another method.",
            ErrorKind::TooLarge => "The body is too large.",
            ErrorKind::MediaType => "The body is not declared as JSON, or compressed.",
            ErrorKind::SlowBody => "The body came too slowly.",
            ErrorKind::Overloaded => "Too much waits, or the key's quota is used up.",
            ErrorKind::Timeout => "The deadline passed.",
            ErrorKind::Unhealthy => "The server is stopping, or has no model.",
            ErrorKind::Internal => "A mistake in the server.",
        }
    }

    /// The reason under which `te_request_failure` counts it: text-embeddings-inference's where it has one.
    fn reason(self) -> &'static str {
        match self {
            ErrorKind::Backend => "model_type",
            ErrorKind::ModelNotFound | ErrorKind::NotFound | ErrorKind::Method => "not_found",
            ErrorKind::Overloaded => "overloaded",
            ErrorKind::Internal => "inference",
            ErrorKind::Timeout | ErrorKind::SlowBody => "timeout",
            ErrorKind::Unhealthy => "unhealthy",
            ErrorKind::Unauthorized | ErrorKind::Forbidden => "unauthorized",
            _ => "validation",
        }
    }
}

/// An error on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
    /// The field that is wrong.
    pub param: Option<Cow<'static, str>>,
    /// The reason under which `te_request_failure` counts it, if it is not that of its kind.
    pub reason: Option<&'static str>,
    /// When to come again.
    pub retry_after_s: Option<u64>,
    /// The methods that the path takes.
    pub allow: Option<String>,
}

impl ApiError {
    /// An error without a field.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> ApiError {
        ApiError { kind, message: message.into(), param: None, reason: None, retry_after_s: None, allow: None }
    }

    /// A value that a route does not take.
    pub fn invalid(param: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..ApiError::new(ErrorKind::Validation, message) }
    }

    /// Nothing in a field that needs something.
    pub fn empty(param: &'static str) -> ApiError {
        let message = format!("`{param}` cannot be empty");
        ApiError { param: Some(param.into()), ..ApiError::new(ErrorKind::Empty, message) }
    }

    /// One of several inputs with nothing in it.
    pub fn empty_at(param: &'static str, index: usize) -> ApiError {
        let message = format!("`{param}` cannot be empty, as the one at index {index} is");
        ApiError { message, ..ApiError::empty(param) }
    }

    /// A mistake in the server, without details: they might hold text.
    pub fn internal() -> ApiError {
        ApiError::new(ErrorKind::Internal, "internal error")
    }

    /// The reason under which `te_request_failure` counts it.
    pub fn reason(&self) -> &'static str {
        self.reason.unwrap_or(self.kind.reason())
    }

    /// The name that text-embeddings-inference gives it, or would.
    pub fn error_type(&self) -> String {
        format!("{:?}", self.kind)
    }

    /// The body.
    pub fn body(&self, protocol: Protocol) -> Value {
        match protocol {
            Protocol::Tei => json!({"error": self.message, "error_type": self.error_type()}),
            Protocol::Inference => json!({"error": self.message}),
            Protocol::OpenAi => {
                let (kind, code) = match self.kind {
                    ErrorKind::Overloaded => ("rate_limit_error", Some("rate_limit_exceeded")),
                    ErrorKind::Unauthorized => ("invalid_request_error", Some("invalid_api_key")),
                    ErrorKind::ModelNotFound => ("invalid_request_error", Some("model_not_found")),
                    ErrorKind::Internal | ErrorKind::Unhealthy | ErrorKind::Timeout => ("server_error", None),
                    _ => ("invalid_request_error", None),
                };
                json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": code}})
            }
        }
    }
}

impl From<NoModel> for ApiError {
    fn from(error: NoModel) -> ApiError {
        let kind = match error {
            NoModel::Unknown { .. } => ErrorKind::ModelNotFound,
            NoModel::Several { .. } => ErrorKind::Validation,
            NoModel::Cannot { .. } | NoModel::None { .. } => ErrorKind::Backend,
        };
        ApiError { param: Some("model".into()), ..ApiError::new(kind, error.to_string()) }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> ApiError {
        let message = error.to_string();
        match error {
            EngineError::Overloaded { retry_after_s } => {
                ApiError { retry_after_s: Some(retry_after_s), ..ApiError::new(ErrorKind::Overloaded, message) }
            }
            EngineError::Input(_) => ApiError::new(ErrorKind::Validation, message),
            EngineError::Panicked | EngineError::NotFinite => ApiError::new(ErrorKind::Internal, message),
            EngineError::Closed => ApiError::new(ErrorKind::Unhealthy, message),
        }
    }
}

impl From<UnknownPrompt> for ApiError {
    fn from(error: UnknownPrompt) -> ApiError {
        ApiError::invalid("prompt_name", error.to_string())
    }
}

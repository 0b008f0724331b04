//! What is said of each request: who, what and how long, never what the text was.

use hyper::Method;
use serde::Serialize;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where events go.
pub type Log = Box<dyn Fn(&Event) + Send + Sync>;

/// A request that has ended.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Seconds since 1970.
    pub time: f64,
    /// The request's name: the client's own, or a new one.
    pub request_id: String,
    /// Where it came from.
    pub client: IpAddr,
    /// The name of its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Its HTTP method.
    pub method: String,
    /// The route that it took; `-` if there is none of its path, which is not repeated here.
    pub route: &'static str,
    /// Of the answer; 499 if the client had gone.
    pub status: Option<u16>,
    /// What was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// The model that was asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Texts of the request.
    pub inputs: usize,
    /// Tokens that the model read.
    pub tokens: usize,
    /// Tokens that were cut off.
    pub truncated_tokens: usize,
    /// Time in the queue.
    pub queue_ms: f64,
    /// From request to answer.
    pub total_ms: f64,
}

impl Event {
    /// Of a request that begins now.
    pub(crate) fn new(request_id: String, client: IpAddr, method: &Method, route: &'static str) -> Event {
        Event {
            time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            request_id,
            client,
            key: None,
            // A client may make methods up.
            method: match method.as_str() {
                known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known.to_owned(),
                _ => "-".to_owned(),
            },
            route,
            status: None,
            error_type: None,
            model: String::new(),
            inputs: 0,
            tokens: 0,
            truncated_tokens: 0,
            queue_ms: 0.0,
            total_ms: 0.0,
        }
    }
}

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
    /// Until its body was there.
    pub read_ms: f64,
    /// Reading its JSON and making tokens.
    pub tokenization_ms: f64,
    /// Time in the queue.
    pub queue_ms: f64,
    /// The batches that it was part of.
    pub inference_ms: f64,
    /// From request to answer.
    pub total_ms: f64,
    /// What it is part of, if the client said so.
    #[serde(flatten)]
    pub trace: Option<TraceParent>,
}

/// The trace that a request belongs to.
///
/// # Source
/// The header `traceparent` of W3C Trace Context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceParent {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// The span that asked, 16 hexadecimal digits.
    pub parent_span_id: String,
    /// Whether who asked records the trace.
    #[serde(skip)]
    pub sampled: bool,
}

impl TraceParent {
    /// Of a header's value; `None` if it is not as it should be.
    pub(crate) fn parse(value: &str) -> Option<TraceParent> {
        let mut parts = value.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next()?;
            let is_hex = part.len() == digits && part.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
            is_hex.then(|| part.to_owned())
        };
        let (version, trace_id, parent_span_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let is_zero = |id: &str| id.bytes().all(|digit| digit == b'0');
        if version == "ff" || is_zero(&trace_id) || is_zero(&parent_span_id) {
            return None;
        }
        let sampled = u8::from_str_radix(&flags, 16).is_ok_and(|flags| flags & 1 == 1);
        Some(TraceParent { trace_id, parent_span_id, sampled })
    }
}

/// Whether a route is asked by what watches a server.
pub(crate) fn is_probe(route: &str) -> bool {
    matches!(route, "health" | "ready" | "live" | "metrics")
}

impl Event {
    /// Whether it was asked by what watches the server, every few seconds.
    pub fn is_probe(&self) -> bool {
        is_probe(self.route)
    }

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
            read_ms: 0.0,
            tokenization_ms: 0.0,
            queue_ms: 0.0,
            inference_ms: 0.0,
            total_ms: 0.0,
            trace: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_taken_from_headers_as_they_should_be_and_no_others() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        let found = TraceParent::parse(&format!("00-{id}-b7ad6b7169203331-01")).unwrap();
        assert_eq!(
            (found.trace_id.as_str(), found.parent_span_id.as_str(), found.sampled),
            (id, "b7ad6b7169203331", true)
        );
        assert!(!TraceParent::parse(&format!("00-{id}-b7ad6b7169203331-00")).unwrap().sampled);
        for wrong in [
            String::new(),
            format!("00-{id}-b7ad6b7169203331"),
            format!("ff-{id}-b7ad6b7169203331-01"),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{id}-{}-01", "0".repeat(16)),
            format!("00-{}-b7ad6b7169203331-01", id.to_uppercase()),
            format!("00-{id}-b7ad6b716920333-01"),
        ] {
            assert_eq!(TraceParent::parse(&wrong), None, "{wrong}");
        }
    }
}

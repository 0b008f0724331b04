//! A request's body: in time, of bounded size, and of what all bodies together may take.

use super::error::{ApiError, ErrorKind};
use crate::memory::{Memory, Share};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use std::time::Duration;
use tokio::time::timeout;

/// A body that is refused is read to its end, up to this many times the limit, so that the client reads the answer
/// instead of finding its connection reset while it sends.
const READ_PAST_LIMIT: usize = 8;

/// How long a client whose request was refused may go on sending.
const DRAIN: Duration = Duration::from_secs(2);

/// A body in memory, and its share of what all bodies may take.
#[derive(Default)]
pub struct Held {
    /// The body.
    pub bytes: Vec<u8>,
    /// Given back when it is dropped.
    pub share: Share,
}

/// Checks that a body is declared as JSON, not compressed, and not too large. Not every protocol makes clients declare it.
///
/// # Errors
/// [`ErrorKind::MediaType`] or [`ErrorKind::TooLarge`].
pub fn check_head(headers: &HeaderMap, limit: usize, must_be_declared: bool) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = text(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json =
        media_type == "application/json" || (media_type.starts_with("application/") && media_type.ends_with("+json"));
    if !is_json && (must_be_declared || headers.contains_key(CONTENT_TYPE)) {
        let message = "expected a request with `Content-Type: application/json`";
        return Err(ApiError::new(ErrorKind::MediaType, message));
    }
    if !matches!(text(CONTENT_ENCODING).to_ascii_lowercase().as_str(), "" | "identity") {
        return Err(ApiError::new(ErrorKind::MediaType, "expected a body that is not compressed"));
    }
    match text(CONTENT_LENGTH).parse::<usize>() {
        Ok(length) if length > limit => Err(too_large(limit)),
        _ => Ok(()),
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(ErrorKind::TooLarge, format!("length limit exceeded: expected a body of at most {limit} bytes"))
}

/// Reads a body of at most `limit` bytes within `time`.
///
/// # Errors
/// [`ApiError`] if it is too large, comes too slowly, breaks off, or memory is taken.
pub async fn read(body: &mut Incoming, limit: usize, time: Duration, memory: &Memory) -> Result<Held, ApiError> {
    let slow = || ApiError::new(ErrorKind::SlowBody, format!("expected the body within {} s", time.as_secs()));
    let read = async {
        let mut held = Held::default();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ApiError::new(ErrorKind::Syntax, "the body breaks off"))?;
            let Ok(data) = frame.into_data() else { continue };
            let (from, to) = (held.bytes.len(), held.bytes.len() + data.len());
            if to > limit {
                return Err(too_large(limit));
            }
            memory.add_body(&mut held.share, from, to)?;
            held.bytes.extend_from_slice(&data);
        }
        Ok(held)
    };
    timeout(time, read).await.map_err(|_| slow())?
}

/// Reads on and drops what a client sends whose request was refused.
pub async fn drain(body: &mut Incoming, limit: usize) {
    let most = limit.saturating_mul(READ_PAST_LIMIT);
    if body.is_end_stream() || body.size_hint().lower() > most as u64 {
        return;
    }
    let read = async {
        let mut dropped = 0;
        while let Some(Ok(frame)) = body.frame().await {
            dropped += frame.data_ref().map_or(0, Bytes::len);
            if dropped > most {
                break;
            }
        }
    };
    // What comes later is the connection's affair.
    let _ = timeout(DRAIN, read).await;
}

//! A request's body: in time, of bounded size, and of what all bodies together may take.

use super::error::{ApiError, ErrorKind};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// A body that is refused is read to its end, up to this many times the limit, so that the client reads the answer
/// instead of finding its connection reset while it sends.
const READ_PAST_LIMIT: usize = 8;

/// How long a client whose request was refused may go on sending.
const DRAIN: Duration = Duration::from_secs(2);

/// A body in memory, and its share of what all bodies may take.
pub struct Held<'a> {
    /// The body.
    pub bytes: Vec<u8>,
    /// Given back when it is dropped.
    pub share: Option<SemaphorePermit<'a>>,
}

/// Checks that a body is declared as JSON, not compressed, and not too large.
///
/// # Errors
/// [`ErrorKind::MediaType`] or [`ErrorKind::TooLarge`].
pub fn check_head(headers: &HeaderMap, limit: usize) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = text(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json =
        media_type == "application/json" || (media_type.starts_with("application/") && media_type.ends_with("+json"));
    if !is_json {
        let message = "expected a request with `Content-Type: application/json`";
        return Err(ApiError::new(ErrorKind::MediaType, message));
    }
    if !matches!(text(CONTENT_ENCODING), "" | "identity") {
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

/// Reads a body of at most `limit` bytes within `time`; `memory` has a permit for each byte that all bodies may take.
///
/// # Errors
/// [`ApiError`] if it is too large, comes too slowly, breaks off, or memory is taken.
pub async fn read<'a>(
    body: &mut Incoming,
    limit: usize,
    time: Duration,
    memory: &'a Semaphore,
) -> Result<Held<'a>, ApiError> {
    let slow = || ApiError::new(ErrorKind::SlowBody, format!("expected the body within {} s", time.as_secs()));
    let read = async {
        let mut held = Held { bytes: Vec::new(), share: None };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ApiError::new(ErrorKind::Syntax, "the body breaks off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if held.bytes.len() + data.len() > limit {
                return Err(too_large(limit));
            }
            let busy = |_| ApiError {
                retry_after_s: Some(1),
                ..ApiError::new(ErrorKind::Overloaded, "too many large requests at once")
            };
            let share = memory.try_acquire_many(data.len() as u32).map_err(busy)?;
            match &mut held.share {
                Some(all) => all.merge(share),
                none => *none = Some(share),
            }
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

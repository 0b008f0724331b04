//! Which pages of which sites may read answers in a browser (cross-origin resource sharing).

use super::Answered;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue,
    ORIGIN, VARY,
};
use hyper::{Method, Response, StatusCode};

/// What a page may send, beside what every page may.
const REQUEST_HEADERS: &str = "authorization, content-type, x-request-id, traceparent";

/// What a page may read of an answer, beside what every page may.
const RESPONSE_HEADERS: &str = "retry-after, x-request-id, x-truncated-tokens, x-truncated-inputs, x-windows, \
    x-compute-time, x-compute-characters, x-compute-tokens, x-total-time, x-tokenization-time, x-queue-time, \
    x-inference-time";

/// An origin that is none.
#[derive(Debug, thiserror::Error)]
#[error("origin: expected `*` or one such as https://example.org:8443, found {0:?}")]
pub struct CorsError(String);

/// Sites whose pages may ask.
#[derive(Clone, Debug)]
pub struct Cors {
    /// `None` allows every one.
    origins: Option<Vec<HeaderValue>>,
}

impl Cors {
    /// Allows these origins, or all with `*`.
    ///
    /// # Errors
    /// [`CorsError`] if one is none.
    pub fn new(origins: &[String]) -> Result<Cors, CorsError> {
        if origins.iter().any(|origin| origin == "*") {
            return Ok(Cors { origins: None });
        }
        let parse = |origin: &String| {
            // What browsers send: scheme, host in lower case, and the port if it is not the scheme's own.
            let host = origin.strip_prefix("https://").or(origin.strip_prefix("http://")).unwrap_or_default();
            let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:[]".contains(&byte);
            let is_legal = !host.is_empty() && host.bytes().all(legal);
            let value = HeaderValue::from_str(origin).ok().filter(|_| is_legal);
            value.ok_or_else(|| CorsError(origin.clone()))
        };
        Ok(Cors { origins: Some(origins.iter().map(parse).collect::<Result<_, _>>()?) })
    }

    /// What is told of a request's origin: itself if it may ask.
    fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let origin = request.get(ORIGIN)?;
        match &self.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => origins.contains(origin).then(|| origin.clone()),
        }
    }

    /// The answer to a browser that asks whether a page may ask; `None` for other requests.
    pub(super) fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<Answered> {
        let asks = method == Method::OPTIONS && request.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || !request.contains_key(ORIGIN) {
            return None;
        }
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        if self.allowed(request).is_some() {
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
        }
        Some(response)
    }

    /// Says in an answer whether the page that asked may read it.
    pub(super) fn mark(&self, request: &HeaderMap, response: &mut Answered) {
        let allowed = self.allowed(request);
        let headers = response.headers_mut();
        if self.origins.is_some() {
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
        if let Some(origin) = allowed {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_browser_sends_as_an_origin_is_refused() {
        for wrong in ["example.org", "https://", "https://example.org/", "https://Example.org", "ftp://a", "null", ""] {
            assert!(Cors::new(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
        for right in ["*", "http://localhost:3000", "https://a.example.org", "http://[::1]:80"] {
            assert!(Cors::new(&[right.to_owned()]).is_ok(), "{right}");
        }
    }
}

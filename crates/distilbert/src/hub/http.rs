//! Requests to the hub: redirects followed by hand so that the token stays with the hub, failures repeated a bounded
//! number of times.

use std::thread;
use std::time::Duration;

use ureq::Body;
use ureq::http::{HeaderMap, Response, Uri, header};

use super::{HubConfig, HubError};

/// Attempts in a row that may fail before a request is given up.
pub(super) const MAX_ATTEMPTS: u32 = 4;

const MAX_REDIRECTS: u32 = 8;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest silence, of a server that has accepted the request as of one in the middle of a file.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Talks to one hub.
pub(super) struct Client<'a> {
    agent: ureq::Agent,
    config: &'a HubConfig,
}

/// How a request is made.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Method {
    /// Headers only. Redirects end before the storage of a large file: the answer that sends there describes the file
    /// (`X-Linked-ETag`). Small files are redirected too, within the hub, and described where that ends.
    Head,
    /// With the body, from this byte on.
    Get { from_byte: u64 },
}

impl<'a> Client<'a> {
    pub fn new(config: &'a HubConfig) -> Result<Self, HubError> {
        let proxy = config.proxy.as_deref().map(ureq::Proxy::new).transpose().map_err(|error| HubError::Transport {
            url: config.proxy.clone().unwrap_or_default(),
            reason: error.to_string(),
        })?;
        let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build();
        let agent = ureq::Agent::config_builder()
            .proxy(proxy)
            .tls_config(tls)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT))
            .user_agent(concat!("distilbert/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self { agent, config })
    }

    /// One answer that is neither a redirect nor a passing failure; [`HubError::Transport`] or [`HubError::Status`] after
    /// `attempts` failures.
    pub fn request(&self, method: Method, url: &str, attempts: u32) -> Result<Response<Body>, HubError> {
        let mut failed = 0;
        loop {
            let error = match self.follow(method, url) {
                Ok(response) if is_passing(response.status().as_u16()) => {
                    HubError::Status { url: url.to_owned(), status: response.status().as_u16() }
                }
                Err(error @ HubError::Transport { .. }) => error,
                result => return result,
            };
            failed += 1;
            if failed >= attempts {
                return Err(error);
            }
            self.wait(failed);
        }
    }

    /// Sleeps before attempt `failed + 1`.
    pub fn wait(&self, failed: u32) {
        thread::sleep(self.config.retry_delay.saturating_mul(1 << (failed - 1).min(6)));
    }

    /// One attempt, redirects followed.
    pub fn follow(&self, method: Method, url: &str) -> Result<Response<Body>, HubError> {
        let answer = |reason: String| HubError::Answer { url: url.to_owned(), reason };
        let parse = |text: &str| text.parse::<Uri>().map_err(|error| answer(format!("bad address `{text}`: {error}")));
        let hub = origin(&parse(&self.config.endpoint)?);
        let mut target = parse(url)?;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(method, &target, origin(&target) == hub)?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = header_text(response.headers(), header::LOCATION.as_str());
            let location = location.ok_or_else(|| answer("a redirect without a location".into()))?;
            let (scheme, authority) = origin(&target);
            let next = if location.starts_with('/') && !location.starts_with("//") {
                parse(&format!("{scheme}://{authority}{location}"))?
            } else {
                parse(location)?
            };
            let next_scheme = next.scheme_str().unwrap_or_default();
            if next_scheme != "https" && next_scheme != scheme {
                return Err(answer(format!("a redirect from {scheme} to `{location}`")));
            }
            let describes_file = method == Method::Head && response.headers().contains_key("x-linked-etag");
            if describes_file && origin(&next) != origin(&target) {
                return Ok(response);
            }
            target = next;
        }
        Err(answer(format!("more than {MAX_REDIRECTS} redirects")))
    }

    fn send(&self, method: Method, target: &Uri, is_hub: bool) -> Result<Response<Body>, HubError> {
        let mut request = match method {
            Method::Head => self.agent.head(target),
            Method::Get { .. } => self.agent.get(target),
        };
        // Sizes and offsets count the file's own bytes.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if let Method::Get { from_byte: from @ 1.. } = method {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        if let Some(token) = self.config.token.as_ref().filter(|_| is_hub) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request.call().map_err(|error| {
            let (url, reason) = (target.to_string(), error.to_string());
            if is_tls(&error) { HubError::Tls { url, reason } } else { HubError::Transport { url, reason } }
        })
    }
}

/// Failures that may be gone a moment later.
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// Whether the two sides could not agree on a secure connection, as opposed to having none.
fn is_tls(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => true,
        // What the TLS library finds wrong while it reads and writes.
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// Scheme and authority: who gets to see what is sent there.
fn origin(uri: &Uri) -> (String, String) {
    let authority = uri.authority().map(|authority| authority.as_str().to_ascii_lowercase());
    (uri.scheme_str().unwrap_or_default().to_owned(), authority.unwrap_or_default())
}

/// A header's value, if it is there and is text.
pub(super) fn header_text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

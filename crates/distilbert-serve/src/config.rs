//! Settings of a server.

use crate::engine::EngineLimits;
use crate::http::cors::Cors;
use std::net::SocketAddr;
use std::time::Duration;

/// What a server allows, and where it listens.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens for those who manage its models.
    pub manage: Option<SocketAddr>,
    /// Batches and queue.
    pub engine: EngineLimits,
    /// Bytes that requests may take together, and models that come later; `None` bounds only what bodies take.
    pub memory: Option<usize>,
    /// Connections open at once; past that those without a request make room, or else more wait.
    pub max_connections: usize,
    /// Inputs of one request.
    pub max_texts: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Whether texts that are too long are cut where the request does not say.
    pub auto_truncate: bool,
    /// Whether they are read in windows instead, on routes that can, where the request does not say.
    pub windows: bool,
    /// Sites whose pages may ask; none if `None`.
    pub cors: Option<Cors>,
    /// From a request's head to its answer.
    pub deadline: Duration,
    /// For a request's head and for its body, for the next request of a connection that is kept open, and for a client
    /// that stops reading.
    pub io_timeout: Duration,
    /// For a model that is loaded while others are served.
    pub load_timeout: Duration,
}

impl Config {
    /// Defaults for everything but the address.
    pub fn new(address: SocketAddr) -> Config {
        Config {
            address,
            manage: None,
            engine: EngineLimits { batch_tokens: 512, queue_tokens: 65_536 },
            memory: None,
            max_connections: 4096,
            max_texts: 2048,
            max_body_bytes: 2_000_000,
            auto_truncate: true,
            windows: false,
            cors: None,
            deadline: Duration::from_secs(60),
            io_timeout: Duration::from_secs(30),
            load_timeout: Duration::from_secs(600),
        }
    }
}

//! Models behind HTTP: one queue, batches without padding, and the protocols that clients speak.
//!
//! [`Server::start`] takes models that are loaded and says where it listens. A request goes from `connection` to `http`,
//! which finds its route; the route turns its JSON into tokens; the `engine` packs what all clients sent into batches;
//! the route turns what the model says into JSON. Nothing here reads files or the environment, or prints.

#![forbid(unsafe_code)]

pub mod config; // limits
mod compute; // work beside the threads that answer
mod connection; // sockets -> requests
mod engine; // sequences of all clients -> batches -> outputs
mod http; // requests -> responses
mod keys; // who may ask, and how much
pub mod log; // what is said of a request
mod memory; // what requests may take together
mod metrics; // what is counted
pub mod model; // models by name and ability
mod places; // so many connections at once
mod presence; // whether a client is still there
mod routes; // JSON -> sequences, outputs -> JSON
mod tls; // certificate and key

pub use config::Config;
pub use engine::EngineLimits;
pub use http::cors::{Cors, CorsError};
pub use http::manage::Load;
pub use keys::{Keys, KeysError};
pub use log::{Event, Log, TraceParent};
pub use memory::{Share, largest_text};
pub use model::{ModelError, Parity, ServedModel, ServedTask};
pub use tls::{Tls, TlsError};

use compute::Compute;
use connection::{Door, Listening};
use distilbert_kernels::Runtime;
use engine::Engine;
use http::error::ApiError;
use http::manage::LOADS_AT_ONCE;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use keys::Holder;
use memory::Memory;
use metrics::Metrics;
use model::Models;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, watch};

/// Threads that answer: the work is the engine's, and that of `compute`.
const HTTP_THREADS: usize = 2;

/// A batch that runs for longer has not come to an end that one can wait for.
const STUCK_AFTER: Duration = Duration::from_secs(300);

/// What all requests share.
struct App {
    config: Config,
    models: Models,
    engine: Engine,
    compute: Compute,
    metrics: Arc<Metrics>,
    rt: Arc<Runtime>,
    log: Log,
    keys: Option<Keys>,
    /// Wishes for models.
    loads: Sender<Load>,
    load_places: Arc<Semaphore>,
    started: SystemTime,
    /// True when the server is to end.
    stopping: watch::Sender<bool>,
    memory: Arc<Memory>,
    next_request: AtomicU64,
}

impl App {
    /// The client's own id if it is one that can be repeated in a header and a log, or a new one.
    fn request_id(&self, given: Option<&HeaderValue>) -> String {
        let legal = |text: &&str| {
            (1..=128).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
        };
        if let Some(given) = given.and_then(|value| value.to_str().ok()).filter(legal) {
            return given.to_owned();
        }
        let start = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        format!("{start:x}-{:x}", self.next_request.fetch_add(1, Ordering::Relaxed))
    }

    /// Who asks; `None` if keys are not asked for.
    fn holder(&self, headers: &HeaderMap) -> Result<Option<Holder<'_>>, ApiError> {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        self.keys.as_ref().map(|keys| keys.holder(given)).transpose()
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Ends when the server is to end.
    async fn stops(&self) {
        // The sender is here, so the channel is open.
        let _ = self.stopping.subscribe().wait_for(|&stopping| stopping).await;
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start the server's threads: {0}")]
    Threads(#[source] std::io::Error),
    /// Two metrics of one name, which would be a mistake here.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A model cannot be served.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A server that listens.
pub struct Server {
    app: Arc<App>,
    threads: tokio::runtime::Runtime,
    listening: Listening,
    managing: Option<Listening>,
    loads: Mutex<Receiver<Load>>,
}

/// What a server is made from.
pub struct Setup {
    /// Where it listens and what it allows.
    pub config: Config,
    /// What it serves.
    pub models: Vec<ServedModel>,
    /// What the models run on. Whoever loads more of them shares it.
    pub rt: Arc<Runtime>,
    /// Who may ask; everybody if `None`.
    pub keys: Option<Keys>,
    /// Encrypts connections, but for those of management, which never leave the machine.
    pub tls: Option<Tls>,
    /// Where events go.
    pub log: Log,
}

/// How a server came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every request that it had taken was answered.
    Whole,
    /// The time for that was over.
    InPart,
}

impl Server {
    /// Listens, and answers from now on.
    ///
    /// # Errors
    /// [`ServeError`] if the address is taken, threads are refused, or a model cannot be served.
    pub fn start(setup: Setup) -> Result<Server, ServeError> {
        let Setup { config, models, rt, keys, tls, log } = setup;
        let metrics = Arc::new(Metrics::new()?);
        let (wishes, loads) = channel();
        let engine =
            Engine::start(Arc::clone(&rt), config.engine, Arc::clone(&metrics)).map_err(ServeError::Threads)?;
        let app = App {
            models: Models::default(),
            engine,
            compute: Compute::start().map_err(ServeError::Threads)?,
            metrics,
            rt,
            log,
            keys,
            loads: wishes,
            load_places: Arc::new(Semaphore::new(LOADS_AT_ONCE)),
            started: SystemTime::now(),
            stopping: watch::Sender::new(false),
            memory: Arc::new(Memory::new(config.memory)),
            next_request: AtomicU64::new(0),
            config,
        };
        for model in models {
            app.models.add(model)?;
        }
        let app = Arc::new(app);
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(HTTP_THREADS)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(ServeError::Threads)?;
        let listen = |address, door, tls: Option<&Tls>| {
            let listening = threads.block_on(Listening::start(Arc::clone(&app), address, door, tls));
            listening.map_err(|source| ServeError::Listen { address, source })
        };
        let listening = listen(app.config.address, Door::Public, tls.as_ref())?;
        let managing = app.config.manage.map(|address| listen(address, Door::Management, None)).transpose()?;
        Ok(Server { app, threads, listening, managing, loads: Mutex::new(loads) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listening.address
    }

    /// Where it listens for those who manage its models.
    pub fn management_address(&self) -> Option<SocketAddr> {
        self.managing.as_ref().map(|managing| managing.address)
    }

    /// The next wish for a model, if one comes within `time`.
    pub fn next_load(&self, time: Duration) -> Option<Load> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(time).ok()
    }

    /// Says from now on that it is not ready, and after `delay`, within which it still takes and answers what comes, takes
    /// no more connections, answers the requests that it has, for at most `limit`, and ends.
    pub fn drain(self, delay: Duration, limit: Duration) -> Drained {
        self.app.stopping.send_replace(true);
        // Wishes that nobody will fulfil are told so.
        drop(self.loads);
        std::thread::sleep(delay);
        let drained = self.threads.block_on(async {
            if let Some(managing) = self.managing {
                managing.drain(limit.min(Duration::from_secs(1))).await;
            }
            self.listening.drain(limit).await
        });
        // What is left is cut off: its tickets fall, so the engine has nothing to do any more.
        self.threads.shutdown_timeout(Duration::from_secs(1));
        self.app.engine.close();
        drained
    }
}

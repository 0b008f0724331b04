//! Sockets: accepted up to a limit, kept open between requests, closed when they are slow or the server ends.

use crate::{App, Drained, http};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

/// Pause after the system refused to accept, which it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is behind a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The routes.
    Public,
    /// The models.
    Management,
}

/// A socket that is listened on.
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// True when the server ends.
    stop: watch::Sender<bool>,
    /// A permit for each connection.
    connections: Arc<Semaphore>,
    max_connections: usize,
}

impl Listening {
    /// Listens, and accepts in the background.
    pub async fn start(app: Arc<App>, address: SocketAddr, door: Door) -> std::io::Result<Listening> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let max_connections = app.config.max_connections;
        let connections = Arc::new(Semaphore::new(max_connections));
        tokio::spawn(accept(listener, app, door, Arc::clone(&connections), stopped));
        Ok(Listening { address, stop, connections, max_connections })
    }

    /// Accepts no more, lets every connection end its request, and waits for that.
    pub async fn drain(self, limit: Duration) -> Drained {
        // Without receivers nobody is left to stop.
        let _ = self.stop.send(true);
        let all = self.connections.acquire_many(self.max_connections as u32);
        match timeout(limit, all).await {
            Ok(_) => Drained::Whole,
            Err(_) => Drained::InPart,
        }
    }
}

async fn accept(
    listener: TcpListener,
    app: Arc<App>,
    door: Door,
    connections: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        // More clients than there are places wait unaccepted.
        let next = async {
            let place = Arc::clone(&connections).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            _ = stopped.wait_for(|&stopped| stopped) => return,
        };
        match (place, accepted) {
            (Ok(place), Ok((stream, peer))) => {
                tokio::spawn(serve(stream, peer, Arc::clone(&app), door, place, stopped.clone()));
            }
            _ => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Answers the requests of one connection, one after the other.
async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    app: Arc<App>,
    door: Door,
    _place: OwnedSemaphorePermit,
    mut stopped: watch::Receiver<bool>,
) {
    let _counted = Counted::new(&app);
    // Answers are written whole; a system that refuses this costs time only.
    let _ = stream.set_nodelay(true);
    let time = app.config.io_timeout;
    // A client that does not read. Reading has limits of its own, for heads here and for bodies in `http`.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(time));
    let stream = Box::pin(stream);
    let of_requests = Arc::clone(&app);
    let service = service_fn(move |request| {
        let app = Arc::clone(&of_requests);
        async move {
            Ok::<_, Infallible>(match door {
                Door::Public => http::handle(app, peer.ip(), request).await,
                Door::Management => http::manage::handle(app, peer.ip(), request).await,
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(time)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // Errors here are the client's: it broke off, sent what is no HTTP, or was too slow.
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|&stopped| stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Counts a connection while it lives.
struct Counted<'a>(&'a App);

impl<'a> Counted<'a> {
    fn new(app: &'a App) -> Counted<'a> {
        app.metrics.connections.inc();
        Counted(app)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}

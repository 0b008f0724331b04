//! Sockets: accepted up to a limit, kept open between requests, closed when they are slow or the server ends.

use crate::places::{Place, Places};
use crate::presence::Watched;
use crate::tls::Tls;
use crate::{App, Drained, http};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

/// Pause after the system refused to accept, which it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bytes that are read ahead on a connection.
const READ_AHEAD: usize = 64 * 1024;

/// How long a connection that is to end may take for that before its state is looked at.
const LINGER: Duration = Duration::from_millis(20);

/// What is behind a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The routes.
    Public,
    /// The models.
    Management,
}

/// What every connection of a socket needs.
#[derive(Clone)]
struct Behind {
    app: Arc<App>,
    door: Door,
    tls: Option<TlsAcceptor>,
}

/// A socket that is listened on.
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// True when the server ends.
    stop: watch::Sender<bool>,
    places: Arc<Places>,
}

impl Listening {
    /// Listens, and accepts in the background.
    pub async fn start(
        app: Arc<App>,
        address: SocketAddr,
        door: Door,
        tls: Option<&Tls>,
    ) -> std::io::Result<Listening> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let places = Places::new(app.config.max_connections);
        let behind = Behind { app, door, tls: tls.map(Tls::acceptor) };
        tokio::spawn(accept(listener, behind, Arc::clone(&places), stopped));
        Ok(Listening { address, stop, places })
    }

    /// Accepts no more, lets every connection end its request, and waits for that.
    pub async fn drain(self, limit: Duration) -> Drained {
        // Without receivers nobody is left to stop.
        let _ = self.stop.send(true);
        match timeout(limit, self.places.all_free()).await {
            Ok(()) => Drained::Whole,
            Err(_) => Drained::InPart,
        }
    }
}

async fn accept(listener: TcpListener, behind: Behind, places: Arc<Places>, mut stopped: watch::Receiver<bool>) {
    loop {
        // Who is next waits for a place; those behind wait unaccepted.
        let next = async {
            let (stream, peer) = listener.accept().await.ok()?;
            Some((stream, peer, places.take(peer.ip()).await))
        };
        let next = tokio::select! {
            next = next => next,
            _ = stopped.wait_for(|&stopped| stopped) => return,
        };
        match next {
            Some((stream, peer, place)) => {
                tokio::spawn(serve(stream, peer, behind.clone(), place, stopped.clone()));
            }
            None => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Answers the requests of one connection, once it is encrypted if it is to be.
async fn serve(stream: TcpStream, peer: SocketAddr, behind: Behind, place: Place, mut stopped: watch::Receiver<bool>) {
    let Behind { app, door, tls } = behind;
    let _counted = Counted::new(&app);
    // Answers are written whole; a system that refuses this costs time only.
    let _ = stream.set_nodelay(true);
    let time = app.config.io_timeout;
    // A client that does not read. Reading has limits of its own, for heads here and for bodies in `http`.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(time));
    let stream = Box::pin(stream);
    let Some(tls) = tls else { return answer(stream, peer, &app, door, &place, stopped).await };
    let greeted = tokio::select! {
        greeted = timeout(time, tls.accept(stream)) => greeted,
        _ = stopped.wait_for(|&stopped| stopped) => return,
        () = place.told_to_end() => return,
    };
    // Who does not speak TLS, or is too slow, is gone.
    if let Ok(Ok(stream)) = greeted {
        answer(stream, peer, &app, door, &place, stopped).await;
    }
}

/// Answers requests, one after the other.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    app: &Arc<App>,
    door: Door,
    place: &Place,
    mut stopped: watch::Receiver<bool>,
) {
    let stream = Watched::new(stream);
    let (watched, watched_at_end) = (stream.clone(), stream.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, watched) = (Arc::clone(app), watched.clone());
        async move {
            let _request = place.request();
            let can_be_asked = request.version() == Version::HTTP_11;
            let answer = async {
                match door {
                    Door::Public => http::handle(app, peer.ip(), request).await,
                    Door::Management => http::manage::handle(app, peer.ip(), request).await,
                }
            };
            tokio::select! {
                biased;
                answer = answer => Ok(answer),
                () = watched.gone(can_be_asked) => Err(Gone),
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.config.io_timeout)
        .max_buf_size(READ_AHEAD)
        // Whether a client that sends no more has gone is found out by `presence`.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // Errors here are the client's: it broke off, sent what is no HTTP, or was too slow.
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|&stopped| stopped) => {}
        () = place.told_to_end() => {}
    }
    connection.as_mut().graceful_shutdown();
    // Half a head is no request; an answer that is being written is a part of one.
    while timeout(LINGER, connection.as_mut()).await.is_err() {
        if !place.is_busy() && !watched_at_end.is_writing() {
            return;
        }
    }
}

/// The client of a request has gone, so there is nobody to answer.
#[derive(Debug, thiserror::Error)]
#[error("the client has gone")]
struct Gone;

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

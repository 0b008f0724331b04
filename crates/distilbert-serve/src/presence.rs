//! Whether a client is still there while its answer is made.
//!
//! A client that closes its connection and one that only says that it sends no more look alike: both send an end. The
//! first one's system refuses whatever comes after that. So once there is an end the client is sent an interim response
//! from time to time, which every client of HTTP/1.1 passes over; when it is refused, the client has gone. What a client
//! sent beyond its request is read ahead, since the end stands behind it.
//!
//! # Source
//! RFC 9110, section 15.2: a client must be able to read interim responses that it did not ask for.

use std::collections::VecDeque;
use std::io::{Error, IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The response that says nothing.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Until the first interim response, and between the last ones; the pauses between them double.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Bytes read ahead. An end behind more than these is seen later.
const MOST_AHEAD: usize = 16 * 1024;

/// A stream that can be watched for its end while nobody reads it.
pub struct Watched<S> {
    inner: Arc<Mutex<Inner<S>>>,
}

impl<S> Clone for Watched<S> {
    fn clone(&self) -> Watched<S> {
        Watched { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<S> {
    stream: S,
    /// Read, and not yet asked for.
    ahead: VecDeque<u8>,
    ended: bool,
    /// A response is written in part.
    is_writing: bool,
    /// What of an interim response is not written yet.
    interim: &'static [u8],
}

impl<S: AsyncRead + AsyncWrite + Unpin> Watched<S> {
    /// Watches a stream.
    pub fn new(stream: S) -> Watched<S> {
        let inner = Inner { stream, ahead: VecDeque::new(), ended: false, is_writing: false, interim: &[] };
        Watched { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Nothing panics while it holds the lock, so poisoning is ignored.
    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a response is written in part.
    pub fn is_writing(&self) -> bool {
        self.lock().is_writing
    }

    /// Ends when the client has gone. One that cannot be asked, since it speaks HTTP/1.0, has gone with the end of what it
    /// sends.
    pub async fn gone(&self, can_be_asked: bool) {
        let ended = std::future::poll_fn(|context| self.lock().poll_end(context)).await;
        if ended.is_err() || !can_be_asked {
            return;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
            if std::future::poll_fn(|context| self.lock().poll_interim(context)).await.is_err() {
                return;
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    /// Reads ahead to the end of what the client sends.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut bytes = [0; 4096];
        while !self.ended && self.ahead.len() < MOST_AHEAD {
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            self.ended = buffer.filled().is_empty();
            self.ahead.extend(buffer.filled());
            // Whoever reads the stream was told of these bytes, and must look again.
            context.waker().wake_by_ref();
        }
        if self.ended { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Sends an interim response, unless another one is on its way.
    fn poll_interim(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.is_writing {
            return Poll::Ready(Ok(()));
        }
        if self.interim.is_empty() {
            self.interim = INTERIM;
        }
        ready!(self.poll_rest_of_interim(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_rest_of_interim(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.interim.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, self.interim))?;
            if written == 0 {
                return Poll::Ready(Err(Error::from(std::io::ErrorKind::WriteZero)));
            }
            self.interim = &self.interim[written..];
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let mut inner = self.lock();
        if inner.ahead.is_empty() {
            if inner.ended {
                return Poll::Ready(Ok(()));
            }
            return Pin::new(&mut inner.stream).poll_read(context, buffer);
        }
        let (first, _) = inner.ahead.as_slices();
        let count = first.len().min(buffer.remaining());
        buffer.put_slice(&first[..count]);
        inner.ahead.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let mut inner = self.lock();
        ready!(inner.poll_rest_of_interim(context))?;
        inner.is_writing = true;
        Pin::new(&mut inner.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let mut inner = self.lock();
        ready!(inner.poll_rest_of_interim(context))?;
        inner.is_writing = true;
        Pin::new(&mut inner.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut inner = self.lock();
        ready!(Pin::new(&mut inner.stream).poll_flush(context))?;
        inner.is_writing = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.lock().stream).poll_shutdown(context)
    }
}

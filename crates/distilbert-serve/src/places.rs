//! Places for connections: so many at once, and none kept by who does nothing with it while others wait.
//!
//! When all are taken and somebody comes, a connection that waits for its next request is closed: of the address that
//! has the most of them, the one that waits longest. One that has a request keeps its place.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How often a connection that may be closed is looked for while somebody waits.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The places of a socket.
pub struct Places {
    free: Arc<Semaphore>,
    count: usize,
    taken: Mutex<Vec<Taken>>,
}

struct Taken {
    id: usize,
    address: IpAddr,
    is_busy: bool,
    /// Since when it has had no request; `None` while it has one, or once it is told to end.
    idle_since: Option<Instant>,
    /// Tells it to end.
    close: Arc<Notify>,
}

/// A connection's place.
pub struct Place {
    places: Arc<Places>,
    id: usize,
    close: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// For `count` connections.
    pub fn new(count: usize) -> Arc<Places> {
        Arc::new(Places { free: Arc::new(Semaphore::new(count)), count, taken: Mutex::default() })
    }

    /// A place for a connection from this address, as soon as there is one.
    pub async fn take(self: &Arc<Places>, address: IpAddr) -> Place {
        let mut wait = Duration::ZERO;
        let permit = loop {
            // The semaphore is never closed, so what it gives is a permit.
            if let Ok(Ok(permit)) = timeout(wait, Arc::clone(&self.free).acquire_owned()).await {
                break permit;
            }
            self.close_one();
            wait = LOOK_AGAIN;
        };
        let close = Arc::new(Notify::new());
        let mut taken = self.lock();
        let id = taken.iter().map(|taken| taken.id + 1).max().unwrap_or(0);
        taken.push(Taken { id, address, is_busy: false, idle_since: Some(Instant::now()), close: Arc::clone(&close) });
        Place { places: Arc::clone(self), id, close, _permit: permit }
    }

    /// Ends when every connection has.
    pub async fn all_free(&self) {
        // The semaphore is never closed.
        let _ = self.free.acquire_many(self.count as u32).await;
    }

    /// Tells a connection without a request to end, if there is one.
    fn close_one(&self) {
        let mut taken = self.lock();
        let mut of_address: HashMap<IpAddr, usize> = HashMap::new();
        for taken in taken.iter() {
            *of_address.entry(taken.address).or_default() += 1;
        }
        let idle = taken.iter_mut().filter(|taken| taken.idle_since.is_some());
        let greediest = idle.max_by_key(|taken| (of_address[&taken.address], Reverse(taken.idle_since)));
        if let Some(taken) = greediest {
            // It is told once.
            taken.idle_since = None;
            taken.close.notify_one();
        }
    }

    /// Nothing panics while it holds the lock, so poisoning is ignored.
    fn lock(&self) -> MutexGuard<'_, Vec<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Ends when the connection is to end because others wait.
    pub async fn told_to_end(&self) {
        self.close.notified().await;
    }

    /// Whether it has a request.
    pub fn is_busy(&self) -> bool {
        self.places.lock().iter().any(|taken| taken.id == self.id && taken.is_busy)
    }

    /// It has a request until the guard is dropped.
    pub fn request(&self) -> Request<'_> {
        self.change(|taken| {
            taken.idle_since = None;
            taken.is_busy = true;
        });
        Request(self)
    }

    fn change(&self, change: impl FnOnce(&mut Taken)) {
        self.places.lock().iter_mut().find(|taken| taken.id == self.id).map(change);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().retain(|taken| taken.id != self.id);
    }
}

/// A request of a connection.
pub struct Request<'a>(&'a Place);

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.0.change(|taken| {
            taken.idle_since = Some(Instant::now());
            taken.is_busy = false;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn the_greediest_addresss_longest_idle_connection_makes_room() {
        let address = |last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        let places = Places::new(5);
        let other = places.take(address(2)).await;
        let mut greedy = Vec::new();
        for _ in 0..4 {
            greedy.push(places.take(address(1)).await);
        }
        let request = greedy[0].request();
        let closes = async {
            greedy[1].told_to_end().await;
        };
        // What is told to end has not ended, so nobody has its place yet.
        let waiting = places.take(address(3));
        tokio::pin!(waiting);
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("a place that there is not"),
            () = closes => {}
        }
        assert!(greedy[0].is_busy() && !greedy[1].is_busy());
        drop(request);
        drop(greedy.remove(1));
        let third = waiting.await;
        drop(other);
        drop(greedy);
        let all = places.all_free();
        tokio::pin!(all);
        let is_pending =
            std::future::poll_fn(|context| std::task::Poll::Ready(all.as_mut().poll(context).is_pending()));
        assert!(is_pending.await);
        drop(third);
        all.await;
    }
}

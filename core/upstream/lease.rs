//! A connection in the hands of one call.
//!
//! Whoever holds a connection holds its driver's handle: dropping an unfinished HTTP/1.1 call ends the driver and with it
//! the socket, dropping an HTTP/2 call resets its stream.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{Either, pending},
};
use http::{HeaderMap, HeaderName, Request, Response, Uri, header};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use tokio::task::AbortHandle;

use super::{
    Frames,
    connect::{Forward, Place},
    pool::{IDLE, Origin, lock},
};

/// An HTTP/1.1 connection, closed when dropped.
#[derive(Debug)]
pub struct Http1 {
    pub sender: http1::SendRequest<Frames>,
    pub driver: AbortHandle,
    pub forward: Option<Forward>,
    /// How long it may lie idle.
    pub patience: Duration,
}

impl Drop for Http1 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An HTTP/2 connection that calls share.
#[derive(Debug)]
pub struct Shard {
    pub sender: http2::SendRequest<Frames>,
    pub streams: AtomicUsize,
    /// It refused a call: no more of them.
    pub retired: AtomicBool,
    /// Streams that the other side allows at once.
    pub allowed: Arc<AtomicUsize>,
    pub used: Mutex<Instant>,
    pub driver: AbortHandle,
}

impl Shard {
    pub fn usable(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && !self.sender.is_closed()
    }

    pub fn rested(&self, now: Instant) -> bool {
        now.saturating_duration_since(*lock(&self.used)) > IDLE
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What became of a call: the head of its answer, or why there is none, and the call where nothing of it was written.
pub type Sent = std::result::Result<Response<Incoming>, TrySendError<Request<Frames>>>;

/// A connection, or a stream's place on one, for one call. Dropped unfinished it cancels the call.
pub enum Lease {
    Http1(Held),
    Http2(Ride),
}

pub struct Held {
    pub connection: Option<Http1>,
    pub origin: Arc<Origin>,
    pub reused: bool,
}

pub struct Ride {
    pub shard: Arc<Shard>,
    pub reused: bool,
}

impl Drop for Ride {
    fn drop(&mut self) {
        *lock(&self.shard.used) = Instant::now();
        self.shard.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    pub fn reused(&self) -> bool {
        match self {
            Lease::Http1(held) => held.reused,
            Lease::Http2(ride) => ride.reused,
        }
    }

    /// The request's target in the form that this connection wants.
    pub fn address(&self, message: &mut Request<Frames>, url: &Uri, place: &Place) {
        let Lease::Http1(held) = self else {
            message.headers_mut().remove(header::HOST);
            *message.uri_mut() = url.clone();
            return;
        };
        message.headers_mut().insert(header::HOST, held.origin.host().clone());
        let forward = held.connection.as_ref().and_then(|c| c.forward.as_ref());
        match forward {
            None => {
                let path = url.path_and_query().cloned();
                *message.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
            }
            Some(forward) => {
                debug_assert!(!place.https, "https goes through a tunnel");
                *message.uri_mut() = url.clone();
                if let Some(auth) = &forward.auth {
                    message.headers_mut().insert(header::PROXY_AUTHORIZATION, auth.clone());
                }
            }
        }
    }

    /// Hands the message over; what comes back waits for the answer's head.
    pub fn try_send(&mut self, message: Request<Frames>) -> impl Future<Output = Sent> + Send + use<> {
        match self {
            Lease::Http1(Held { connection: Some(connection), .. }) => {
                Either::Left(connection.sender.try_send_request(message))
            }
            // A lease without a connection was released, and released leases are consumed.
            Lease::Http1(Held { connection: None, .. }) => Either::Right(pending().boxed()),
            Lease::Http2(ride) => Either::Right(ride.shard.sender.clone().try_send_request(message).boxed()),
        }
    }

    /// What the answer's head says about the connection.
    pub fn heard(&mut self, headers: &HeaderMap) {
        if let Lease::Http1(Held { connection: Some(connection), .. }) = self {
            connection.patience = promised(headers);
        }
    }

    /// The call is over and whole.
    pub fn release(self) {
        if let Lease::Http1(mut held) = self
            && let Some(connection) = held.connection.take()
        {
            held.origin.give_back(connection);
        }
    }

    /// Not to be used again.
    pub fn retire(&self) {
        if let Lease::Http2(ride) = self {
            ride.shard.retired.store(true, Ordering::Relaxed);
        }
    }
}

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// `keep-alive: timeout=5` tells when the other side will close; a second earlier is ours.
fn promised(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(&KEEP_ALIVE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(',').find_map(|p| p.trim().strip_prefix("timeout=")?.parse::<u64>().ok()));
    seconds.map_or(IDLE, |s| Duration::from_secs(s.saturating_sub(1)).min(IDLE))
}

//! The way to the providers: pooled HTTP/1.1 and HTTP/2, TLS, proxies, and the guard over where a call may go.
//!
//! Never follows a redirect, never retries what may have been sent, and knows no deadline but the connect timeout: when
//! the head or a frame takes too long, the caller drops the future or the [`Answer`], and the upstream sees the
//! connection closed (HTTP/1.1) or the stream reset (HTTP/2).

mod answer;
mod connect;
mod egress;
mod fault;
mod fetch;
mod frames;
mod lease;
mod pool;
mod proxy;
mod socket;
mod trust;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{Either, ready},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tokio::time::timeout;

pub use self::{
    answer::Answer,
    egress::{AddressClass, Egress, classify},
    fetch::{FetchRules, Fetched, Fetcher},
    frames::{Flow, Frames},
    proxy::ProxyConfig,
    socket::{Opened, Socket, within},
    trust::Trust,
};
use self::{
    connect::{Connector, Place},
    lease::{Lease, Sent},
    pool::{Origin, Pool},
};
use crate::error::{Error, Kind, Result};

/// One call.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub method: Method,
    /// Absolute, `http` or `https`, without user information.
    pub url: Uri,
    /// `host`, `content-length` and `accept-encoding` are set here; hop-by-hop headers do not pass.
    pub headers: HeaderMap,
    pub body: Frames,
    pub egress: Egress,
    /// An authority of the provider's own besides the platform's.
    pub trust: Option<Arc<Trust>>,
    /// `None`: HTTP/2 where TLS agrees on it. `Some(true)`: HTTP/2 only, over cleartext too.
    pub http2: Option<bool>,
}

#[derive(Debug, Clone, Copy)]
pub struct SendLimits {
    /// Name, TCP and TLS together, a wait for another request's connect included.
    pub connect: Duration,
}

/// The head of the answer, and its body to come. Any status is an answer, redirects included.
#[derive(Debug)]
pub struct Incoming {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Answer,
    /// The connection had carried a call before.
    pub reused: bool,
}

/// Where the calls of one provider go: the place, checked once, and its connections.
#[derive(Debug, Clone)]
pub struct Destination {
    place: Arc<Place>,
    origin: Arc<Origin>,
}

impl Destination {
    /// Is this URL one of that place?
    fn holds(&self, url: &Uri) -> bool {
        let https = url.scheme() == Some(&http::uri::Scheme::HTTPS);
        https == self.place.https && url.authority() == Some(&self.place.authority)
    }
}

/// Lives as long as the process: connections survive a reload. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Arc<Pool>,
    connector: Arc<Connector>,
}

impl Client {
    pub fn new(proxy: &ProxyConfig) -> Self {
        Client { pool: Arc::new(Pool::default()), connector: Arc::new(Connector::new(proxy)) }
    }

    /// Sends a call and waits for the head of its answer. Dropping the future cancels the call.
    ///
    /// A pooled connection that turns out to be dead before a byte was written is replaced by a fresh one, once.
    pub async fn send(&self, out: Outgoing, limits: &SendLimits) -> Result<Incoming> {
        let destination = self.destination(&out)?;
        self.send_to(&destination, out, *limits).await
    }

    /// Checks where a call goes. What comes back serves every call with the same host, leave, trust and version.
    pub fn destination(&self, out: &Outgoing) -> Result<Destination> {
        let place = Arc::new(Place::of(out)?);
        let origin = self.pool.origin(&place);
        Ok(Destination { place, origin })
    }

    /// The same as `send`, for a destination that is known already.
    ///
    /// No `async fn`: the call is taken apart and handed to a connection that lies ready before anything waits, so that the
    /// future, which every request's future has in it, holds hardly more than the way to the answer.
    pub fn send_to<'a>(
        &'a self,
        destination: &'a Destination,
        out: Outgoing,
        limits: SendLimits,
    ) -> impl Future<Output = Result<Incoming>> + Send + 'a {
        let place = &destination.place;
        // Each way by itself: one block for both would have room for what was begun three times over.
        match destination.begin(out) {
            Ok(Begun::Sent(lease, answer, url)) => Either::Left(async move {
                let unsent = match answer.await {
                    Ok(response) => return Ok(answered(response, lease, place)),
                    Err(mut failed) => match failed.take_message() {
                        Some(unsent) if lease.reused() => Box::new(unsent),
                        _ => return Err(fault::before_head(&place.name, failed.into_error())),
                    },
                };
                lease.retire();
                drop(lease);
                Box::pin(self.connect_and_send(destination, unsent, url, limits, true)).await
            }),
            Ok(Begun::Waiting(message, url)) => {
                Either::Right(self.connect_and_send(destination, message, url, limits, false).boxed())
            }
            Err(error) => Either::Right(ready(Err(error)).boxed()),
        }
    }

    /// For who finds no connection ready, or one that was dead.
    async fn connect_and_send(
        &self,
        Destination { place, origin }: &Destination,
        message: Box<http::Request<Frames>>,
        url: Uri,
        limits: SendLimits,
        mut fresh: bool,
    ) -> Result<Incoming> {
        let mut message = *message;
        loop {
            let acquire = origin.acquire(&self.connector, place, limits.connect, fresh);
            let Ok(lease) = timeout(limits.connect, acquire).await else {
                return Err(fault::connect_timeout(&place.name, limits.connect));
            };
            let mut lease = lease?;
            lease.address(&mut message, &url, place);
            match lease.try_send(message).await {
                Ok(response) => return Ok(answered(response, lease, place)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if lease.reused() && !fresh => {
                        lease.retire();
                        message = unsent;
                        fresh = true;
                    }
                    _ => return Err(fault::before_head(&place.name, failed.into_error())),
                },
            }
        }
    }
}

/// A call up to where it waits.
enum Begun<F> {
    /// On its way, by a connection that lay ready.
    Sent(Lease, F, Uri),
    /// Needs a connection.
    Waiting(Box<http::Request<Frames>>, Uri),
}

impl Destination {
    fn begin(&self, out: Outgoing) -> Result<Begun<impl Future<Output = Sent> + Send + use<>>> {
        if !self.holds(&out.url) {
            return Err(
                Error::new(Kind::Internal, "a call was about to leave for another host").with_code("egress_refused")
            );
        }
        let mut message = http::Request::new(out.body);
        *message.method_mut() = out.method;
        *message.headers_mut() = tidy(out.headers);
        // One that lies ready needs no clock.
        let Some(mut lease) = self.origin.at_hand() else { return Ok(Begun::Waiting(Box::new(message), out.url)) };
        lease.address(&mut message, &out.url, &self.place);
        let answer = lease.try_send(message);
        Ok(Begun::Sent(lease, answer, out.url))
    }
}

fn answered(response: http::Response<hyper::body::Incoming>, mut lease: Lease, place: &Place) -> Incoming {
    let (head, body) = response.into_parts();
    lease.heard(&head.headers);
    let reused = lease.reused();
    let body = Answer::network(body, lease, place.name.clone());
    Incoming { status: head.status, headers: head.headers, body, reused }
}

impl Default for Client {
    /// Without proxies.
    fn default() -> Self {
        Client::new(&ProxyConfig::default())
    }
}

fn tidy(mut headers: HeaderMap) -> HeaderMap {
    if headers.keys().any(|name| is_hop_by_hop(name.as_str())) {
        for name in HOP_BY_HOP {
            headers.remove(name);
        }
    }
    // Frames are looked into and counted: they must arrive as they are meant.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
}

/// RFC 9110 §7.6.1, and what is derived from the message here.
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Hardly any header of a call is: most are told apart by their lengths.
fn is_hop_by_hop(name: &str) -> bool {
    LENGTHS >> name.len().min(63) & 1 == 1 && HOP_BY_HOP.contains(&name)
}

/// A bit for each length of such a name.
const LENGTHS: u64 = {
    let (mut lengths, mut at) = (0, 0);
    while at < HOP_BY_HOP.len() {
        lengths |= 1 << HOP_BY_HOP[at].len();
        at += 1;
    }
    lengths
};

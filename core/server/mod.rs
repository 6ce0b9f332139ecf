//! Sockets ⇄ HTTP: listening, TLS, connection limits and timers, request bodies, drain.
//!
//! Knows nothing of models, formats or keys. What answers a request is an [`App`]; one `serve` runs a listener from its
//! first connection to the end of its drain, for the data plane and the admin plane alike.

mod body;
mod connection;
mod drain;
mod edge;
mod executor;
mod head;
mod incoming;
mod listener;
mod protocol;
mod read;
mod tls;
mod traceparent;
mod tracked;
mod upload;
mod websocket;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::sync::Notify;

pub use self::{
    body::{Body, BoxError},
    drain::{DrainReport, serve},
    incoming::{Client, Incoming, Watched},
    listener::Listener,
    read::{BodyHeld, BodyLimits, BodyMemory, BodyPermit, read_body},
    tls::Certificates,
    traceparent::TraceContext,
    upload::Upload,
    websocket::{ClientSocket, Upgrade},
};

/// What answers requests.
///
/// The future is dropped when the client goes away, before and after the head alike (the answer's body is dropped then);
/// whatever must outlive the client belongs into a task of its own.
pub trait App: Send + Sync + 'static {
    fn call(
        self: Arc<Self>,
        peer: Peer,
        request: http::Request<Incoming>,
    ) -> impl Future<Output = http::Response<Body>> + Send + 'static;

    /// Rings when callers were cut: requests that run are polled then.
    fn cuts(&self) -> Arc<Notify> {
        Arc::default()
    }
}

/// Who stands at the other end of the connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub addr: SocketAddr,
    pub tls: bool,
    /// The client's own certificate (DER), verified against `client_ca`.
    pub client_cert: Option<Bytes>,
}

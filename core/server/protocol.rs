//! Which HTTP a connection speaks: told by its first bytes, which hyper then reads together with what follows them.
//!
//! hyper-util's `auto` gives hyper those bytes by themselves. hyper finds half a head there and doubles its buffer, and the
//! connection keeps 8 KiB that it never fills.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::{
    server::conn::{http1, http2},
    service::Service,
};
use hyper_util::rt::TokioIo;

use super::{edge::Edge, executor::StreamExecutor, tracked::Tracked};

/// hyper's settings for the connections of a listener.
#[derive(Debug, Clone)]
pub struct Protocols {
    pub http1: http1::Builder,
    pub http2: http2::Builder<StreamExecutor>,
}

/// What hyper does with a connection, once it is known which of its two halves that is.
#[expect(clippy::large_enum_variant, reason = "it is `Http1` for all but its first bytes")]
pub enum Conversation<S: Serve> {
    Unknown(Option<Opening<S>>),
    Http1(http1::UpgradeableConnection<TokioIo<Edge>, S>),
    /// The rarer one, and larger.
    Http2(Box<http2::Connection<TokioIo<Edge>, S, StreamExecutor>>),
}

pub struct Opening<S> {
    edge: Edge,
    service: S,
    protocols: Arc<Protocols>,
}

impl<S: Serve> Conversation<S> {
    pub fn new(edge: Edge, service: S, protocols: Arc<Protocols>) -> Self {
        Conversation::Unknown(Some(Opening { edge, service, protocols }))
    }

    /// Ends after what it is doing. One that has not said which HTTP it speaks does nothing.
    pub fn wind_down(&mut self) {
        match self {
            Conversation::Unknown(opening) => *opening = None,
            Conversation::Http1(connection) => Pin::new(connection).graceful_shutdown(),
            Conversation::Http2(connection) => Pin::new(&mut **connection).graceful_shutdown(),
        }
    }

    /// Drives it to its end. What broke it nobody is left to hear.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self {
                Conversation::Unknown(opening) => {
                    let Some(Opening { edge, .. }) = opening else { return Poll::Ready(()) };
                    let is_http2 = ready!(edge.poll_is_http2(cx));
                    let (Ok(is_http2), Some(opening)) = (is_http2, opening.take()) else { return Poll::Ready(()) };
                    *self = opening.serve(is_http2);
                }
                Conversation::Http1(connection) => return Pin::new(connection).poll(cx).map(drop),
                Conversation::Http2(connection) => return Pin::new(&mut **connection).poll(cx).map(drop),
            }
        }
    }
}

impl<S: Serve> Opening<S> {
    fn serve(self, is_http2: bool) -> Conversation<S> {
        let Opening { edge, service, protocols } = self;
        let io = TokioIo::new(edge);
        if is_http2 {
            Conversation::Http2(Box::new(protocols.http2.serve_connection(io, service)))
        } else {
            Conversation::Http1(protocols.http1.serve_connection(io, service).with_upgrades())
        }
    }
}

/// A service that hyper can ask on either.
pub trait Serve:
    Service<
        http::Request<hyper::body::Incoming>,
        Response = http::Response<Tracked>,
        Error = Infallible,
        Future: Send + 'static,
    > + Unpin
{
}

impl<S> Serve for S where
    S: Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<Tracked>,
            Error = Infallible,
            Future: Send + 'static,
        > + Unpin
{
}

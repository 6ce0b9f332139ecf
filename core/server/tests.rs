//! The edge over real sockets: what a bad, slow or vanishing client meets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by failing")]

mod bodies;
mod clients;
mod drain;
mod tls;
mod trace;
mod vigil;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config;

/// An app from a closure.
struct Answers<F>(F);

impl<F, Fut> App for Answers<F>
where
    F: Fn(Peer, Request<Incoming>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    fn call(
        self: Arc<Self>,
        peer: Peer,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send + 'static {
        (self.0)(peer, request)
    }
}

struct Running {
    addr: SocketAddr,
    shutdown: CancellationToken,
    done: JoinHandle<DrainReport>,
}

fn quick() -> config::Server {
    config::Server { drain_delay: Duration::ZERO, drain: Duration::from_secs(5), ..Default::default() }
}

fn start<F, Fut>(config: config::Server, answer: F) -> Running
where
    F: Fn(Peer, Request<Incoming>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let tls = config.tls.as_ref().map(|files| Certificates::load(files).unwrap());
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), tls).unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let done = tokio::spawn(serve(listener, config, Arc::new(Answers(answer)), shutdown.clone()));
    Running { addr, shutdown, done }
}

/// Answers with the body it got, or the error's status and code.
fn echo(limits: BodyLimits, memory: BodyMemory) -> impl Fn(Peer, Request<Incoming>) -> EchoFuture {
    move |_, request| {
        let memory = memory.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            match read_body(body, &head.headers, &limits, &memory).await {
                Ok(held) => Response::new(held.bytes.into()),
                Err(error) => status(error.status(), error.code().to_owned()),
            }
        })
    }
}

type EchoFuture = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

fn status(status: u16, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// Sends bytes and reads until the server closes.
async fn talk(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(bytes.as_ref()).await.unwrap();
    to_end(socket).await
}

async fn to_end(mut socket: TcpStream) -> String {
    let mut answer = Vec::new();
    soon(socket.read_to_end(&mut answer)).await.ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until `needle` was seen.
async fn until(socket: &mut TcpStream, needle: &str) -> String {
    let mut seen = Vec::new();
    soon(async {
        while !String::from_utf8_lossy(&seen).contains(needle) {
            let byte = socket.read_u8().await.unwrap_or_else(|_| panic!("closed after {seen:?}"));
            seen.push(byte);
        }
    })
    .await;
    String::from_utf8_lossy(&seen).into_owned()
}

/// Ten seconds are for ever.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.expect("this should have happened by now")
}

type H2 = hyper::client::conn::http2::SendRequest<http_body_util::Full<Bytes>>;

async fn http2(addr: SocketAddr) -> H2 {
    let socket = TcpStream::connect(addr).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn get(path: &str) -> Request<http_body_util::Full<Bytes>> {
    Request::get(format!("http://gateway{path}")).body(Default::default()).unwrap()
}

/// Tells when it is dropped.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

fn dropped() -> (impl Fn() -> Dropped + Clone + Send + Sync + 'static, mpsc::UnboundedReceiver<()>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (move || Dropped(sender.clone()), receiver)
}

/// A stream that gives what it is asked for, for ever, or waits for ever after a number of frames.
struct Endless {
    frame: Bytes,
    left: Option<u64>,
    given: Arc<AtomicU64>,
    _dropped: Dropped,
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.left {
            Some(0) => return Poll::Pending,
            Some(left) => *left -= 1,
            None => {}
        }
        self.given.fetch_add(self.frame.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
    }
}

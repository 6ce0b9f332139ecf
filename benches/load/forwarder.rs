//! The bare hyper forwarder: the least that a hyper proxy can do. A pool of ready connections, bodies passed on as they
//! come, nothing read.

use std::{
    convert::Infallible,
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{Request, Response, body::Incoming, client::conn::http1::SendRequest, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

type Pool = Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>;

pub fn main(upstream: &str) -> ExitCode {
    let upstream: SocketAddr = upstream.parse().expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        println!("{}", listener.local_addr().expect("an address"));
        let pool = Pool::default();
        while let Ok((socket, _)) = listener.accept().await {
            let _ = socket.set_nodelay(true);
            let pool = pool.clone();
            let service = service_fn(move |request| forward(request, upstream, pool.clone()));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    ExitCode::SUCCESS
}

async fn forward(
    request: Request<Incoming>,
    upstream: SocketAddr,
    pool: Pool,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let waiting = pool.lock().expect("the pool").pop();
    let mut sender = match waiting {
        Some(sender) if sender.is_ready() => sender,
        _ => {
            let socket = TcpStream::connect(upstream).await.expect("connect");
            let _ = socket.set_nodelay(true);
            let (sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.expect("handshake");
            tokio::spawn(connection);
            sender
        }
    };
    let mut out = Request::new(Full::new(body));
    *out.method_mut() = parts.method;
    *out.uri_mut() = parts.uri;
    out.headers_mut().insert("host", "upstream".parse().expect("a value"));
    out.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
    let answer = sender.send_request(out).await.expect("an answer");
    Ok(answer.map(|body| Returning { body, sender: Some(sender), pool }.boxed()))
}

/// Gives the connection back when the body has ended.
struct Returning {
    body: Incoming,
    sender: Option<SendRequest<Full<Bytes>>>,
    pool: Pool,
}

impl http_body::Body for Returning {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
        let polled = std::pin::Pin::new(&mut self.body).poll_frame(cx);
        if let std::task::Poll::Ready(frame) = &polled
            && (frame.is_none() || self.body.is_end_stream())
            && let Some(sender) = self.sender.take()
        {
            self.pool.lock().expect("the pool").push(sender);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

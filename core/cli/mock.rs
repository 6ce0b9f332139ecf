//! `portcullis mock`: the built-in provider alone, behind a socket, for the tests of other projects. Serves what
//! `provider::mock` answers; keeps nothing and calls nobody.

use std::{
    io::{self, Write},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE, request::Parts};
use http_body::Frame;
use tokio::signal;
use tokio_util::sync::CancellationToken;

#[cfg(test)]
mod tests;

use crate::{
    cli::Exit,
    codec::{JSON, codec},
    config,
    error::Error,
    model::Format,
    opaque,
    provider::mock::{self, MockBody},
    server::{self, App, Body, BodyLimits, BodyMemory, BoxError, Incoming, Listener, Peer, Upgrade, read_body},
};

/// Answer like a model provider, without one
///
/// Chat, streams, tools, embeddings, pictures, sound, files, realtime sessions, token counts and model lists in the OpenAI,
/// Anthropic and Gemini formats: deterministic, with faults on request. Any key is taken. A request steers it in the header x-portcullis-mock, or in its last user text
/// inside [mock: …]: latency=200ms, pace=20ms, status=429, retry_after=2, cut=3, stall=2, chunk=5, usage=10/20, tokens=50,
/// reasoning, finish=length, tool=NAME, text=hello.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Where to listen; port 0 takes a free one and prints it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    pub listen: SocketAddr,
}

const EXAMPLE: &str = "\
Example:
  portcullis mock --listen 127.0.0.1:8090
  curl http://127.0.0.1:8090/v1/chat/completions -d \\
    '{\"model\": \"any\", \"messages\": [{\"role\": \"user\", \"content\": \"hello [mock: latency=200ms]\"}]}'";

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = Listener::bind(args.listen, None)?;
        let address = listener.local_addr()?;
        let mut out = io::stdout();
        writeln!(out, "the mock listens on http://{address} (OpenAI, Anthropic: /v1, Gemini: /v1beta)")?;
        out.flush()?;
        let shutdown = CancellationToken::new();
        tokio::spawn(cancel_on_signal(shutdown.clone()));
        serve(listener, shutdown).await;
        Ok(Exit::Done)
    })
}

/// Until `shutdown`, and a short drain.
pub async fn serve(listener: Listener, shutdown: CancellationToken) {
    let settings = config::Server { drain_delay: Duration::ZERO, drain: Duration::from_secs(1), ..Default::default() };
    let mock = Mock {
        limits: BodyLimits::new(settings.max_body, settings.min_body_rate),
        memory: BodyMemory::new(settings.body_memory),
    };
    server::serve(listener, settings, Arc::new(mock), shutdown).await;
}

struct Mock {
    limits: BodyLimits,
    memory: BodyMemory,
}

impl App for Mock {
    async fn call(self: Arc<Self>, _peer: Peer, request: Request<Incoming>) -> Response<Body> {
        let format = mock::family(request.uri().path(), request.headers());
        match self.answer(request).await {
            Ok(response) => response,
            Err(error) => refuse(&error, format),
        }
    }
}

impl Mock {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Error> {
        let (head, body) = request.into_parts();
        if head.uri.path().ends_with("/realtime") {
            return session(&head);
        }
        let body = read_body(body, &head.headers, &self.limits, &self.memory).await?;
        let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
        let (status, headers, body) = mock::run(&head.method, path, &head.headers, body.bytes.clone()).await;
        let mut response = Response::new(Body::stream(Frames(body)));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// A realtime session, which outlives its handshake.
fn session(head: &Parts) -> Result<Response<Body>, Error> {
    let upgrade = Upgrade::of(head)?;
    let spoken = upgrade.protocols().iter().any(|p| p == "realtime");
    let response = upgrade.response(spoken.then_some("realtime"));
    let model = opaque::param(head.uri.query(), "model").unwrap_or_else(|| "mock".to_owned());
    tokio::spawn(async move {
        if let Ok(socket) = upgrade.open(LONGEST_MESSAGE).await {
            mock::realtime(socket.into_inner(), &model).await;
        }
    });
    Ok(response)
}

struct Frames(MockBody);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_frame(cx).map(|next| next.map(|f| f.map(Frame::data).map_err(Into::into)))
    }
}

fn refuse(error: &Error, format: Format) -> Response<Body> {
    let mut response = Response::new(Body::from(codec(format).encode_error(error, "mock")));
    *response.status_mut() = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

/// Of a realtime session.
const LONGEST_MESSAGE: usize = 16 << 20;

async fn cancel_on_signal(shutdown: CancellationToken) {
    #[cfg(unix)]
    if let Ok(mut terminate) = signal::unix::signal(signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = signal::ctrl_c() => {}
        }
        shutdown.cancel();
        return;
    }
    let _ = signal::ctrl_c().await;
    shutdown.cancel();
}

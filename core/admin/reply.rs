//! Answers of the control plane: JSON, never cached; errors as `{"error": {"code", "message", "param"?}}`. What may be long is
//! sent while it is made, at its reader's pace.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::error::Error;

pub(super) type Reply = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Where the pieces of a long answer go.
pub(super) struct Feed(mpsc::Sender<io::Result<Bytes>>);

impl Feed {
    /// Waits until the one before is on its way. `false`: nobody reads any more.
    pub async fn send(&self, piece: Bytes) -> bool {
        self.0.send(Ok(piece)).await.is_ok()
    }

    /// The same on a thread that may wait.
    pub fn send_blocking(&self, piece: Bytes) -> bool {
        self.0.blocking_send(Ok(piece)).is_ok()
    }

    /// The answer ends in the middle, and looks it.
    pub async fn break_off(&self) {
        let _ = self.0.send(Err(io::Error::other("broken off"))).await;
    }

    pub fn break_off_blocking(&self) {
        let _ = self.0.blocking_send(Err(io::Error::other("broken off")));
    }
}

/// A long answer, and where its pieces go.
pub(super) fn feed(kind: &'static str) -> (Feed, Reply) {
    let (sender, receiver) = mpsc::channel(2);
    let pieces = stream::unfold(receiver, |mut receiver: mpsc::Receiver<io::Result<Bytes>>| async move {
        Some((receiver.recv().await?.map(Frame::data), receiver))
    });
    (Feed(sender), headed(StatusCode::OK, kind, StreamBody::new(pieces).boxed_unsync()))
}

pub(super) fn json(status: StatusCode, body: &Value) -> Reply {
    with_type(status, JSON, body.to_string())
}

pub(super) fn ok(body: &Value) -> Reply {
    json(StatusCode::OK, body)
}

/// The Prometheus exposition format.
pub(super) fn metrics(text: String) -> Reply {
    with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

pub(super) fn error(error: &Error) -> Reply {
    let mut body = json!({ "code": error.code(), "message": error.message });
    if let Some(param) = &error.param {
        body["param"] = param.as_str().into();
    }
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = json(status, &json!({ "error": body }));
    if status == StatusCode::UNAUTHORIZED {
        reply
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"portcullis admin\""));
    }
    reply
}

fn with_type(status: StatusCode, kind: &'static str, body: String) -> Reply {
    headed(status, kind, Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync())
}

fn headed(status: StatusCode, kind: &'static str, body: UnsyncBoxBody<Bytes, io::Error>) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

const JSON: &str = "application/json";

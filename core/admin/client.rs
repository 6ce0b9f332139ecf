//! The other end of the admin API, for `portcullis keys --admin URL`: one request, one connection, plain HTTP/1.1. It never
//! follows redirects, so the token goes nowhere else.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header, response::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use url::Url;

use crate::config::Secret;

/// Where a gateway's admin plane is, and how to come in.
pub struct Admin {
    base: Url,
    token: Option<Secret>,
}

impl Admin {
    /// The error is a sentence.
    pub fn new(base: &str, token: Option<Secret>) -> Result<Admin, String> {
        let base =
            Url::parse(base).map_err(|e| format!("--admin {base:?} is no URL ({e}); write http://127.0.0.1:8081"))?;
        if base.scheme() != "http" || base.host_str().is_none() {
            return Err(format!("--admin {base} must be a plain http:// URL such as http://127.0.0.1:8081"));
        }
        Ok(Admin { base, token })
    }

    /// One call; an error answer comes back as its message.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, String> {
        match tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(format!("{} did not answer within {} s", self.base, TIMEOUT.as_secs())),
        }
    }

    /// What is no JSON, and the header that says where more of it is.
    pub async fn text(&self, path: &str, more: &str) -> Result<(Bytes, Option<String>), String> {
        let asked = tokio::time::timeout(TIMEOUT, self.send(Method::GET, path, None));
        let late = |_| format!("{} did not answer within {} s", self.base, TIMEOUT.as_secs());
        let (head, body) = asked.await.map_err(late)??;
        if !head.status.is_success() {
            return self.value(head.status, &body).map(|_| Default::default());
        }
        let more = head.headers.get(more).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok((body, more))
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let (head, body) = self.send(method, path, body).await?;
        self.value(head.status, &body)
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(Parts, Bytes), String> {
        let failed = |e: &dyn std::fmt::Display| format!("{} failed: {e}", self.base);
        let host = self.base.host_str().unwrap_or("");
        let port = self.base.port_or_known_default().unwrap_or(80);
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await;
        let stream = stream.map_err(|e| format!("nothing answers at {} ({e}); is the gateway running?", self.base))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
        let running = tokio::spawn(connection);

        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("{host}:{port}"))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let body = body.map(|value| Bytes::from(value.to_string())).unwrap_or_default();
        let request = request.body(Full::new(body)).map_err(|e| failed(&e))?;
        let answer = sender.send_request(request).await.map_err(|e| failed(&e))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| failed(&e))?.to_bytes();
        running.abort();
        Ok((head, body))
    }

    fn value(&self, status: StatusCode, body: &[u8]) -> Result<Value, String> {
        let value = serde_json::from_slice(body);
        if status.is_success() {
            return value.map_err(|e| format!("{} does not look like an admin plane ({e})", self.base));
        }
        let message = value.as_ref().ok().and_then(|v: &Value| v["error"]["message"].as_str());
        Err(match message {
            Some(message) if status == 401 => format!("{message} (set PORTCULLIS_ADMIN_TOKEN)"),
            Some(message) => message.to_owned(),
            None => format!("{} answered {status}; is this the admin address?", self.base),
        })
    }
}

const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ANSWER: usize = 64 << 20;

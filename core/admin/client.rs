//! The other end of the admin API, for commands with `--admin URL`: one request, one connection, plain HTTP/1.1. It never
//! follows redirects, so the token goes nowhere else.

use std::{io::Write, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinHandle};
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

    /// What a path answers, however long it is, as it comes.
    pub async fn copy(&self, path: &str, out: &mut (dyn Write + Send)) -> Result<(), String> {
        let late = |_| format!("{} did not answer within {} s", self.base, TIMEOUT.as_secs());
        let (answer, running) =
            tokio::time::timeout(TIMEOUT, self.send(Method::GET, path, None)).await.map_err(late)??;
        let status = answer.status();
        let mut body = answer.into_body();
        if !status.is_success() {
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| self.failed(&e))?.to_bytes();
            return Err(self.message(status, &serde_json::from_slice(&body).unwrap_or_default()));
        }
        while let Some(frame) = tokio::time::timeout(TIMEOUT, body.frame()).await.map_err(late)? {
            if let Ok(piece) = frame.map_err(|e| self.failed(&e))?.into_data() {
                out.write_all(&piece).map_err(|e| e.to_string())?;
            }
        }
        running.abort();
        Ok(())
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let (answer, running) = self.send(method, path, body).await?;
        let status = answer.status();
        let body =
            Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| self.failed(&e))?.to_bytes();
        running.abort();

        let value = serde_json::from_slice(&body);
        if status.is_success() {
            return value.map_err(|e| format!("{} does not look like an admin plane ({e})", self.base));
        }
        Err(self.message(status, &value.unwrap_or_default()))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(Response<Incoming>, JoinHandle<hyper::Result<()>>), String> {
        let host = self.base.host_str().unwrap_or("");
        let port = self.base.port_or_known_default().unwrap_or(80);
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await;
        let stream = stream.map_err(|e| format!("nothing answers at {} ({e}); is the gateway running?", self.base))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.failed(&e))?;
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
        let request = request.body(Full::new(body)).map_err(|e| self.failed(&e))?;
        Ok((sender.send_request(request).await.map_err(|e| self.failed(&e))?, running))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> String {
        format!("{} failed: {error}", self.base)
    }

    /// Of an error answer.
    fn message(&self, status: StatusCode, body: &Value) -> String {
        match body["error"]["message"].as_str() {
            Some(message) if status == 401 => format!("{message} (set PORTCULLIS_ADMIN_TOKEN)"),
            Some(message) => message.to_owned(),
            None => format!("{} answered {status}; is this the admin address?", self.base),
        }
    }
}

const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ANSWER: usize = 16 << 20;

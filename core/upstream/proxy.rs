//! Proxies on the way out: which calls take one, and the tunnel through it.
//!
//! The environment is config's to read; here are its values. A proxy is configured, so its address is not guarded.

use std::fmt;

use bytes::Bytes;
use http::{HeaderValue, Method, Uri, header};
use http_body_util::Empty;
use hyper_util::{client::proxy::matcher::Matcher, rt::TokioIo};

use super::{connect::Io, fault};
use crate::error::{Error, Kind, Result};

/// Values of HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, as they stand.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    pub http: Option<String>,
    pub https: Option<String>,
    pub all: Option<String>,
    pub no: Option<String>,
}

impl ProxyConfig {
    fn is_empty(&self) -> bool {
        [&self.http, &self.https, &self.all].into_iter().all(|value| value.as_deref().unwrap_or("").is_empty())
    }

    pub(super) fn matcher(&self) -> Option<Matcher> {
        if self.is_empty() {
            return None;
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let builder = Matcher::builder().http(text(&self.http)).https(text(&self.https));
        Some(builder.all(text(&self.all)).no(text(&self.no)).build())
    }
}

impl fmt::Debug for ProxyConfig {
    /// The values may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyConfig").field("configured", &!self.is_empty()).finish()
    }
}

/// The proxy of one call.
#[derive(Debug, Clone)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    /// The proxy itself is reached over TLS.
    pub tls: bool,
    pub auth: Option<HeaderValue>,
}

impl Proxy {
    pub fn of(matcher: &Matcher, url: &Uri) -> Result<Option<Self>> {
        let Some(intercept) = matcher.intercept(url) else { return Ok(None) };
        let uri = intercept.uri();
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(Error::new(Kind::Upstream, "only http and https proxies are supported, not SOCKS")),
        };
        let host = uri.host().unwrap_or_default().to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Some(Proxy { host, port, tls, auth: intercept.basic_auth().cloned() }))
    }

    /// A tunnel to `authority` through a connection to this proxy.
    pub async fn tunnel(&self, wire: Box<dyn Io>, authority: &str) -> Result<Box<dyn Io>> {
        let failed = |cause: hyper::Error| fault::before_head(&format!("the proxy {}", self.host), cause);
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(16 << 10)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(wire))
            .await
            .map_err(failed)?;
        let driver = tokio::spawn(connection.with_upgrades());
        let mut connect = http::Request::new(Empty::new());
        *connect.method_mut() = Method::CONNECT;
        *connect.uri_mut() = authority.parse().map_err(|_| self.refused(authority, "not a valid address"))?;
        if let Ok(host) = HeaderValue::from_str(authority) {
            connect.headers_mut().insert(header::HOST, host);
        }
        if let Some(auth) = &self.auth {
            connect.headers_mut().insert(header::PROXY_AUTHORIZATION, auth.clone());
        }
        let response = sender.send_request(connect).await.map_err(failed)?;
        match response.status().as_u16() {
            200..=299 => {}
            407 => return Err(self.refused(authority, "407: check the proxy's user and password")),
            other => return Err(self.refused(authority, &other.to_string())),
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(failed)?;
        // The driver ends with the upgrade.
        drop(driver);
        let parts = upgraded
            .downcast::<TokioIo<Box<dyn Io>>>()
            .map_err(|_| self.refused(authority, "the connection was lost"))?;
        if !parts.read_buf.is_empty() {
            return Err(self.refused(authority, "it sent data before the tunnel was used"));
        }
        Ok(parts.io.into_inner())
    }

    fn refused(&self, authority: &str, why: &str) -> Error {
        Error::new(Kind::Upstream, format!("the proxy {} refused a tunnel to {authority}: {why}", self.host))
    }
}

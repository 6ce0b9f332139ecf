//! A client's WebSocket: the answer to its upgrade (RFC 6455, §4.2), and the connection once it is one. HTTP/1.1 only.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use super::Body;
use crate::error::{Error, Kind, Result};

pub type ClientSocket = WebSocketStream<TokioIo<Upgraded>>;

/// An upgrade that was asked for, and can be answered.
pub struct Upgrade {
    on: OnUpgrade,
    accept: HeaderValue,
    protocols: Vec<String>,
}

impl Upgrade {
    /// Errors (426, 400): it is no WebSocket's handshake.
    pub fn of(parts: &Parts) -> Result<Upgrade> {
        let headers = &parts.headers;
        let has = |name: header::HeaderName, word: &str| words(headers, &name).any(|w| w.eq_ignore_ascii_case(word));
        let on = parts.extensions.get::<OnUpgrade>().cloned();
        let (Some(on), true, true) = (on, has(header::UPGRADE, "websocket"), has(header::CONNECTION, "upgrade")) else {
            let message = "this path is a WebSocket's: connect with ws:// or wss:// over HTTP/1.1";
            return Err(Error::new(Kind::InvalidRequest, message).with_status(426).with_code("upgrade_required"));
        };
        let bad = |what: &str| Error::new(Kind::InvalidRequest, format!("the WebSocket handshake is not one: {what}"));
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
            return Err(bad("its version must be 13"));
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|k| k.len() == 24);
        let key = key.ok_or_else(|| bad("its key must be 16 bytes in base64"))?;
        let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| bad("its key"))?;
        let protocols = words(headers, &header::SEC_WEBSOCKET_PROTOCOL).map(str::to_owned).collect();
        Ok(Upgrade { on, accept, protocols })
    }

    /// Subprotocols that the client offers.
    pub fn protocols(&self) -> &[String] {
        &self.protocols
    }

    /// The 101; `protocol`: the one that is spoken.
    pub fn response(&self, protocol: Option<&str>) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept.clone());
        if let Some(protocol) = protocol.and_then(|p| HeaderValue::from_str(p).ok()) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }

    /// The connection, once the 101 is out. `limit`: bytes of one message. The error: the client left before.
    pub async fn open(self, limit: usize) -> Result<ClientSocket> {
        let upgraded = self.on.await.map_err(|e| Error::new(Kind::ClientGone, "the client left").because(e))?;
        let config = WebSocketConfig::default().max_message_size(Some(limit)).max_frame_size(Some(limit));
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await)
    }
}

fn words<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).filter(|w| !w.is_empty())
}

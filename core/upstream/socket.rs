//! A WebSocket to an upstream: the same guard, proxy and TLS as any call, then the handshake (RFC 6455, §4.1). Its connection
//! is its own and never pooled.

use http::{HeaderValue, Method, Request, Uri, Version, header};
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, handshake::client::generate_key, protocol::WebSocketConfig},
};

use super::{
    Client, Incoming, Outgoing, SendLimits,
    answer::Answer,
    connect::{Io, Place, Wire},
    fault, tidy,
};
use crate::error::{Error, Kind, Result};

pub type Socket = WebSocketStream<Wire>;

/// What came of the handshake.
pub enum Opened {
    Socket(Box<Socket>),
    /// Another answer: a refusal.
    Answer(Box<Incoming>),
}

impl Client {
    /// Opens one. `limit`: bytes of one message.
    pub async fn websocket(&self, mut out: Outgoing, limits: &SendLimits, limit: usize) -> Result<Opened> {
        out.http2 = Some(false);
        let place = Place::of(&out)?;
        let open = async {
            let connected = self.connector.connect(&place, limits.connect).await?;
            if connected.forward.is_some() {
                let message = format!("{} cannot be reached by a WebSocket through a proxy: use https", place.name);
                return Err(Error::new(Kind::Upstream, message));
            }
            let request = request(out, &place)?;
            let broken = |e: tungstenite::Error| {
                Error::new(Kind::Upstream, format!("{} did not open a WebSocket", place.name)).because(e)
            };
            match client_async_with_config(request, connected.wire, Some(config(limit))).await {
                Ok((socket, _)) => Ok(Opened::Socket(Box::new(socket))),
                Err(tungstenite::Error::Http(answer)) => {
                    let (head, body) = answer.into_parts();
                    let body = Answer::bytes(body.unwrap_or_default().into());
                    let answer = Incoming { status: head.status, headers: head.headers, body, reused: false };
                    Ok(Opened::Answer(Box::new(answer)))
                }
                Err(error) => Err(broken(error)),
            }
        };
        match timeout(limits.connect, open).await {
            Ok(opened) => opened,
            Err(_) => Err(fault::connect_timeout(&place.name, limits.connect)),
        }
    }
}

/// A socket to something in this process.
pub async fn within(io: impl Io + 'static, limit: usize) -> Socket {
    let wire: Wire = tokio_util::either::Either::Right(Box::new(io));
    WebSocketStream::from_raw_socket(wire, tungstenite::protocol::Role::Client, Some(config(limit))).await
}

fn config(limit: usize) -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(limit)).max_frame_size(Some(limit))
}

fn request(out: Outgoing, place: &Place) -> Result<Request<()>> {
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    // The library asks for its own schemes.
    let scheme = if place.https { "wss" } else { "ws" };
    let path = out.url.path_and_query().map_or("/", |p| p.as_str());
    let url = Uri::builder().scheme(scheme).authority(place.authority.clone()).path_and_query(path).build();
    *request.uri_mut() =
        url.map_err(|e| Error::new(Kind::Internal, "a WebSocket's URL could not be built").because(e))?;
    *request.headers_mut() = tidy(out.headers);
    let headers = request.headers_mut();
    headers.remove(header::ACCEPT_ENCODING);
    let text = |text: &str| {
        HeaderValue::from_str(text)
            .map_err(|e| Error::new(Kind::Internal, "a WebSocket's head cannot be written").because(e))
    };
    headers.insert(header::HOST, text(place.authority.as_str())?);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(header::SEC_WEBSOCKET_KEY, text(&generate_key())?);
    Ok(request)
}

//! Calls that plugins make to hosts they were granted: out through the upstream client, like every call of the gateway,
//! without redirects, and to a private address only where the grant itself is one (`http:127.0.0.1:9000`). Which hosts
//! these are was checked before.

use std::{sync::OnceLock, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;

use url::Url;

use crate::{
    auth::jwt,
    error::{Error, Kind},
    plugin::{Outbound, OutboundError},
    upstream::{Client, Egress, Outgoing, ProxyConfig, SendLimits},
};

/// The client is made with the first call.
pub struct Outside {
    pub proxies: ProxyConfig,
    pub client: OnceLock<Client>,
}

impl Outside {
    pub fn new(proxies: ProxyConfig) -> Self {
        Outside { proxies, client: OnceLock::new() }
    }
}

impl Outbound for Outside {
    fn send(
        &self,
        request: http::Request<Bytes>,
        timeout: Duration,
        most: usize,
    ) -> BoxFuture<'static, Result<http::Response<Bytes>, OutboundError>> {
        let client = self.client.get_or_init(|| Client::new(&self.proxies)).clone();
        Box::pin(async move {
            let call = call(&client, request, timeout, most);
            tokio::time::timeout(timeout, call).await.unwrap_or(Err(OutboundError::Timeout))
        })
    }
}

/// Public keys of issuers, through the gateway's own client: to the issuer's host alone, and to an address of the own
/// network only where the configuration says so.
pub struct IssuerKeys(pub Client);

impl jwt::Outside for IssuerKeys {
    fn keys(&self, url: Url, private: bool) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let client = self.0.clone();
        Box::pin(async move {
            let url: http::Uri = url.as_str().parse().map_err(|e| format!("its address is none: {e}"))?;
            let out = Outgoing {
                method: http::Method::GET,
                egress: Egress::of_provider(url.host().unwrap_or_default(), private),
                url,
                headers: http::HeaderMap::new(),
                body: Vec::<Bytes>::new().into(),
                trust: None,
                http2: None,
            };
            let limits = SendLimits { connect: CONNECT };
            let incoming = client.send(out, &limits).await.map_err(|e| e.message.clone())?;
            if !incoming.status.is_success() {
                return Err(format!("it answered {}", incoming.status));
            }
            let body = incoming.body.collect(MOST_KEYS, &mut |_| Ok(())).await.map_err(|e| e.message.clone())?;
            Ok(body.to_vec())
        })
    }
}

async fn call(
    client: &Client,
    request: http::Request<Bytes>,
    connect: Duration,
    most: usize,
) -> Result<http::Response<Bytes>, OutboundError> {
    let (head, body) = request.into_parts();
    let host = head.uri.host().unwrap_or_default().to_owned();
    let out = Outgoing {
        method: head.method,
        url: head.uri,
        headers: head.headers,
        body: vec![body].into(),
        egress: Egress::of_provider(&host, false),
        trust: None,
        http2: None,
    };
    let mut incoming = client.send(out, &SendLimits { connect }).await.map_err(why)?;
    let mut body = BytesMut::new();
    while let Some(frame) = incoming.body.frame().await.transpose().map_err(why)? {
        if body.len() + frame.len() > most {
            return Err(OutboundError::TooLarge);
        }
        body.extend_from_slice(&frame);
    }
    let mut answer = http::Response::new(body.freeze());
    *answer.status_mut() = incoming.status;
    *answer.headers_mut() = incoming.headers;
    Ok(answer)
}

fn why(error: Error) -> OutboundError {
    if error.code() == "egress_refused" {
        return OutboundError::Refused(
            "that address is not on the open internet: only a grant that is one opens it".into(),
        );
    }
    match error.kind {
        Kind::UpstreamTimeout => OutboundError::Timeout,
        Kind::Forbidden | Kind::InvalidRequest | Kind::Internal => OutboundError::Refused(error.message.clone()),
        _ => OutboundError::Unreachable(error.message.clone()),
    }
}

const CONNECT: Duration = Duration::from_secs(5);
/// Bytes of a key set.
const MOST_KEYS: u64 = 256 << 10;

//! `http`: calls out to hosts that were granted by name. Here stand the bounds; who dials, and to which addresses, is the
//! business of whoever hands an [`Outbound`] in.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{
    bind::portcullis::plugin::http::{Answered, Call, Failed, Host},
    state::Guest,
};
use crate::pipeline::effects::is_private;

/// Makes a call: no redirects, no private address that the configuration does not name.
pub trait Outbound: Send + Sync {
    /// At most `most` bytes of an answer are read.
    fn send(
        &self,
        request: http::Request<Bytes>,
        timeout: Duration,
        most: usize,
    ) -> BoxFuture<'static, Result<http::Response<Bytes>, OutboundError>>;
}

/// Why there is no answer. The text holds no part of the call.
#[derive(Debug)]
pub enum OutboundError {
    Refused(String),
    Timeout,
    TooLarge,
    Unreachable(String),
}

impl Host for Guest {
    async fn send(&mut self, call: Call) -> Result<Answered, Failed> {
        self.call.called += 1;
        if self.call.called > MAX_CALLS {
            return Err(Failed::Refused(format!("a request may make {MAX_CALLS} calls")));
        }
        let Some(outbound) = self.shared.outbound.clone() else {
            return Err(Failed::Refused("nothing is sent in a dry run".into()));
        };
        let timeout = Duration::from_millis(call.timeout_ms.map_or(DEFAULT_TIMEOUT, u64::from).clamp(1, MAX_TIMEOUT));
        let left = self.call.caller.as_ref().and_then(|caller| caller.deadline);
        let left = left.map_or(timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
        let (timeout, request) = (timeout.min(left), request(self, call).map_err(Failed::Refused)?);
        match outbound.send(request, timeout, MAX_ANSWER).await {
            Ok(answer) => Ok(answered(answer)),
            Err(OutboundError::Refused(why)) => Err(Failed::Refused(why)),
            Err(OutboundError::Timeout) => Err(Failed::Timeout),
            Err(OutboundError::TooLarge) => Err(Failed::TooLarge),
            Err(OutboundError::Unreachable(why)) => Err(Failed::Unreachable(why)),
        }
    }
}

fn request(guest: &Guest, call: Call) -> Result<http::Request<Bytes>, String> {
    let Call { method, url, headers, body, timeout_ms: _ } = call;
    let url: url::Url = url.parse().map_err(|_| "that is no URL".to_owned())?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("the URL names no host")?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err("write https://HOST/PATH, credentials in a header".into());
    }
    if !guest.shared.grants.host(host, url.port_or_known_default()) {
        return Err(format!("calls to {host} are not granted: grant = [\"http:{host}\"]"));
    }
    let method: http::Method = method.parse().map_err(|_| "that is no method".to_owned())?;
    let mut request = http::Request::builder().method(method).uri(url.as_str());
    if headers.len() > MAX_HEADERS {
        return Err(format!("a call may have {MAX_HEADERS} headers"));
    }
    for (name, value) in headers {
        // The guest's own credentials are its business; what frames the message is the client's.
        if is_private(&name) && !OWN.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            return Err(format!("the header {name} cannot be set"));
        }
        request = request.header(name, value);
    }
    request.body(Bytes::from(body)).map_err(|_| "a header is not valid".to_owned())
}

fn answered(answer: http::Response<Bytes>) -> Answered {
    let (head, body) = answer.into_parts();
    let text = |v: &http::HeaderValue| v.to_str().ok().map(str::to_owned);
    let headers = head.headers.iter().filter_map(|(k, v)| Some((k.as_str().to_owned(), text(v)?))).collect();
    Answered { status: head.status.as_u16(), headers, body: body.to_vec() }
}

/// In one request, over all phases.
const MAX_CALLS: u32 = 16;
const DEFAULT_TIMEOUT: u64 = 2_000;
const MAX_TIMEOUT: u64 = 10_000;
const MAX_ANSWER: usize = 1 << 20;
const MAX_HEADERS: usize = 32;
const OWN: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];

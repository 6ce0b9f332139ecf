//! What travels upstream in headers: a short list, never the caller's credentials, cookies or hop-by-hop fields
//! (promise 29). The proof of who we are is added last, after every stage, by `Provider::sign`.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, CONTENT_TYPE, USER_AGENT},
};

use super::{Provider, Transport, mock, sign};
use crate::codec::{JSON, framing::Framing};

/// Everything but the key. `same_format`: the caller speaks the provider's format, so its allowed headers mean the same.
pub(super) fn build(provider: &Provider, client: &HeaderMap, same_format: bool, stream: bool) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(8);
    out.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    out.insert(
        ACCEPT,
        HeaderValue::from_static(if stream && !provider.framed() {
            Framing::of(provider.format).accept()
        } else {
            JSON
        }),
    );
    out.insert(USER_AGENT, HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION"))));
    if same_format {
        for name in provider.row.headers {
            for value in client.get_all(*name) {
                out.append(HeaderName::from_static(name), value.clone());
            }
        }
    }
    if let Some(version) = provider.row.version {
        out.insert(VERSION, version_of(client, same_format).unwrap_or(HeaderValue::from_static(version)));
    }
    if provider.transport == Transport::Mock
        && let Some(value) = client.get(mock::CONTROL)
    {
        out.insert(HeaderName::from_static(mock::CONTROL), value.clone());
    }
    for (name, value) in &provider.headers {
        out.insert(name.clone(), value.clone());
    }
    out
}

/// The caller's own API version, if it is one: its body was written for it.
fn version_of(client: &HeaderMap, same_format: bool) -> Option<HeaderValue> {
    let value = client.get(VERSION).filter(|_| same_format)?;
    let date = value.as_bytes();
    (date.len() == 10 && date.iter().all(|b| b.is_ascii_digit() || *b == b'-')).then(|| value.clone())
}

/// A header that the configuration fixes for a provider.
pub(super) fn fixed(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let lower = name.to_ascii_lowercase();
    if CREDENTIALS.contains(&lower.as_str()) {
        return Err(format!("header `{name}` carries a credential: use `key` and `auth`"));
    }
    if sign::never(&lower) || lower == "content-type" {
        return Err(format!("header `{name}` is the gateway's own business and cannot be set"));
    }
    let header = HeaderName::try_from(lower).map_err(|_| format!("`{name}` is no header name"))?;
    let value = HeaderValue::try_from(value).map_err(|_| format!("the value of header `{name}` cannot be sent"))?;
    Ok((header, value))
}

const VERSION: &str = "anthropic-version";

const CREDENTIALS: &[&str] =
    &["authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie", "proxy-authorization"];

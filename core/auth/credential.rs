//! Where a caller's key may stand in a request, and what a key of ours looks like. Pure: nothing here knows whether a key
//! is good.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use zeroize::Zeroizing;

use crate::config::Secret;

/// The key that a request carries: `Authorization: Bearer`, `x-api-key`, `x-goog-api-key`, `api-key`, or `?key=`. SDKs
/// may fill several of these, so the first one that looks like a virtual key wins, else the first one at all.
pub fn credential<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Option<Cow<'a, str>> {
    let bearer = headers.get(AUTHORIZATION).and_then(bearer);
    // Nearly every request's.
    if let Some(key) = bearer.filter(|key| key.starts_with(PREFIX)) {
        return Some(Cow::Borrowed(key));
    }
    let named = NAMES.iter().filter_map(|name| headers.get(name)).map(text);
    let mut first = None;
    for found in bearer.into_iter().chain(named).map(Cow::Borrowed).chain(query.and_then(in_query)) {
        if found.starts_with(PREFIX) {
            return Some(found);
        }
        first.get_or_insert(found);
    }
    first
}

/// The key among the subprotocols of a WebSocket's handshake, where browsers put it: they can set no header.
pub fn in_protocol(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let values = headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).find_map(|word| word.trim().strip_prefix(IN_PROTOCOL)).map(Cow::Borrowed)
}

/// Length and characters only: `sk-pc-` and 43 url-safe characters.
pub fn well_formed(key: &str) -> bool {
    key.len() == LENGTH
        && key
            .strip_prefix(PREFIX)
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
}

/// A new key of 256 random bits.
pub fn mint() -> Result<Secret, aws_lc_rs::error::Unspecified> {
    minted(PREFIX)
}

/// A new token of the admin API, of 256 random bits.
pub fn mint_token() -> Result<Secret, aws_lc_rs::error::Unspecified> {
    minted(TOKEN_PREFIX)
}

fn minted(prefix: &str) -> Result<Secret, aws_lc_rs::error::Unspecified> {
    let mut bytes = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *bytes)?;
    let mut key = String::with_capacity(prefix.len() + 43);
    key.push_str(prefix);
    URL_SAFE_NO_PAD.encode_string(*bytes, &mut key);
    Ok(Secret::new(key))
}

/// Other schemes than Bearer are not ours to read.
fn bearer(value: &HeaderValue) -> Option<&str> {
    let bytes = value.as_bytes();
    let (scheme, rest) = bytes.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    // A header's text is ASCII as a rule, and so are the spaces around it.
    Some(std::str::from_utf8(rest.trim_ascii()).map_or("", str::trim))
}

/// What is no text is a malformed key, not an absent one.
fn text(value: &HeaderValue) -> &str {
    value.to_str().map_or("", str::trim)
}

fn in_query(query: &str) -> Option<Cow<'_, str>> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("key="))?;
    Some(percent_encoding::percent_decode_str(value).decode_utf8().unwrap_or(Cow::Borrowed("")))
}

pub const PREFIX: &str = "sk-pc-";
pub const TOKEN_PREFIX: &str = "sk-pca-";
const LENGTH: usize = PREFIX.len() + 43;
static NAMES: [HeaderName; 3] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("api-key"),
];
const IN_PROTOCOL: &str = "openai-insecure-api-key.";

//! Keys that travel in a header, and which headers never travel whoever put them there (promise 29).

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT_ENCODING, AUTHORIZATION},
};

use super::{AuthScheme, Identity};
use crate::config::Secret;

/// The key as its scheme sends it; `None` where nothing is sent.
pub fn key(scheme: AuthScheme, key: &Secret) -> Result<Option<Identity>, &'static str> {
    let name = match scheme {
        AuthScheme::Bearer => return bearer(key).map(Some),
        AuthScheme::XApiKey => "x-api-key",
        AuthScheme::XGoogApiKey => "x-goog-api-key",
        AuthScheme::ApiKey => "api-key",
        AuthScheme::None => return Ok(None),
    };
    Ok(Some(Identity::Header(HeaderName::from_static(name), sensitive(key.expose())?)))
}

pub fn bearer(token: &Secret) -> Result<Identity, &'static str> {
    Ok(Identity::Header(AUTHORIZATION, sensitive(&format!("Bearer {}", token.expose()))?))
}

fn sensitive(text: &str) -> Result<HeaderValue, &'static str> {
    let mut value = HeaderValue::from_str(text).map_err(|_| "a key has characters that no header can carry")?;
    value.set_sensitive(true);
    Ok(value)
}

/// Removes what must not travel, before the proof is put on.
pub fn strip(headers: &mut HeaderMap) {
    if headers.keys().any(|name| never(name.as_str())) {
        let found: Vec<HeaderName> = headers.keys().filter(|name| never(name.as_str())).cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }
    // Answers are read as they come; a compressed stream could not be.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Credentials of anybody else, hop-by-hop fields, what the transport writes itself, and what a signature writes.
pub fn never(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "x-api-key"
            | "x-goog-api-key"
            | "api-key"
            | "cookie"
            | "set-cookie"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "proxy-connection"
            | "connection"
            | "keep-alive"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "expect"
            | "host"
            | "content-length"
            | "content-encoding"
            | "accept-encoding"
            | "forwarded"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-proto"
            | "x-real-ip"
            | "x-amz-date"
            | "x-amz-security-token"
            | "x-amz-content-sha256"
    )
}

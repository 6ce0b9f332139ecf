//! What goes wrong on the way to an upstream, in words for the caller.
//!
//! Names the host and nothing else of a URL: paths, queries and user information may hold secrets.

use std::{error::Error as _, io, time::Duration};

use crate::error::{Error, Kind};

pub fn connect_timeout(host: &str, limit: Duration) -> Error {
    Error::new(Kind::UpstreamTimeout, format!("no connection to {host} within {} ms", limit.as_millis()))
        .with_code("connect_timeout")
}

pub fn not_found(host: &str, cause: io::Error) -> Error {
    Error::new(Kind::Upstream, format!("the name {host} cannot be resolved: check the provider's base_url and the DNS"))
        .because(cause)
}

pub fn no_connection(host: &str, cause: io::Error) -> Error {
    let why = match cause.kind() {
        io::ErrorKind::ConnectionRefused => {
            return Error::new(Kind::Upstream, format!("no connection to {host}: connection refused"))
                .with_code("connection_refused")
                .because(cause);
        }
        io::ErrorKind::TimedOut => {
            return Error::new(Kind::UpstreamTimeout, format!("no connection to {host}: no address answered in time"))
                .with_code("connect_timeout")
                .because(cause);
        }
        _ => cause.to_string(),
    };
    Error::new(Kind::Upstream, format!("no connection to {host}: {why}")).because(cause)
}

pub fn no_tls(host: &str, cause: io::Error) -> Error {
    let inner = cause.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let hint = match inner {
        Some(rustls::Error::InvalidCertificate(_)) => "; for a private certificate authority set `ca` of the provider",
        _ => "",
    };
    Error::new(Kind::Upstream, format!("TLS with {host} failed: {cause}{hint}")).because(cause)
}

/// The call went out, or began to, and no head came back.
pub fn before_head(host: &str, cause: hyper::Error) -> Error {
    let what = if cause.is_parse_too_large() {
        "sent response headers over the limit"
    } else if cause.is_parse() {
        "answered with something that is not HTTP"
    } else {
        "closed the connection before it answered"
    };
    Error::new(Kind::Upstream, format!("{host} {what}")).because(cause)
}

/// The answer broke off.
pub fn in_body(host: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Upstream, format!("{host} broke off in the middle of its answer"))
        .with_code("upstream_disconnected")
        .because(cause)
}

pub fn too_large(host: &str, limit: u64) -> Error {
    Error::new(Kind::Upstream, format!("the answer of {host} is over the limit of {limit} bytes"))
}

pub fn not_http2(host: &str, cause: hyper::Error) -> Error {
    let why = cause.source().map(ToString::to_string).unwrap_or_default();
    Error::new(Kind::Upstream, format!("{host} does not speak HTTP/2 ({why}): leave out `http2` of the provider"))
        .because(cause)
}

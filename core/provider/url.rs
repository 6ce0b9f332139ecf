//! The one builder of upstream URLs (promises 1 and 3): host and path come from the configuration and the catalogue, and
//! a model's name is at most one path segment, encoded once, or refused. Nothing a caller sent reaches any other place.

use std::net::IpAddr;

use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::{Error, Kind, Result};

/// Scheme, authority and path prefix of a provider, checked when the configuration is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Base {
    scheme: http::uri::Scheme,
    authority: http::uri::Authority,
    /// Without a slash at its end.
    prefix: String,
    host: String,
    port: u16,
}

impl Base {
    /// `https://host[:port][/path]`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Base, String> {
        let url = url::Url::parse(text).map_err(|e| format!("base_url `{text}` is not a URL: {e}"))?;
        let wrong = |what: &str| Err(format!("base_url must look like https://host/v1, without {what}"));
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("base_url `{text}` must begin with https:// or http://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return wrong("a user name or password (a key belongs in `key`)");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return wrong("a query or fragment");
        }
        let host = url.host_str().filter(|h| !h.is_empty()).ok_or("base_url has no host")?.to_owned();
        let port = url.port_or_known_default().ok_or("base_url has no port")?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.clone(),
        };
        let scheme = if url.scheme() == "https" { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP };
        Ok(Base {
            scheme,
            authority: authority.parse().map_err(|_| format!("base_url `{text}` has no usable host"))?,
            prefix: url.path().trim_end_matches('/').to_owned(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
        })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Is the configured host itself a literal private or loopback address, or `localhost`?
    pub fn is_private(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
            Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
            Err(_) => self.host == "localhost" || self.host.ends_with(".localhost"),
        }
    }

    /// Does a URL lead to this very scheme, host, port and prefix?
    pub fn holds(&self, url: &Uri) -> bool {
        url.scheme() == Some(&self.scheme)
            && url.authority() == Some(&self.authority)
            && url.path().starts_with(&self.prefix)
    }

    /// `tail` begins with a slash and is made of the program's own words and encoded segments only.
    pub(super) fn join(&self, tail: &str) -> Result<Uri> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(format!("{}{tail}", self.prefix))
            .build()
            .map_err(|e| Error::new(Kind::Internal, "the upstream's URL could not be built").because(e))
    }
}

/// A model's name as one path segment.
pub(super) fn segment(model: &str) -> Result<String> {
    check_model(model)?;
    if matches!(model, "." | "..") {
        return Err(bad_model("it must not be a dot segment"));
    }
    Ok(utf8_percent_encode(model, SEGMENT).to_string())
}

/// What no model's name may be, wherever it travels.
pub fn check_model(model: &str) -> Result<()> {
    if model.is_empty() {
        return Err(bad_model("it is empty: write `provider/model`"));
    }
    if model.len() > MAX_MODEL {
        return Err(bad_model("it is too long"));
    }
    if model.chars().any(char::is_control) {
        return Err(bad_model("it has control characters"));
    }
    Ok(())
}

fn bad_model(why: &str) -> Error {
    Error::invalid("model", format!("the model's name cannot be used: {why}")).with_code("invalid_model")
}

/// RFC 3986 unreserved characters travel as they are.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const MAX_MODEL: usize = 512;

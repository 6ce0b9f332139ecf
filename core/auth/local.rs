//! Who is this machine's user, and who only borrows his browser: a page of another origin reaches loopback too, with a POST that
//! asks nobody before, with a WebSocket, or under a name of its own that it lets point to 127.0.0.1. Pure.

use std::net::IpAddr;

use http::{HeaderMap, header::ORIGIN};

use crate::error::{Error, Kind, Result};

/// An open gateway serves programs of this machine: pages from elsewhere, which every browser names in `Origin`, are a 403.
/// Pages of this machine and what runs under a scheme of its own (an editor's panel, an app) are let in, and who sends
/// neither header is no page.
pub fn refuse_pages(headers: &HeaderMap) -> Result<()> {
    let foreign = match headers.get(ORIGIN) {
        Some(origin) => !origin.to_str().is_ok_and(is_at_home),
        // An address in a page's markup: browsers send no origin with it.
        None => headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site"),
    };
    if !foreign {
        return Ok(());
    }
    let message =
        "web pages from elsewhere may not use an open gateway; set auth.required = true and send a virtual key";
    Err(Error::new(Kind::Forbidden, message).with_code("local_only"))
}

/// `null` is what a page says that hides where it comes from.
fn is_at_home(origin: &str) -> bool {
    match origin.split_once("://") {
        Some((scheme, authority)) if scheme == "http" || scheme == "https" => is_loopback(authority),
        Some(_) => true,
        None => false,
    }
}

/// A name or an address, with or without a port.
pub fn is_loopback(authority: &str) -> bool {
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(name, _)| name),
        None => authority.rsplit_once(':').map_or(authority, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

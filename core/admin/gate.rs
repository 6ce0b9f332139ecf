//! Who comes to the control plane. With `admin.token`: its holder, who is the owner, holders of scoped tokens, and users with a
//! signed token of an issuer that gateway.toml lets in. Without it
//! the local user is the owner: the local user's own tools, not a web page in the local user's browser, which can reach
//! loopback too (foreign origins, names rebound to 127.0.0.1). What somebody may do there stands in `auth::permission`.

use std::{net::SocketAddr, time::SystemTime};

use aws_lc_rs::digest;
use http::{HeaderMap, HeaderName, header, request::Parts};
use subtle::ConstantTimeEq;

use crate::{
    audit,
    auth::{Keys, credential::TOKEN_PREFIX, local::is_loopback, permission::Actor},
    config::Secret,
    error::{Error, Kind, Result},
};

/// How the local user is called.
pub(super) const LOCAL: &str = "local user";
/// And the holder of the one master token.
const OWNER: &str = "admin.token";

/// Who acts.
pub(super) async fn admit(token: Option<&Secret>, keys: &Keys, peer: SocketAddr, request: &Parts) -> Result<Actor> {
    let presented = bearer(&request.headers);
    if token.is_none() {
        check_local(peer, request)?;
    }
    let now = SystemTime::now();
    if let Some(presented) = presented.filter(|presented| presented.starts_with(TOKEN_PREFIX.as_bytes())) {
        return keys.actor(&String::from_utf8_lossy(presented), now);
    }
    let signed = presented.and_then(|presented| std::str::from_utf8(presented).ok());
    match (signed.filter(|text| keys.table().issuers().reads(text)), token) {
        // A master token may look like anything.
        (Some(_), Some(token)) if is_token(token, presented) => Ok(Actor::owner(OWNER)),
        (Some(signed), _) => keys.table().signed_actor(signed, now).await,
        (None, Some(token)) => check_token(token, presented),
        (None, None) => Ok(Actor::owner(LOCAL)),
    }
}

/// Whose token this is, though it is not let in: one that has ended, or whose user is gone.
pub(super) fn recognized(keys: &Keys, request: &Parts) -> Option<audit::Actor> {
    let presented = bearer(&request.headers).filter(|presented| presented.starts_with(TOKEN_PREFIX.as_bytes()))?;
    let (id, name) = keys.token_of(&String::from_utf8_lossy(presented))?;
    Some(audit::Actor { id: Some(id), name: Some(name), ..audit::Actor::new(audit::ActorKind::Token) })
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, presented) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| presented.trim_ascii())
}

fn is_token(token: &Secret, presented: Option<&[u8]>) -> bool {
    // Hashes have one length: nothing is told about the token's.
    let hash = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes);
    let same = |given: &[u8]| hash(given).as_ref().ct_eq(hash(token.expose().trim().as_bytes()).as_ref());
    presented.is_some_and(|presented| bool::from(same(presented)))
}

fn check_token(token: &Secret, presented: Option<&[u8]>) -> Result<Actor> {
    let refuse = |code: &'static str, message: &str| Err(Error::new(Kind::Unauthenticated, message).with_code(code));
    if presented.is_none() {
        return refuse(
            "token_missing",
            "the admin plane wants `Authorization: Bearer` with an admin token, or with the value of admin.token",
        );
    }
    if is_token(token, presented) {
        return Ok(Actor::owner(OWNER));
    }
    refuse(
        "invalid_token",
        "this is not the admin token; it is the value of admin.token in gateway.toml, not a virtual key",
    )
}

fn check_local(peer: SocketAddr, request: &Parts) -> Result<()> {
    let refuse = |message: &str| Err(Error::new(Kind::Forbidden, message).with_code("local_only"));
    if !peer.ip().to_canonical().is_loopback() {
        return refuse(
            "without admin.token the admin plane serves this machine only; set admin.token to reach it from elsewhere",
        );
    }
    let Some(host) = host(request) else { return refuse("the request names no host") };
    if !is_loopback(&host) {
        return refuse(
            "without admin.token the admin plane answers to localhost, 127.0.0.1 and [::1] only; set admin.token",
        );
    }
    let text = |name: HeaderName| request.headers.get(name).map(|v| v.to_str().unwrap_or("?").to_owned());
    let foreign_origin = text(header::ORIGIN).is_some_and(|origin| {
        origin.split_once("://").is_none_or(|(_, authority)| !authority.eq_ignore_ascii_case(&host))
    });
    let site = request.headers.get("sec-fetch-site").map(|v| v.as_bytes());
    if foreign_origin || site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return refuse("pages of other origins may not use the admin plane");
    }
    Ok(())
}

/// The one authority that the request was sent to.
fn host(request: &Parts) -> Option<String> {
    let mut named = request.headers.get_all(header::HOST).iter();
    let header = named.next().and_then(|v| v.to_str().ok());
    if named.next().is_some() {
        return None;
    }
    let target = request.uri.authority().map(|a| a.as_str());
    match (header, target) {
        (Some(header), Some(target)) if !header.eq_ignore_ascii_case(target) => None,
        (Some(host), _) | (None, Some(host)) => Some(host.to_owned()),
        (None, None) => None,
    }
}

//! Answers that an upstream makes while nobody waits, and keeps: which id is of one, and what is told of one that has begun. How
//! they are asked for is every kept thing's way (`kept`), what they cost is a batch's (`batches`).

use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, request::Parts};
use serde_json::Value;

use super::{Books, finish::fields, head::param, ids};
use crate::{
    auth::Principal,
    endpoint::Found,
    error::{Error, Kind, Result},
    model::Operation,
    seal::{Seals, Tenant, Thing},
};

/// What is asked of such an answer, if the id in the path is its owner's of one.
pub fn in_background(found: &Found, parts: &Parts, principal: &Principal, seals: &Seals) -> Result<Option<Found>> {
    let own = |id: &&str| seals.open(Thing::Response, Tenant::of(principal), id).is_ok();
    let Some(id) = found.id.as_deref().filter(own) else { return Ok(None) };
    let operation = match parts.method {
        Method::DELETE => Operation::DeleteResponse,
        Method::POST => Operation::CancelResponse,
        _ if parts.uri.path().ends_with("/input_items") => Operation::ResponseItems,
        _ => Operation::OneResponse,
    };
    if param(parts.uri.query(), "stream").as_deref() == Some("true") {
        let text = "an answer that is made in the background comes whole: leave `stream` out";
        return Err(Error::unsupported("stream", text));
    }
    Ok(Some(Found::kept(operation, found.format, id)))
}

/// One has begun: noted, so that it is charged whoever asks for it, and told under a sealed id.
pub async fn begun(
    body: &[u8],
    principal: &Principal,
    target: &str,
    books: Books<'_>,
    now: SystemTime,
) -> Result<Bytes> {
    let mut answer = fields(body)?;
    if answer.get("id").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(Error::new(Kind::Upstream, "the upstream began an answer and gave it no id"));
    }
    ids::seal(books.seals, Thing::Response, Tenant::of(principal), target, &mut answer)?;
    let id = answer.get("id").and_then(Value::as_str).unwrap_or_default();
    if let Err(error) = books.claims.opened(principal, id, now).await {
        tracing::warn!(%error, "an answer in the background will be charged only when its owner asks for it");
    }
    Ok(Value::Object(answer).to_string().into())
}

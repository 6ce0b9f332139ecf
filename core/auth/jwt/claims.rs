//! Claims of a token: whether it is in force and meant for us, and how values are read out of them. Pure.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::refuse;
use crate::{
    auth::expiry,
    config::jwt::Issuer,
    error::{Error, Kind, Result},
};

/// In force, for us, and with all that must be there.
pub(super) fn check(settings: &Issuer, claims: &Map<String, Value>, now: SystemTime) -> Result<()> {
    if claims.get("iss").and_then(Value::as_str) != Some(&settings.issuer) {
        return Err(refuse("this token is of another issuer"));
    }
    if !audience(settings, claims) {
        return Err(refuse("this token was made for another audience"));
    }
    if end(claims, settings.leeway)? <= now {
        let message = "this token has expired: get a new one from its issuer";
        return Err(Error::new(Kind::Unauthenticated, message).with_code("token_expired"));
    }
    if let Some(begin) = claims.get("nbf") {
        let begin = seconds(begin).ok_or_else(|| refuse("the claim nbf of this token is no time"))?;
        if expiry::from_seconds(begin) > now + settings.leeway {
            return Err(refuse("this token is not in force yet"));
        }
    }
    let missing = |path: &&String| value(claims, path).is_none_or(Value::is_null);
    match settings.required.iter().find(missing) {
        Some(path) => Err(refuse(format!("this token lacks the claim {path}"))),
        None => Ok(()),
    }
}

/// When it ends; a token without an end is none.
pub(super) fn end(claims: &Map<String, Value>, leeway: Duration) -> Result<SystemTime> {
    let end = claims.get("exp").ok_or_else(|| refuse("this token lacks the claim exp: it would never end"))?;
    let end = seconds(end).ok_or_else(|| refuse("the claim exp of this token is no time"))?;
    Ok(expiry::from_seconds(end.min(FARTHEST)) + leeway)
}

pub(super) fn audience(settings: &Issuer, claims: &Map<String, Value>) -> bool {
    let ours = |name: &Value| name.as_str().is_some_and(|name| settings.audience.iter().any(|a| a == name));
    match claims.get("aud") {
        Some(Value::Array(list)) => list.iter().any(ours),
        Some(one) => ours(one),
        None => false,
    }
}

/// What stands at a path. A name with dots in it counts before the way that it may be (`https://example.com/team`).
fn value<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    let mut value = claims.get(first)?;
    for step in rest.split('.') {
        value = value.get(step)?;
    }
    Some(value)
}

/// A text that is not empty.
pub(super) fn text<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c str> {
    value(claims, path)?.as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// Texts: of a list, or of one text with spaces or commas between them.
pub(super) fn texts(claims: &Map<String, Value>, path: &str) -> Vec<String> {
    let list: Vec<&str> = match value(claims, path) {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(text)) => text.split([' ', ',']).collect(),
        _ => Vec::new(),
    };
    let plain = |text: &&str| !text.is_empty() && text.len() <= MOST_TEXT && !text.chars().any(char::is_control);
    list.into_iter().map(str::trim).filter(plain).take(MOST_TEXTS).map(str::to_owned).collect()
}

/// As a tag can hold it.
pub(super) fn tag(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !matches!(c, ',' | '=')).take(MOST_TAG).collect()
}

/// NumericDate: seconds since the epoch, whole or not (RFC 7519, 2).
fn seconds(value: &Value) -> Option<u64> {
    let number = value.as_number()?;
    number.as_u64().or_else(|| number.as_f64().filter(|n| n.is_finite() && *n >= 0.0).map(|n| n as u64))
}

/// The year 9999: more would not fit the clock.
const FARTHEST: u64 = 253_402_300_799;
const MOST_TEXT: usize = 200;
const MOST_TEXTS: usize = 64;
const MOST_TAG: usize = 64;

//! What the ways to a token have in common: a call that is asked for, an answer that is read, and what comes of it. Pure
//! but for the trait that the gateway's own client implements.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header::CONTENT_TYPE};
use serde_json::Value;

use super::Identity;
use crate::{
    config::Secret,
    error::{Error, Kind, Result},
};

/// The world outside, as far as a login needs it: a call by the gateway's own client, a file that is renewed on disk,
/// and the wall clock.
pub trait Outside: Send + Sync {
    /// The error says why there was no answer, without the request's words.
    fn send(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, String>>;
    fn read(&self, path: &Path) -> Result<String, String>;
    fn now(&self) -> SystemTime;
}

/// One call. Its host is the configuration's or the cloud's own, never a caller's.
#[derive(Debug, Clone)]
pub struct Ask {
    pub method: Method,
    pub url: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub reach: Reach,
}

/// How far a call may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// A host of the open internet, or a private one that the configuration writes out itself.
    Host,
    /// The metadata service of the machine that the gateway runs on.
    Machine,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Bytes,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Granted {
    pub identity: Identity,
    /// From now on.
    pub lifetime: Duration,
}

impl Ask {
    pub fn get(url: &str, reach: Reach) -> Result<Ask> {
        let url = url.parse().map_err(|_| failed("its address cannot be used"))?;
        Ok(Ask { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new(), reach })
    }

    /// A form, as OAuth wants it.
    pub fn form(url: &str, fields: &[(&str, &str)]) -> Result<Ask> {
        let mut ask = Ask::get(url, Reach::Host)?;
        ask.method = Method::POST;
        ask.body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish().into();
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        Ok(ask)
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Result<Ask> {
        let mut value = HeaderValue::from_str(value).map_err(|_| failed(&format!("`{name}` cannot be sent")))?;
        value.set_sensitive(true);
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }
}

/// Sends and takes the body of a good answer. `who` is asked: it stands in messages.
pub async fn ask(outside: &dyn Outside, who: &str, ask: Ask) -> Result<Bytes> {
    let answer = outside.send(ask).await.map_err(|why| failed(&format!("{who} cannot be reached ({why})")))?;
    if (200..300).contains(&answer.status) {
        return Ok(answer.body);
    }
    // OAuth's words for what is wrong; free text could repeat what was sent.
    let said = serde_json::from_slice::<Value>(&answer.body).ok();
    let word = said.as_ref().and_then(|v| {
        ["/error/status", "/error", "/error_code", "/code"].iter().find_map(|at| v.pointer(at)?.as_str())
    });
    let word = word.filter(|w| w.len() <= 64 && w.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)));
    let status = answer.status;
    Err(match word {
        Some(word) => failed(&format!("{who} refused it with status {status} ({word})")),
        None => failed(&format!("{who} refused it with status {status}")),
    })
}

pub fn json(who: &str, body: &[u8]) -> Result<Value> {
    serde_json::from_slice(body).map_err(|_| failed(&format!("{who} answered with something that is not JSON")))
}

/// `{"access_token", "expires_in"}`, as OAuth answers.
pub fn oauth(who: &str, body: &[u8]) -> Result<(Secret, Duration)> {
    let answer = json(who, body)?;
    let token = text(&answer, "access_token").ok_or_else(|| failed(&format!("{who} answered without a token")))?;
    // Some write the number as text.
    let seconds = answer.get("expires_in").and_then(|v| v.as_u64().or_else(|| v.as_str()?.parse().ok()));
    Ok((Secret::new(token), Duration::from_secs(seconds.unwrap_or(LIFETIME).min(MOST))))
}

pub fn bearer(token: &Secret, lifetime: Duration) -> Result<Granted> {
    let identity = Identity::bearer(token).map_err(|why| failed(&format!("the token cannot be used: {why}")))?;
    Ok(Granted { identity, lifetime })
}

/// How long it is until a moment that an answer names (RFC 3339).
pub fn until(moment: Option<&str>, now: SystemTime) -> Duration {
    let then = moment.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let left = then.map(|then| SystemTime::from(then).duration_since(now).unwrap_or_default());
    left.unwrap_or(Duration::from_secs(LIFETIME)).min(Duration::from_secs(MOST))
}

pub fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// 502: nobody but the operator can help.
pub fn failed(why: &str) -> Error {
    let message =
        format!("the gateway could not log in at this model's provider: {why}; its operator has to look at it");
    Error::new(Kind::UpstreamAuth, message)
}

/// Where an answer does not say.
const LIFETIME: u64 = 3600;
/// Nothing is believed for longer than a day.
const MOST: u64 = 86_400;

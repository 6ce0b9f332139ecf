//! What the head of such a request says: its query, its path, what its body is. Reads, and decides nothing.

use std::borrow::Cow;

use http::{HeaderMap, header, request::Parts};
use percent_encoding::percent_decode_str;

use crate::{
    auth::credential,
    error::{Error, Kind, Result},
};

/// Where the caller wants it to go.
pub fn named_provider(parts: &Parts) -> Option<String> {
    let header = parts.headers.get("x-portcullis-provider").and_then(|v| v.to_str().ok()).map(str::to_owned);
    header.or_else(|| param(parts.uri.query(), "provider"))
}

/// A parameter of a query, decoded.
pub fn param(query: Option<&str>, name: &str) -> Option<String> {
    let pair = query?.split('&').filter_map(|p| p.split_once('=')).find(|(key, _)| *key == name)?;
    Some(percent_decode_str(pair.1).decode_utf8_lossy().into_owned())
}

/// A caller's query without its key, wherever it stands, and without what no URL holds.
pub fn without_key(query: &str) -> String {
    fn decoded(text: &str) -> Cow<'_, str> {
        percent_decode_str(text).decode_utf8_lossy()
    }
    let theirs = |pair: &&str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        !decoded(name).eq_ignore_ascii_case("key") && !credential::well_formed(&decoded(value))
    };
    let kept: Vec<_> = query.split('&').filter(theirs).collect();
    kept.join("&")
}

/// `/models/{model}:verb`, `/model/{model}/…`: the model as the path names it.
pub fn model_in(rest: &str) -> Option<String> {
    let decoded = percent_decode_str(rest).decode_utf8().ok()?;
    let tail = decoded.split_once("/models/").or_else(|| decoded.split_once("/model/"))?.1;
    let name = tail.split('/').next()?;
    let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
    (!name.is_empty()).then(|| name.to_owned())
}

pub fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.ends_with("+json")
}

pub fn refuse_form(headers: &HeaderMap) -> Result<()> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if kind.to_ascii_lowercase().starts_with("multipart/") {
        return Err(Error::new(Kind::UnsupportedMediaType, "send this as application/json: it is no form"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_key_stays_here_under_any_name() {
        let key = format!("sk-pc-{}", "A".repeat(43));
        let query = format!("a=1&key=x&KEY=x&k%65y=x&api_key={key}&t=sk%2Dpc{}&keys=2&b", &key[5..]);
        assert_eq!(without_key(&query), "a=1&keys=2&b");
    }
}

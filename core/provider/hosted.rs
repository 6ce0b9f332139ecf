//! Claude at the clouds: the vendor's own format behind another one's address. There the path names the model and whether it
//! streams, and the body says the API's version and the beta features that elsewhere are headers.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Map, Value, json};

use super::Provider;
use crate::{
    error::Error,
    model::{Format, Operation},
};

/// Top-level fields of a body to set, or (`None`) to take out.
pub type Overrides = Vec<(&'static str, Option<Bytes>)>;

/// What a row says of it.
#[derive(Debug, Default, PartialEq)]
pub struct Hosted {
    /// Of the API, as this platform writes it in the body.
    pub version: &'static str,
    /// Beta features stand in the body too, and only those whose names begin like this are known.
    pub betas: &'static [&'static str],
    /// Streams come in AWS's frames.
    pub framed: bool,
    /// In whose shape the platform's own errors come.
    pub errors: Option<Format>,
}

impl Provider {
    /// What this platform wants otherwise in a body than the format's own vendor does, and what it cannot take.
    pub fn overrides(
        &self,
        operation: Operation,
        client: &HeaderMap,
        same_format: bool,
    ) -> (Overrides, Option<&'static str>) {
        let Some(hosted) = self.hosted() else { return (Vec::new(), None) };
        let mut fields: Overrides = vec![("anthropic_version", Some(quoted(hosted.version)))];
        if operation == Operation::Chat || self.counts_wrapped(operation) {
            fields.push(("model", None));
            fields.push(("stream", None));
        }
        if self.counts_wrapped(operation) {
            // What is counted is a request that could be made.
            fields.push(("max_tokens", Some(Bytes::from_static(b"1"))));
        }
        let mut dropped = None;
        if same_format && !hosted.betas.is_empty() {
            let asked: Vec<&str> = client
                .get_all("anthropic-beta")
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','))
                .map(str::trim)
                .filter(|beta| !beta.is_empty())
                .collect();
            let known = |beta: &&&str| hosted.betas.iter().any(|prefix| beta.starts_with(prefix));
            let sent: Vec<Value> = asked.iter().filter(known).map(|beta| Value::from(*beta)).collect();
            dropped = (sent.len() < asked.len()).then_some("anthropic-beta");
            if !sent.is_empty() {
                fields.push(("anthropic_beta", Some(Value::Array(sent).to_string().into())));
            }
        }
        (fields, dropped)
    }

    /// How to read an error of this upstream, and whether its body may go on as it is to a client of that format: a platform
    /// has its own shape where the request never reached the model.
    pub fn error_format(&self, spoken: Format, body: &[u8]) -> (Format, bool) {
        match self.hosted() {
            Some(hosted) if !is_own(body) => (hosted.errors.unwrap_or(spoken), hosted.errors.is_some()),
            _ => (spoken, true),
        }
    }

    /// A token count that takes the format's own body inside of the platform's.
    pub fn counts_wrapped(&self, operation: Operation) -> bool {
        operation == Operation::CountTokens && self.framed()
    }

    /// The upstream says that it cannot count this model's tokens, which no list of models tells for sure.
    pub fn counts_not(&self, error: &Error) -> bool {
        let at_aws = self.format == Format::BedrockConverse || self.framed();
        at_aws && error.upstream.as_ref().is_some_and(|fault| matches!(fault.status, 400 | 404))
    }

    /// Its streams come in AWS's frames around the format's own events.
    pub fn framed(&self) -> bool {
        self.hosted().is_some_and(|hosted| hosted.framed)
    }

    /// A configuration may build another format on the same row: that one has no wrapping.
    fn hosted(&self) -> Option<&'static Hosted> {
        self.row.hosted.as_ref().filter(|_| self.format == self.row.format)
    }
}

/// The platform's request for a count of what this body would use.
pub fn wrapped(body: &[Bytes]) -> Bytes {
    let whole = body.concat();
    let value = json!({"input": {"invokeModel": {"body": STANDARD.encode(whole)}}});
    value.to_string().into()
}

/// Models whose tokens AWS counts: the maker's, but for the oldest ones.
pub(super) fn countable(model: &str) -> bool {
    let name = bare(model).strip_prefix("anthropic.claude-");
    name.is_some_and(|name| !UNCOUNTED.iter().any(|old| name.starts_with(old)))
}

/// Counts are asked of the model itself, not of a profile that spreads its calls over regions (`us.anthropic.claude-…`).
pub(super) fn bare(model: &str) -> &str {
    match model.split_once('.') {
        Some((_, rest)) if rest.starts_with("anthropic.") => rest,
        _ => model,
    }
}

/// `{"type": "error", …}` is the vendor's own shape.
fn is_own(body: &[u8]) -> bool {
    let said = serde_json::from_slice::<Map<String, Value>>(body);
    said.is_ok_and(|said| said.get("type").and_then(Value::as_str) == Some("error"))
}

fn quoted(text: &str) -> Bytes {
    Value::from(text).to_string().into()
}

const UNCOUNTED: [&str; 7] = ["instant", "v1", "v2", "3-haiku", "3-sonnet", "3-opus", "3-5-sonnet-20240620"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_asked_of_the_model_behind_a_profile_where_there_are_any() {
        for (model, asked) in [
            ("us.anthropic.claude-sonnet-4-20250514-v1:0", Some("anthropic.claude-sonnet-4-20250514-v1:0")),
            ("anthropic.claude-3-5-haiku-20241022-v1:0", Some("anthropic.claude-3-5-haiku-20241022-v1:0")),
            ("us-gov.anthropic.claude-3-7-sonnet-20250219-v1:0", Some("anthropic.claude-3-7-sonnet-20250219-v1:0")),
            ("anthropic.claude-3-haiku-20240307-v1:0", None),
            ("eu.anthropic.claude-v2:1", None),
            ("amazon.nova-pro-v1:0", None),
            ("arn:aws:bedrock:us-east-1:1:application-inference-profile/x", None),
        ] {
            assert_eq!(countable(model).then(|| bare(model)), asked, "{model}");
        }
    }

    #[test]
    fn a_wrapped_count_holds_the_body_whole() {
        let wrapped = wrapped(&[Bytes::from_static(b"{\"a\""), Bytes::from_static(b":1}")]);
        assert_eq!(&wrapped[..], br#"{"input":{"invokeModel":{"body":"eyJhIjoxfQ=="}}}"#);
    }
}

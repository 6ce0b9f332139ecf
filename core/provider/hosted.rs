//! Claude at the clouds: the vendor's own format behind another one's address. There the path names the model and whether it
//! streams, and the body says the API's version and the beta features that elsewhere are headers.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Map, Value};

use super::Provider;
use crate::model::{Format, Operation};

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
        if operation == Operation::Chat {
            fields.push(("model", None));
            fields.push(("stream", None));
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

    /// Its streams come in AWS's frames around the format's own events.
    pub fn framed(&self) -> bool {
        self.hosted().is_some_and(|hosted| hosted.framed)
    }

    /// A configuration may build another format on the same row: that one has no wrapping.
    fn hosted(&self) -> Option<&'static Hosted> {
        self.row.hosted.as_ref().filter(|_| self.format == self.row.format)
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

//! A stream of this format inside AWS event-stream frames, as `invoke-with-response-stream` sends it: each `chunk` holds one
//! event in base64. Taken out of its frames it is the server-sent events that the vendor's own API sends, so that everything
//! behind this reads one kind of stream. Any split of the bytes gives the same events.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::eventstream::{Decoder, Frame, Said};
use crate::error::{Error, Kind, Result};

pub struct Unwrap {
    frames: Decoder,
}

impl Unwrap {
    /// `limit`: the most bytes of one frame.
    pub fn new(limit: usize) -> Unwrap {
        Unwrap { frames: Decoder::new(limit) }
    }

    /// Appends the events that `bytes` completes.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.frames.push(bytes, |frame| event(&frame, out))
    }

    /// The upstream closed. An error if it did so inside a frame.
    pub fn finish(&self) -> Result<()> {
        self.frames.finish()
    }
}

fn event(frame: &Frame, out: &mut Vec<u8>) -> Result<()> {
    match frame.said {
        Said::Event if frame.name == "chunk" => {}
        // A kind of frame that nobody told us of holds nothing that the format knows.
        Said::Event => return Ok(()),
        Said::Exception | Said::Error => {
            let error = fault(&frame.name, &frame.payload);
            write("error", error.to_string().as_bytes(), out);
            return Ok(());
        }
    }
    let broken = || Error::new(Kind::Upstream, "the upstream sent a stream frame without an event in it");
    let chunk: Chunk<'_> = serde_json::from_slice(&frame.payload).map_err(|_| broken())?;
    let json = BASE64_STANDARD.decode(chunk.bytes.as_bytes()).map_err(|_| broken())?;
    let named: Named<'_> = serde_json::from_slice(&json).map_err(|_| broken())?;
    write(&named.kind, &json, out);
    Ok(())
}

/// The format's own error event for what the service calls its exceptions.
fn fault(name: &str, payload: &[u8]) -> Value {
    let word = match name.trim_end_matches("Exception") {
        "throttling" | "modelNotReady" => "rate_limit_error",
        "validation" => "invalid_request_error",
        "serviceUnavailable" => "overloaded_error",
        "modelTimeout" => "timeout_error",
        _ => "api_error",
    };
    // An exception is JSON, an error its message alone.
    let said = serde_json::from_slice::<Value>(payload).ok();
    let field = |key: &str| said.as_ref()?.get(key)?.as_str();
    let message = ["message", "Message", "originalMessage"].into_iter().find_map(field);
    let message =
        message.or_else(|| std::str::from_utf8(payload).ok().filter(|text| said.is_none() && !text.is_empty()));
    json!({"type": "error", "error": {"type": word, "message": message.unwrap_or("the model's stream failed")}})
}

fn write(kind: &str, json: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    // A name of two lines would be two lines of the stream.
    out.extend(kind.bytes().filter(|b| !b.is_ascii_control()));
    out.extend_from_slice(b"\ndata: ");
    // A line break can only stand between tokens: it means nothing there.
    out.extend(json.iter().filter(|b| !matches!(b, b'\n' | b'\r')));
    out.extend_from_slice(b"\n\n");
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    bytes: std::borrow::Cow<'a, str>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow, rename = "type")]
    kind: std::borrow::Cow<'a, str>,
}

//! AWS event streams (`application/vnd.amazon.eventstream`) as a push machine: bytes in, frames out, at any split; and frames
//! back to bytes. Every frame's two checksums are checked. Knows no event of any service: what a frame means is its codec's.
//!
//! A frame: length of all, length of the headers, checksum of these eight bytes (the prelude), headers, payload, checksum of
//! all before it. Numbers are big-endian.

use aws_smithy_eventstream::frame::read_message_from;
use bytes::Bytes;

use crate::error::{Error, Kind, Result};

/// The content type of such a stream.
pub const CONTENT_TYPE: &str = "application/vnd.amazon.eventstream";

/// What a frame says it is, by `:message-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// `:event-type` names it.
    Event,
    /// `:exception-type` names it: the stream failed in a way that the service knows.
    Exception,
    /// `:error-code` names it, `:error-message` is its payload here: the stream failed in a way that it does not know.
    Error,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub said: Said,
    /// The event's, exception's or error's name; empty if the frame named none.
    pub name: String,
    pub payload: Bytes,
}

#[derive(Debug)]
pub struct Decoder {
    held: Vec<u8>,
    limit: usize,
    last: Last,
}

/// What the last event's headers were, and its name: nearly all frames of a stream have the same ones.
#[derive(Debug, Default)]
struct Last {
    headers: Vec<u8>,
    name: String,
}

impl Decoder {
    /// `limit`: the most bytes one frame may have.
    pub fn new(limit: usize) -> Self {
        Decoder { held: Vec::new(), limit, last: Last::default() }
    }

    /// Calls `each` for every frame that `bytes` completes.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame) -> Result<()>) -> Result<()> {
        // What is held is the start of one frame: it gets what it lacks and no more, first its length and then its rest.
        while !self.held.is_empty() && !bytes.is_empty() {
            let whole = match length(&self.held, self.limit)? {
                Some(whole) => whole,
                None => PRELUDE,
            };
            let (mine, rest) = bytes.split_at(bytes.len().min(whole - self.held.len()));
            self.held.extend_from_slice(mine);
            bytes = rest;
            if length(&self.held, self.limit)? == Some(self.held.len()) {
                let frame = self.last.read(&self.held)?;
                self.held.clear();
                each(frame)?;
            }
        }
        while let Some(whole) = length(bytes, self.limit)? {
            let Some((frame, rest)) = bytes.split_at_checked(whole) else { break };
            bytes = rest;
            each(self.last.read(frame)?)?;
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    /// The upstream closed. An error if it did so inside a frame.
    pub fn finish(&self) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        Err(broken("the upstream's stream ended inside a frame"))
    }
}

impl Last {
    /// One whole frame: headers that are the last ones are not read again.
    fn read(&mut self, frame: &[u8]) -> Result<Frame> {
        let headers = self.headers.len();
        let parts = frame.split_at_checked(PRELUDE).and_then(|(prelude, rest)| {
            let (body, crc) = rest.split_last_chunk::<4>()?;
            Some((prelude, body.strip_prefix(self.headers.as_slice())?, *crc))
        });
        if let Some((prelude, payload, crc)) = parts
            && headers > 0
            && prelude[4..8] == (headers as u32).to_be_bytes()
            && prelude[8..] == checksum(&prelude[..8])
            && crc == checksum(&frame[..frame.len() - 4])
        {
            let payload = Bytes::copy_from_slice(payload);
            return Ok(Frame { said: Said::Event, name: self.name.clone(), payload });
        }
        // Another one, or a damaged one.
        let read = read(frame)?;
        self.headers.clear();
        if read.said == Said::Event {
            let length = u32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]) as usize;
            self.headers.extend_from_slice(frame.get(PRELUDE..PRELUDE + length).unwrap_or_default());
            self.name.clone_from(&read.name);
        }
        Ok(read)
    }
}

/// How long the frame at the start of `bytes` is; `None` while its prelude is not whole. An error if no frame is that long.
pub fn length(bytes: &[u8], limit: usize) -> Result<Option<usize>> {
    let Some(prelude) = bytes.get(..PRELUDE) else { return Ok(None) };
    let length = u32::from_be_bytes([prelude[0], prelude[1], prelude[2], prelude[3]]) as usize;
    if length < SMALLEST {
        return Err(broken("the upstream sent a broken event-stream frame"));
    }
    if length > limit {
        return Err(broken(format!("the upstream sent a stream event over {limit} bytes")));
    }
    Ok(Some(length))
}

/// One whole frame.
pub fn read(frame: &[u8]) -> Result<Frame> {
    let message = read_message_from(frame)
        .map_err(|e| broken("the upstream sent an event-stream frame that is damaged").because(e))?;
    let text = |name: &str| {
        let header = message.headers().iter().find(|h| h.name().as_str() == name)?;
        header.value().as_string().ok().map(|text| text.as_str().to_owned())
    };
    let (said, name) = match text(":message-type").as_deref() {
        Some("exception") => (Said::Exception, text(":exception-type")),
        Some("error") => (Said::Error, text(":error-code")),
        // One that does not say is an event to the vendor's own readers too, if it is one by its name.
        _ => (Said::Event, text(":event-type")),
    };
    let payload = match said {
        Said::Error => text(":error-message").unwrap_or_default().into(),
        Said::Event | Said::Exception => message.payload().clone(),
    };
    Ok(Frame { said, name: name.unwrap_or_default(), payload })
}

/// Appends one frame with a JSON payload.
pub fn write(said: Said, name: &str, payload: &[u8], out: &mut Vec<u8>) {
    let before = out.len();
    // Names are ours and short, so it is only the length in 32 bits that can fail it.
    if write_frame(said, name, payload, out).is_none() {
        out.truncate(before);
    }
}

fn write_frame(said: Said, name: &str, payload: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (kind, named) = match said {
        Said::Event => ("event", ":event-type"),
        Said::Exception => ("exception", ":exception-type"),
        Said::Error => ("error", ":error-code"),
    };
    let before = out.len();
    out.reserve(payload.len() + name.len() + ROOM);
    out.extend_from_slice(&[0; PRELUDE]);
    // In the vendor's order.
    header(named, name, out)?;
    let payload = match said {
        Said::Error => {
            let message: String = String::from_utf8_lossy(payload).chars().take(LONGEST_MESSAGE).collect();
            header(":error-message", &message, out)?;
            &[]
        }
        Said::Event | Said::Exception => {
            header(":content-type", "application/json", out)?;
            payload
        }
    };
    header(":message-type", kind, out)?;
    let headers = out.len() - before - PRELUDE;
    out.extend_from_slice(payload);
    seal(before, headers, out)
}

/// What the frames of one kind begin with, made once for many of them.
pub struct Head(Vec<u8>);

impl Head {
    /// Of events with this name.
    pub fn event(name: &str) -> Head {
        let mut frame = Vec::with_capacity(ROOM);
        write(Said::Event, name, b"", &mut frame);
        frame.truncate(frame.len().saturating_sub(4));
        Head(frame)
    }

    /// Appends a frame. `payload` appends its JSON.
    pub fn write(&self, out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
        let before = out.len();
        out.extend_from_slice(&self.0);
        payload(out);
        if seal(before, self.0.len().saturating_sub(PRELUDE), out).is_none() {
            out.truncate(before);
        }
    }
}

/// Lengths and checksums of the frame that begins at `before` and is complete but for them.
fn seal(before: usize, headers: usize, out: &mut Vec<u8>) -> Option<()> {
    let headers = u32::try_from(headers).ok()?;
    let whole = u32::try_from(out.len() - before + 4).ok()?;
    let prelude = &mut out[before..before + PRELUDE];
    prelude[..4].copy_from_slice(&whole.to_be_bytes());
    prelude[4..8].copy_from_slice(&headers.to_be_bytes());
    let crc = checksum(&prelude[..8]);
    prelude[8..].copy_from_slice(&crc);
    let crc = checksum(&out[before..]);
    out.extend_from_slice(&crc);
    Some(())
}

/// A header with a text. `None`: one of them is too long for its length.
fn header(name: &str, value: &str, out: &mut Vec<u8>) -> Option<()> {
    let length = u16::try_from(value.len()).ok().filter(|length| *length <= i16::MAX as u16)?;
    out.push(u8::try_from(name.len()).ok()?);
    out.extend_from_slice(name.as_bytes());
    out.push(TEXT);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value.as_bytes());
    Some(())
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32fast::hash(bytes).to_be_bytes()
}

fn broken(message: impl Into<String>) -> Error {
    Error::new(Kind::Upstream, message)
}

/// Two lengths and their checksum.
const PRELUDE: usize = 12;
/// A frame with neither headers nor payload.
const SMALLEST: usize = PRELUDE + 4;
/// The type of a header's value.
const TEXT: u8 = 7;
/// What stands around a payload, without the event's name.
const ROOM: usize = 100;
/// A header's value has at most 32767 bytes, a letter at most four.
const LONGEST_MESSAGE: usize = 8000;

#[cfg(test)]
#[path = "eventstream_tests.rs"]
mod tests;

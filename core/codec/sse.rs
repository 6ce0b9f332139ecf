//! Server-sent events as a push machine: bytes in, frames out, at any split. WHATWG rules: LF, CR and CRLF end a line,
//! a BOM at the start is skipped, several `data:` lines join with LF, comments and unknown fields are skipped. But for one: a
//! last frame that lacks only its empty line is told when the stream is over, because servers and proxies leave that line out.

use crate::error::{Error, Kind, Result};

/// One event. `event` is empty when the stream named none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    pub event: String,
    pub data: String,
}

#[derive(Debug)]
pub struct Decoder {
    line: Vec<u8>,
    /// Its name is the last frame's, until this one is named.
    frame: Frame,
    named: bool,
    has_data: bool,
    /// The last byte was CR: an LF that follows belongs to it.
    after_cr: bool,
    started: bool,
    limit: usize,
}

#[cfg(test)]
impl Default for Decoder {
    fn default() -> Self {
        Decoder::new(MAX_EVENT)
    }
}

impl Decoder {
    /// `limit`: the most bytes one event may have.
    pub fn new(limit: usize) -> Self {
        Decoder {
            line: Vec::new(),
            frame: Frame::default(),
            named: false,
            has_data: false,
            after_cr: false,
            started: false,
            limit,
        }
    }

    /// Calls `each` for every frame that `bytes` completes.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&Frame) -> Result<()>) -> Result<()> {
        while !bytes.is_empty() {
            if self.after_cr {
                self.after_cr = false;
                if bytes[0] == b'\n' {
                    bytes = &bytes[1..];
                    continue;
                }
            }
            match memchr::memchr2(b'\n', b'\r', bytes) {
                None => {
                    self.grow(bytes)?;
                    return Ok(());
                }
                Some(end) => {
                    self.after_cr = bytes[end] == b'\r';
                    if self.line.is_empty() {
                        self.end_line(&bytes[..end], &mut each)?;
                    } else {
                        self.grow(&bytes[..end])?;
                        let line = std::mem::take(&mut self.line);
                        self.end_line(&line, &mut each)?;
                        self.line = line;
                        self.line.clear();
                    }
                    bytes = &bytes[end + 1..];
                }
            }
        }
        Ok(())
    }

    /// The upstream closed. `each` says whether what stood there was whole.
    pub fn finish(&mut self, each: impl FnMut(&Frame) -> Result<()>) -> Result<()> {
        self.push(b"\n\n", each)
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<()> {
        if self.line.len() + self.frame.data.len() + bytes.len() > self.limit {
            return Err(too_large(self.limit));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, line: &[u8], each: &mut impl FnMut(&Frame) -> Result<()>) -> Result<()> {
        let line = if self.started { line } else { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) };
        self.started = true;
        if line.is_empty() {
            if !std::mem::take(&mut self.named) {
                self.frame.event.clear();
            }
            let told = if std::mem::take(&mut self.has_data) { each(&self.frame) } else { Ok(()) };
            // Their room is kept for the next one, unless this one was far longer than most.
            self.frame.data.clear();
            self.frame.data.shrink_to(ROOM);
            return told;
        }
        let (name, value) = field(line);
        match name {
            b"data" => {
                if self.frame.data.len() + value.len() > self.limit {
                    return Err(too_large(self.limit));
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.frame.data.push('\n');
                }
                add(value, &mut self.frame.data);
            }
            b"event" => {
                self.named = true;
                // Most frames are called as the one before.
                if value != self.frame.event.as_bytes() {
                    self.frame.event.clear();
                    add(value, &mut self.frame.event);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A line's name and value.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    // As nearly all are written.
    for name in [&b"data"[..], b"event"] {
        if let Some(value) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(b": ")) {
            return (name, value);
        }
    }
    match memchr::memchr(b':', line) {
        Some(at) => (&line[..at], line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..])),
        None => (line, b""),
    }
}

/// Appends one frame. `data` must hold no line break (JSON never does).
pub fn write(event: Option<&str>, data: &[u8], out: &mut Vec<u8>) {
    if let Some(event) = event {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

/// What is no UTF-8 is marked, as the standard says.
fn add(bytes: &[u8], text: &mut String) {
    match simdutf8::basic::from_utf8(bytes) {
        Ok(valid) => text.push_str(valid),
        Err(_) => text.push_str(&String::from_utf8_lossy(bytes)),
    }
}

fn too_large(limit: usize) -> Error {
    Error::new(Kind::Upstream, format!("the upstream sent a stream event over {limit} bytes"))
}

/// Of a frame, kept for the next.
const ROOM: usize = 16 << 10;

/// The usual limit, 16 MiB: images come as one event (promise 24).
pub const MAX_EVENT: usize = 16 << 20;

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;

//! How a format's streams are cut into events, and what they are called in a `content-type`. Reads no event.

use super::{EVENT_STREAM, eventstream};
use crate::{error::Result, model::Format};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events: a frame ends with an empty line.
    Sse,
    /// AWS event streams: a frame begins with its length and ends with its checksum.
    EventStream,
    /// A JSON value a line.
    Lines,
}

impl Framing {
    pub const fn of(format: Format) -> Framing {
        match format {
            Format::OpenaiChat
            | Format::OpenaiResponses
            | Format::AnthropicMessages
            | Format::Gemini
            | Format::Cohere => Framing::Sse,
            Format::BedrockConverse => Framing::EventStream,
            Format::Ollama => Framing::Lines,
        }
    }

    /// Of an answer, as its `content-type` tells; `None` if that is no stream.
    pub fn told(content_type: &str) -> Option<Framing> {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        let all = [Framing::Sse, Framing::EventStream, Framing::Lines];
        all.into_iter().find(|framing| framing.accept().eq_ignore_ascii_case(kind))
    }

    /// What a client that reads such a stream is told.
    pub const fn content_type(self) -> &'static str {
        match self {
            Framing::Sse => EVENT_STREAM,
            Framing::EventStream | Framing::Lines => self.accept(),
        }
    }

    /// What an upstream is asked for.
    pub const fn accept(self) -> &'static str {
        match self {
            Framing::Sse => "text/event-stream",
            Framing::EventStream => eventstream::CONTENT_TYPE,
            Framing::Lines => "application/x-ndjson",
        }
    }

    /// Where the first frame of `bytes` ends; `None` if it does not yet. The first `known` bytes hold no whole end.
    pub fn end(self, bytes: &[u8], known: usize, limit: usize) -> Result<Option<usize>> {
        Ok(match self {
            // What is known may end with half of an end.
            Framing::Sse => {
                let known = known.saturating_sub(3);
                empty_line(&bytes[known..]).map(|end| known + end)
            }
            Framing::Lines => memchr::memchr(b'\n', &bytes[known..]).map(|end| known + end + 1),
            Framing::EventStream => eventstream::length(bytes, limit)?.filter(|length| *length <= bytes.len()),
        })
    }

    /// What ends a frame that lacks nothing but its end when the upstream closes.
    pub const fn closing(self) -> &'static [u8] {
        match self {
            Framing::Sse => b"\n\n",
            Framing::Lines => b"\n",
            Framing::EventStream => b"",
        }
    }
}

/// Where the first empty line ends.
fn empty_line(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(offset) = memchr::memchr2(b'\n', b'\r', &bytes[from..]) {
        let line_end = from + offset;
        let next = if bytes[line_end..].starts_with(b"\r\n") { line_end + 2 } else { line_end + 1 };
        let rest = &bytes[next..];
        if rest.starts_with(b"\r\n") {
            return Some(next + 2);
        }
        // A lone CR at the end may be half of a CRLF.
        if rest.starts_with(b"\n") || (rest.starts_with(b"\r") && rest.len() > 1) {
            return Some(next + 1);
        }
        from = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::sse::MAX_EVENT;

    #[test]
    fn a_content_type_tells_the_framing_whatever_stands_behind_it() {
        for (said, framing) in [
            ("text/event-stream", Some(Framing::Sse)),
            ("text/event-stream; charset=utf-8", Some(Framing::Sse)),
            ("Text/Event-Stream", Some(Framing::Sse)),
            ("application/vnd.amazon.eventstream", Some(Framing::EventStream)),
            ("application/x-ndjson", Some(Framing::Lines)),
            ("application/json", None),
            ("text/event-streams", None),
            ("", None),
        ] {
            assert_eq!(Framing::told(said), framing, "{said}");
        }
        for format in Format::ALL {
            let framing = Framing::of(format);
            assert_eq!(Framing::told(framing.content_type()), Some(framing), "{format:?}");
        }
    }

    #[test]
    fn frames_end_where_their_framing_says() {
        let mut event = Vec::new();
        eventstream::write(eventstream::Said::Event, "a", b"{\n\n}", &mut event);
        for (framing, frame) in
            [(Framing::Sse, b"data: 1\r\n\r\n".as_slice()), (Framing::Lines, b"{}\n"), (Framing::EventStream, &event)]
        {
            let two = [frame, frame].concat();
            assert_eq!(framing.end(&two, 0, MAX_EVENT).expect("well formed"), Some(frame.len()), "{framing:?}");
            for known in 0..frame.len() {
                let piece = &frame[..known];
                assert_eq!(framing.end(piece, 0, MAX_EVENT).expect("a piece"), None, "{framing:?} {known}");
                assert_eq!(framing.end(&two, known, MAX_EVENT).expect("well formed"), Some(frame.len()));
            }
        }
        assert!(Framing::EventStream.end(&event, 0, 20).is_err(), "its length alone is too much");
    }
}

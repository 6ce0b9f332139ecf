//! Long texts on their way from the model into a body that is written anew. A codec copies what it writes; what is long is lent
//! instead: a mark stands in its place while the codec writes, and the text itself goes into the body's bytes. So such a text
//! exists twice, as it came and as it goes. Knows no format: where a codec did more with a mark than pass it on, nothing counts
//! of that, and the body is written once more without marks.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    super::{
        Dialect, Encoded,
        pieces::{self, pieces},
    },
    Document,
};
use crate::{
    error::Result,
    model::{Format, MediaSource, Part},
};

impl Document {
    /// For a target of another format: the whole body anew as the pieces that go on the wire, and the knobs that it cannot
    /// take. `more` is done to the body's fields before. What was read of a long body is let go of.
    pub fn anew(
        &mut self,
        format: Format,
        dialect: &Dialect,
        more: impl Fn(&mut Map<String, Value>),
    ) -> Result<(Vec<Bytes>, Vec<&'static str>)> {
        let texts = self.lend()?;
        if !texts.is_empty() {
            let encoded = self.encode(format, dialect);
            // The model is full of marks.
            self.decoded = None;
            if let Ok(Encoded { mut body, dropped }) = encoded {
                more(&mut body);
                if let Some(pieces) = pieces::with_lent(body, texts) {
                    return Ok((pieces, dropped));
                }
            }
        }
        let Encoded { mut body, dropped } = self.encode(format, dialect)?;
        // The body as it came and as it goes are there: a third copy of what is long is not kept beside them.
        self.release();
        more(&mut body);
        Ok((pieces(body), dropped))
    }

    /// Takes long texts out of the model, and leaves marks.
    fn lend(&mut self) -> Result<Vec<String>> {
        // What looks like a mark already would be taken for one.
        if !self.can_be_read_again() || memchr::memmem::find(&self.bytes, WRITTEN.as_bytes()).is_some() {
            return Ok(Vec::new());
        }
        // What somebody else reads, too, stays whole.
        let Some(request) = Arc::get_mut(self.decode()?) else { return Ok(Vec::new()) };
        let mut texts = Vec::new();
        for part in request.messages.iter_mut().flat_map(|message| &mut message.parts) {
            take(part, &mut texts);
        }
        Ok(texts)
    }
}

/// Only what codecs pass on as it is: none that may be JSON, have white space to trim or citations that count in it, and no
/// bytes that some wires turn into text.
fn take(part: &mut Part, texts: &mut Vec<String>) {
    let text = match part {
        Part::Text(text) if text.citations.is_empty() && is_prose(&text.text) => &mut text.text,
        Part::Media(media) => match &mut media.source {
            MediaSource::Base64(data) if media.mime.as_deref().is_some_and(is_binary) => data,
            _ => return,
        },
        Part::ToolResult(result) if result.object.is_none() => {
            return result.parts.iter_mut().for_each(|part| take(part, texts));
        }
        _ => return,
    };
    if text.len() >= LEAST {
        let mark = pieces::mark(texts.len());
        texts.push(std::mem::replace(text, mark));
    }
}

fn is_prose(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic()) && !text.ends_with(char::is_whitespace)
}

fn is_binary(mime: &str) -> bool {
    mime == "application/pdf" || ["image/", "audio/", "video/"].iter().any(|kind| mime.starts_with(kind))
}

/// How a mark's beginning stands in a body's JSON.
const WRITTEN: &str = "\\u0000lent ";
/// Shorter ones cost less to copy.
const LEAST: usize = 2 << 10;

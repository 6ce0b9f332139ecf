//! What a request says, piece by piece in an order of its own: for who wants to know whether two of them ask the same. The
//! client's bytes where nobody changed them, the model where stages did. Compares and keeps nothing.

use std::{
    fmt::{self, Write},
    mem::take,
    sync::Arc,
};

use super::Document;
use crate::error::Result;

impl Document {
    /// Everything that goes upstream of the body but the model's name and whether it streams, which belong to who asks.
    /// Fields in another order are the same request; a field that is written otherwise (`1.0` for `1`) is another one.
    pub fn tell(&mut self, to: &mut dyn FnMut(&[u8])) -> Result<()> {
        let mut piece = |bytes: &[u8]| {
            to(&(bytes.len() as u64).to_le_bytes());
            to(bytes);
        };
        piece(self.version.as_deref().unwrap_or_default().as_bytes());
        piece(&[u8::from(self.legacy), u8::from(self.made)]);
        let edited = |key: &[u8]| self.edited().any(|name| name.as_bytes() == key);
        let mut fields: Vec<(&[u8], &[u8])> = self
            .envelope
            .fields
            .iter()
            .map(|e| (e.name(&self.bytes), &self.bytes[e.value.clone()]))
            .filter(|(key, _)| !UNTOLD.contains(key) && !edited(key))
            .collect();
        // Stable: of a field that is written twice the order stays, because readers differ in which one they take.
        fields.sort_by_key(|(key, _)| *key);
        for (key, value) in fields {
            piece(key);
            piece(value);
        }
        if !self.dirty.is_empty() || self.made {
            piece(b"as edited");
            let request = Arc::make_mut(self.decode()?);
            let untold = (take(&mut request.model), take(&mut request.stream), take(&mut request.include_usage));
            // What cannot be written is not told: a sink of bytes takes everything.
            let _ = write!(Spoken(to), "{request:?}");
            (request.model, request.stream, request.include_usage) = untold;
        }
        Ok(())
    }

    /// Does it ask for a tool that its provider runs? What those find is of the moment.
    pub fn runs_tools(&mut self) -> Result<bool> {
        if self.envelope.value(&self.bytes, "web_search_options").is_some() {
            return Ok(true);
        }
        if !self.has_tools() && !self.made {
            return Ok(false);
        }
        let functions = |tool: &crate::model::Tool| matches!(tool, crate::model::Tool::Function(_));
        Ok(!self.request()?.tools.iter().all(functions))
    }

    /// Does it leave room for chance? Without a word on it, models draw lots.
    pub fn is_sampled(&mut self) -> Result<bool> {
        Ok(self.request()?.sampling.temperature != Some(0.0))
    }
}

/// Values in the words of `Debug`: complete, and the same for what is the same.
struct Spoken<'t>(&'t mut dyn FnMut(&[u8]));

impl Write for Spoken<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        (self.0)(text.as_bytes());
        Ok(())
    }
}

/// Told by the name in force, or of how the answer travels only.
const UNTOLD: [&[u8]; 3] = [b"model", b"stream", b"stream_options"];

//! A request body on its way through the gateway: the client's bytes, their envelope, and the canonical model once
//! somebody has read it. Edits are remembered by field, so that an answer in the same format patches the bytes.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

use super::{Dialect, Encoded, Field, Inbound, codec, envelope::Envelope};
use crate::{
    error::Result,
    model::{Format, Request},
};

/// Cheap to clone: an attempt works on its own copy.
#[derive(Debug, Clone)]
pub struct Document {
    format: Format,
    bytes: Bytes,
    envelope: Arc<Envelope>,
    model: Arc<str>,
    stream: bool,
    version: Option<Arc<str>>,
    counting: bool,
    decoded: Option<Arc<Request>>,
    dirty: Vec<Field>,
}

impl Document {
    /// Errors: not JSON, not an object, no model, a routing field twice.
    pub fn new(_format: Format, _bytes: Bytes, _inbound: Inbound<'_>) -> Result<Self> {
        todo!()
    }

    /// From a canonical request (a test case, `ask`): everything is dirty, there are no client bytes.
    pub fn from_request(_format: Format, _request: Request) -> Self {
        todo!()
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// The client's own bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The name in force: the caller's, or what a stage set.
    pub fn model(&self) -> &str {
        &self.model
    }

    pub fn set_model(&mut self, model: &str) {
        self.model = model.into();
    }

    pub fn stream(&self) -> bool {
        self.stream
    }

    /// The canonical request, decoded on first use.
    pub fn request(&mut self) -> Result<&Request> {
        if self.decoded.is_none() {
            let inbound = Inbound {
                model: Some(&self.model),
                stream: Some(self.stream),
                version: self.version.as_deref(),
                counting: self.counting,
            };
            self.decoded = Some(Arc::new(codec(self.format).decode_request(&self.bytes, inbound)?));
        }
        Ok(self.decoded.as_deref().unwrap_or_else(|| unreachable!()))
    }

    /// The canonical request for writing to `field`.
    pub fn edit(&mut self, field: Field) -> Result<&mut Request> {
        self.request()?;
        if !self.dirty.contains(&field) {
            self.dirty.push(field);
        }
        Ok(Arc::make_mut(self.decoded.as_mut().unwrap_or_else(|| unreachable!())))
    }

    /// Fields that were edited.
    pub fn dirty(&self) -> &[Field] {
        &self.dirty
    }

    /// The text of the last user turn; reads no more of the body than it must.
    pub fn last_user_text(&mut self) -> Result<Cow<'_, str>> {
        todo!()
    }

    /// Bytes of text in the prompt: the estimate's base. Does not decode.
    pub fn text_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// For a target of another format, or after edits that cannot be patched.
    pub fn encode(&mut self, format: Format, dialect: &Dialect) -> Result<Encoded> {
        codec(format).encode_request(self.request()?, dialect)
    }
}

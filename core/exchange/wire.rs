//! How a client wants its answer written, as its request and its headers say. Plain facts for the codec that writes.

use http::{HeaderMap, header};

use crate::{
    codec::{codec, document::Document},
    error::Result,
    model::{Encoding, Format, Operation},
};

/// How the client wants its answer written (see `ClientView`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Wire {
    pub include_usage: bool,
    pub json_array: bool,
    pub base64: bool,
    pub single: bool,
    pub legacy: bool,
    pub strict_sdk: bool,
}

impl Wire {
    pub fn of(operation: Operation, json_array: bool, single: bool, document: &mut Document) -> Result<Wire> {
        let base64 = operation == Operation::Embeddings && document.embeddings()?.encoding == Encoding::Base64;
        let include_usage = document.stream() && document.include_usage();
        Ok(Wire { include_usage, json_array, base64, single, legacy: document.legacy(), strict_sdk: false })
    }

    /// Some SDKs read streams and embeddings more strictly than their family's others; whole chats they read like them.
    pub fn for_reader(mut self, format: Format, operation: Operation, stream: bool, client: &HeaderMap) -> Wire {
        if stream || operation == Operation::Embeddings {
            let agent = client.get(&header::USER_AGENT);
            self.strict_sdk = agent.is_some_and(|agent| codec(format).is_strict(agent.as_bytes()));
        }
        self
    }
}

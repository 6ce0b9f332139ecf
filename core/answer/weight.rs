//! How much an answer says, and how much of that its upstream has counted: what a stream that ends early is charged by.

use crate::model::Event;

#[derive(Debug, Clone, Copy, Default)]
pub struct Weight {
    /// Bytes of text.
    pub text_bytes: u64,
    /// Of them those that had come when the upstream last counted.
    pub counted: u64,
    /// The tokens that it told then.
    pub tokens: Option<u64>,
}

impl Weight {
    pub fn see(&mut self, event: &Event) {
        match event {
            Event::Delta { delta, .. } => self.text_bytes += delta.text_bytes(),
            // The same number again counts nothing that came since.
            Event::Usage(usage) if usage.output_tokens > self.tokens => {
                (self.counted, self.tokens) = (self.text_bytes, usage.output_tokens);
            }
            _ => {}
        }
    }
}

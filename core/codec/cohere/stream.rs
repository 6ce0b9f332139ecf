//! Streams of this format, both ways: server-sent events to events (`decoder`) and back (`encoder`).

mod decoder;
mod encoder;

pub use decoder::Decoder;
pub use encoder::Encoder;

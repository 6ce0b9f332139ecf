//! Streams of this format, both ways: frames of an AWS event stream to events (`decoder`) and back (`encoder`).

mod decoder;
mod encoder;

pub use decoder::Decoder;
pub use encoder::Encoder;

//! Streams, both ways: named server-sent events, blocks by index, one terminal (`message_stop`). Two machines without
//! I/O: `decoder` (bytes to events) and `encoder` (events to bytes).

mod decoder;
mod encoder;

pub use decoder::Decoder;
pub use encoder::Encoder;

//! Streams, both ways, as machines without I/O: `decoder` for what an upstream sends, `encoder` for what a client reads.

mod again;
mod decoder;
mod encoder;
mod open;
mod told;

pub use decoder::Decoder;
pub use encoder::Encoder;

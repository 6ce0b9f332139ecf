//! Streams: `decode` turns an upstream's frames into events, `encode` turns events into a client's frames. Neither waits,
//! neither reads a clock.

pub mod args;
pub mod decode;
pub mod encode;

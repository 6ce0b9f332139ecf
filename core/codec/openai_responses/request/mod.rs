//! Requests, both ways: `decode` for what a client sends, `encode` for what an upstream gets. `turns` writes the
//! conversation as items.

mod decode;
mod encode;
mod media;
mod tools;
mod turns;

pub use decode::decode;
pub use encode::{SEALED, encode};

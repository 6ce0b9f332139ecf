//! Requests, both ways: `decode` (a client's body to the model) and `encode` (the model to an upstream's body, made of
//! `turns`, `media`, `tools` and `family`).

mod decode;
mod encode;
mod family;
mod media;
mod tools;
mod turns;

pub use decode::decode;
pub use encode::encode;

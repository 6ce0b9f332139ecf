//! Requests, both ways: `decode` (a client's body to the model) and `encode` (the model to an upstream's body, made of
//! `turns`, `tools` and `knobs`).

mod decode;
mod encode;
pub mod knobs;
mod media;
mod schema;
mod tools;
mod turns;

pub use decode::decode;
pub use encode::encode;

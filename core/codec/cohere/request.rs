//! Requests, both ways: `decode` (a client's body to the model) and `encode` (the model to an upstream's body, with the
//! conversation in `turns`).

mod decode;
mod encode;
mod turns;

pub use decode::decode;
pub use encode::encode;

//! Chat requests: the client's body to the model (`decode`) and the model to an upstream body (`encode`). What stands in
//! both directions in one object is kept side by side: tools in `tools`, `generationConfig` in `config`.

pub mod config;
pub mod decode;
pub mod encode;
pub mod media;
pub mod parts;
pub mod tools;

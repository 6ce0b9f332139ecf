//! The `redact` plugin: personal data and secrets leave the house as placeholders (`[EMAIL_1]`) and come back as
//! themselves. Everything but `guest` is plain Rust without the plugin interface, and is tested on the host.
//!
//! What a request holds is kept in the instance of that request and nowhere else: not in the kv store, not in the log,
//! not in a note.

pub mod answer;
pub mod detect;
#[cfg(target_family = "wasm")]
mod guest;
pub mod json;
pub mod request;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod vault;

//! What the operator sees: metrics, log lines, and the last requests with their decision traces. It only looks: nothing
//! here changes a request, and prompt text never arrives here.

mod line;
mod lines;
pub mod logs;
pub mod metrics;
pub mod names;
pub mod ring;
pub mod row;
pub mod trace;
mod unheard;

pub use logs::{request_line, requests_told};
pub use metrics::{Metrics, metrics};
pub use ring::Ring;
pub use trace::{record_json, trace_json};
pub use unheard::unheard;

#[cfg(test)]
mod tests;

//! The programmable middle: which stages a request meets, in which order, and what their verdicts do.

pub mod phase;
pub mod stage;

pub use phase::Phase;
pub use stage::{Candidate, Stage, StageFault, Visit};

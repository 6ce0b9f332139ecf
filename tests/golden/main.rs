//! Goldens: cases of our own for every format, each crossed with every other, so that a missing direction is a failing
//! test. `corpus` walks recorded traffic in the same way when `$PORTCULLIS_CORPUS` names it.
//!
//! A case is a folder `<format>/<case>` with any of `request.json` (a client's body; `path.json` has what stands in the
//! path), `response.json` (an upstream's whole answer), `stream.sse`, `stream.ndjson` or `stream.frames` (the same answer as a stream) and `error.json`
//! (an upstream's refusal). The runner knows no case by name but those in `known`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first thing that is not as it must be")]

mod answers;
mod cases;
mod corpus;
mod errors;
mod fuzz;
mod known;
mod lent;
mod meaning;
mod requests;
mod streams;

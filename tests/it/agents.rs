//! Coding agents: the requests that `claude` and `codex` send (many tools, a long system prompt with cache markers, thinking
//! that must come back signed, calls in parallel), written by hand after theirs, on an upstream of each format. Checks that
//! nothing is lost on the way there and back. tests/clients runs the programs themselves.

mod claude;
mod upstream;

//! Black box: the real gateway over real sockets, a scripted upstream, five lines a test.

mod keys;
mod passthrough;
mod support;

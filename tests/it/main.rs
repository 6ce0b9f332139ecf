//! Black box: the real gateway over real sockets, a scripted upstream, five lines a test.

mod passthrough;
mod support;

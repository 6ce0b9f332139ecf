//! Black box: the real gateway over real sockets, a scripted upstream, five lines a test.

mod facts;
mod keys;
mod passthrough;
mod readme;
mod support;

//! Black box: the real gateway over real sockets, a scripted upstream, five lines a test.

mod facts;
mod family;
mod keys;
mod passthrough;
mod review;
mod routing;
mod stages;

mod streams;
mod support;

//! Black box: the real gateway over real sockets, a scripted upstream, five lines a test.
#![allow(clippy::panic, reason = "a test says what it expects by failing")]

mod auth;
mod bad_input;
mod examples;
mod facts;
mod family;
mod keys;
mod passthrough;
mod promises;
mod readme;
mod reload;
mod review;
mod routing;
mod stages;
mod streams;
mod support;
mod wire;

//! Black box: the real gateway over real sockets, a scripted upstream, five lines a test.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests, outside of #[test] functions, give up like tests"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests are told by the environment what they must not skip, and wait for programs"
)]

mod agents;
mod alerts;
mod asks;
mod audit;
mod auth;
mod background;
mod bad_input;
mod bedrock;
mod budget;
mod cache;
mod cache_files;
mod cache_redis;
mod bounds;
mod capability;
mod causes;
mod clocks;
mod clouds;
mod cohere;
mod completions;
mod contract;
mod conversations;
mod corpus;
mod decisions;
mod examples;
mod experiments;
mod explain;
mod facts;
mod faults;
mod family;
mod fleet;
mod guests;
mod hedging;
mod held;
mod hints;
mod hosted;
mod hostile;
mod identity;
mod identity_jwt;
mod keys;
mod files;
mod limits;
mod media;
mod memory;
mod ollama;
mod operations;
mod overload;
mod parking;
mod passthrough;
mod plugins;
mod prices;
mod promises;
mod quotas;
mod raw;
mod readme;
mod records;
mod realtime;
mod redact;
mod repl;
mod replay;
mod reload;
mod reports;
mod responses;
mod rerating;
mod resume;
mod retries;
mod review;
mod revoke;
mod routing;
#[path = "../../core/store/tests/server.rs"]
mod server;
mod shared;
mod secrets;
mod scopes;
mod stages;
mod state;
mod strategies;
mod streams;
mod suite;
mod support;
mod tools;
mod uncounted;
mod uploads;
mod usage;
mod versions;
mod wire;

//! Portcullis, a programmable LLM gateway. Start reading in `core/README.md`, then `gateway.rs`: the way of a request.
//!
//! The modules stand in the order in which a request meets them.

pub mod account;
pub mod admin;
pub mod auth;
pub mod cli;
pub mod codec;
pub mod config;
pub mod context;
pub mod endpoint;
pub mod error;
pub mod gateway;
pub mod limit;
pub mod model;
pub mod pipeline;
pub mod provider;
pub mod route;
pub mod runtime;
pub mod script;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod upstream;

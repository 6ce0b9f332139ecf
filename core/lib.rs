//! Portcullis, a programmable LLM gateway. Start reading in `core/README.md`, then `gateway.rs`: the way of a request.
//!
//! The modules stand in the order in which a request meets them.

pub mod cli;
pub mod runtime;
pub mod server;
pub mod gateway;
pub mod aside;
pub mod long_input;
pub mod facts;
pub mod context;
pub mod exchange;
pub mod error;
pub mod endpoint;
pub mod auth;
pub mod seal;
pub mod limit;
pub mod model;
pub mod codec;
pub mod stored;
pub mod prompt;
pub mod text;
pub mod pipeline;
pub mod script;
pub mod plugin;
pub mod route;
pub mod provider;
pub mod media;
pub mod reserve;
pub mod opaque;
pub mod call;
pub mod token;
pub mod transport;
pub mod upstream;
pub mod answer;
pub mod generated;
pub mod realtime;
pub mod reply;
pub mod account;
pub mod store;
pub mod config;
pub mod admin;
pub mod telemetry;

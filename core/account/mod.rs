//! Afterwards: what happened, once, whatever happened.

pub mod catalog;
mod charge;
pub mod estimate;
mod hooks;
pub mod price;
pub mod settle;

use std::{sync::Arc, time::Duration};

use crate::{
    context::Context,
    model::{Format, Operation, Usage},
};

/// The facts of one request, as the `log` phase sees them and the log line prints them. No prompt text.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: Arc<str>,
    pub key_id: Arc<str>,
    pub team: Option<Arc<str>>,
    pub operation: Operation,
    pub format: Format,
    pub model: String,
    /// `provider/model`, when one was reached.
    pub target: Option<Arc<str>>,
    pub attempts: u32,
    /// Of the answer; 499 when the client left.
    pub status: u16,
    pub error_code: Option<String>,
    pub stream: bool,
    pub finish_reason: Option<&'static str>,
    pub usage: Option<Usage>,
    /// Some of it was never counted by an upstream.
    pub usage_estimated: bool,
    /// Known when the price is.
    pub cost_nano_usd: Option<i64>,
    pub duration: Duration,
    pub first_event: Option<Duration>,
    pub upstream_duration: Duration,
    pub tags: Vec<(String, String)>,
}

impl Record {
    /// At the start: nothing happened yet.
    pub fn of(cx: &Context) -> Record {
        Record {
            id: cx.id.clone(),
            key_id: cx.principal.key_id.clone(),
            team: cx.principal.team.clone(),
            operation: cx.operation,
            format: cx.format,
            model: String::new(),
            target: None,
            attempts: 0,
            status: 0,
            error_code: None,
            stream: false,
            finish_reason: None,
            usage: None,
            usage_estimated: false,
            cost_nano_usd: None,
            duration: Duration::ZERO,
            first_event: None,
            upstream_duration: Duration::ZERO,
            tags: cx.tags.clone(),
        }
    }
}

#[cfg(test)]
mod tests;

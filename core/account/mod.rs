//! Afterwards: what happened, once, whatever happened.

use std::{sync::Arc, time::Duration};

use crate::model::{Format, Operation, Usage};

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
    /// Known when the price is.
    pub cost_nano_usd: Option<i64>,
    pub duration: Duration,
    pub first_event: Option<Duration>,
    pub upstream_duration: Duration,
    pub tags: Vec<(String, String)>,
}

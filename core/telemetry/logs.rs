//! Log lines: readable on a terminal, JSON elsewhere, one line a request. On standard error, so that what commands print
//! stays clean.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use tracing::{Level, info};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use super::{line, lines::Lines};
use crate::account::Record;

/// Where requests are told in JSON.
static REQUESTS: OnceLock<Requests> = OnceLock::new();

/// Lines of requests that were settled together, and leave together: the thread that writes is woken once.
struct Requests {
    lines: Lines,
    told: Mutex<Vec<u8>>,
}

/// Keeps the log going; when it is dropped the last lines are written.
#[must_use]
pub struct Logs(Lines);

impl Drop for Logs {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Starts logging. `filter`: the value of `PORTCULLIS_LOG` (`warn`, `portcullis=debug,hyper=info`, …), read by whoever
/// reads the environment. The error is a sentence.
pub fn init(filter: Option<&str>) -> Result<Logs, String> {
    let filter = parse(filter)?;
    let lines = Lines::to(io::stderr()).map_err(|e| format!("the log could not be started: {e}"))?;
    let started = if io::stderr().is_terminal() {
        let layer = fmt::layer().with_writer(lines.clone()).with_ansi(true).with_target(false);
        tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()
    } else {
        let layer = fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false);
        tracing_subscriber::registry().with(layer.with_writer(lines.clone()).with_filter(filter)).try_init()
    };
    started.map_err(|e| format!("the log is already running: {e}"))?;
    if !io::stderr().is_terminal() {
        let _ = REQUESTS.set(Requests { lines: lines.clone(), told: Mutex::default() });
    }
    Ok(Logs(lines))
}

/// One line for one request; costs a comparison when the level is off. In JSON it goes out with `requests_told`.
pub fn request_line(record: &Record) {
    if !tracing::enabled!(target: TARGET, Level::INFO) {
        return;
    }
    if let Some(requests) = REQUESTS.get() {
        let mut told = requests.told.lock().unwrap_or_else(PoisonError::into_inner);
        return line::write(record, SystemTime::now(), TARGET, &mut told);
    }
    let usage = record.usage.as_ref();
    info!(
        target: TARGET,
        id = &*record.id,
        status = record.status,
        model = record.model,
        upstream = record.target.as_deref(),
        operation = record.operation.name(),
        format = record.format.name(),
        stream = record.stream,
        attempts = record.attempts,
        key = (!record.key_id.is_empty()).then_some(&*record.key_id),
        team = record.team.as_deref(),
        code = record.error_code.as_deref(),
        finish = record.finish_reason,
        input_tokens = usage.and_then(|u| u.input_tokens),
        output_tokens = usage.and_then(|u| u.output_tokens),
        cost_usd = record.cost_nano_usd.filter(|_| !record.cost_unknown).map(|nano| nano as f64 / 1e9),
        duration_ms = millis(record.duration),
        first_ms = record.first_event.map(millis),
        upstream_ms = millis(record.upstream_duration),
        "request"
    );
}

/// What was told of requests goes out.
pub fn requests_told() {
    if let Some(requests) = REQUESTS.get() {
        let mut told = requests.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.is_empty() {
            // It never fails: what finds no room is counted.
            let _ = (&requests.lines).write(&told);
            told.clear();
        }
    }
}

fn parse(filter: Option<&str>) -> Result<EnvFilter, String> {
    let text = filter.map(str::trim).filter(|text| !text.is_empty()).unwrap_or(DEFAULT);
    EnvFilter::try_new(text)
        .map_err(|e| format!("PORTCULLIS_LOG: {text:?} is no log filter ({e}); write info, warn or portcullis=debug"))
}

/// Milliseconds with three digits.
fn millis(d: std::time::Duration) -> f64 {
    d.as_micros() as f64 / 1000.0
}

pub(super) const TARGET: &str = "portcullis::request";
const DEFAULT: &str = "info";

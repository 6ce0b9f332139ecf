//! Side effects that scripts and plugins may have alike: a small memory, metrics, headers to a target. What each host
//! calls them is its own business; the bounds stand here once.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{ask::Asks, builtin::Builtins, kv::Kv};

/// Which of them a stage has.
#[derive(Clone)]
pub struct Effects {
    pub kv: Arc<Kv>,
    pub metrics: bool,
    /// Who answers its questions.
    pub asks: Asks,
    /// What the gateway's own stages keep.
    pub builtins: Builtins,
}

impl Effects {
    pub fn live() -> Self {
        Effects { kv: Arc::new(Kv::lasting()), metrics: true, asks: Asks::live(), builtins: Builtins::default() }
    }

    pub fn dry() -> Self {
        Effects { kv: Arc::default(), metrics: false, asks: Asks::default(), builtins: Builtins::default() }
    }

    /// For one visit that is only looked at: reads what lives, and what it writes is gone with it.
    pub fn rehearsal(&self) -> Self {
        let builtins = self.builtins.clone();
        Effects { kv: Arc::new(Kv::over(&self.kv)), metrics: false, asks: Asks::default(), builtins }
    }

    /// Empties what is remembered: a case knows nothing of the one before.
    pub fn forget(&self) {
        self.kv.clear();
        self.builtins.clear();
    }

    /// Adds to the histogram `into` with labels stage and name.
    pub fn metric(&self, into: &'static str, stage: &Arc<str>, name: &str, value: f64) -> Result<(), String> {
        type Names = HashSet<(Arc<str>, String)>;
        static KNOWN: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);
        let fine = !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !fine || !value.is_finite() {
            return Err("a metric has a name of letters, digits and _ (64 at most) and a finite value".into());
        }
        if !self.metrics {
            return Ok(());
        }
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (stage.clone(), name.to_owned());
        if !known.contains(&key) {
            // A label is for ever: a name made from a prompt must not fill the memory.
            if known.iter().filter(|(of, _)| of == stage).count() >= MAX_METRICS {
                left_out(stage, "metric", 1, "it has too many names of metrics: what varies belongs into the value");
                return Err(format!("a stage may have {MAX_METRICS} metric names: put what varies into the value"));
            }
            known.insert(key);
        }
        drop(known);
        metrics::histogram!(into, "stage" => stage.to_string(), "name" => name.to_owned()).record(value);
        Ok(())
    }
}

/// Counts what a stage wanted to keep or measure beyond its bounds, and tells it once a stage and kind.
pub fn left_out(stage: &str, what: &'static str, count: u64, why: &'static str) {
    static TOLD: LazyLock<Mutex<HashSet<(String, &'static str)>>> = LazyLock::new(Mutex::default);
    if count == 0 {
        return;
    }
    metrics::counter!(LEFT_OUT, "stage" => stage.to_owned(), "what" => what).increment(count);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.len() < MAX_TOLD && told.insert((stage.to_owned(), what)) {
        drop(told);
        tracing::warn!(stage, "{why}; from here on only counted ({LEFT_OUT})");
    }
}

/// Sets a header to a target, or takes it out.
pub fn set_header(headers: &mut HeaderMap, name: &str, value: Option<&str>) -> Result<(), String> {
    if is_private(name) {
        return Err("that header is the gateway's own business and cannot be set".into());
    }
    let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "that is no valid header name")?;
    match value {
        Some(_) if headers.len() >= MAX_HEADERS => {
            return Err(format!("a request to a target may have {MAX_HEADERS} headers"));
        }
        Some(value) => {
            headers.insert(key, HeaderValue::from_str(value).map_err(|_| "that is no valid header value")?);
        }
        None => {
            headers.remove(key);
        }
    }
    Ok(())
}

/// Credentials, framing and hop-by-hop headers: neither shown nor set.
pub fn is_private(name: &str) -> bool {
    const NAMES: [&str; 19] = [
        "authorization",
        "proxy-authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "cookie",
        "set-cookie",
        "host",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "upgrade",
        "te",
        "trailer",
        "proxy-connection",
        "expect",
        "accept-encoding",
    ];
    NAMES.iter().any(|n| n.eq_ignore_ascii_case(name))
}

/// Lines of one stage in one request's trace, and bytes of one.
pub const MAX_NOTES: u32 = 64;
pub const MAX_NOTE: usize = 500;
/// Names in `context.vars`.
pub const MAX_VARS: usize = 256;
const MAX_METRICS: usize = 100;
/// `what`: `kv`, `metric`. Stages are files that an operator put there.
pub const LEFT_OUT: &str = "portcullis_stage_left_out_total";
const MAX_TOLD: usize = 1_000;
const MAX_HEADERS: usize = 64;

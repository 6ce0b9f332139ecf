//! Records and decision traces as JSON values, for the admin API, `explain` and the trace header. Called when somebody
//! reads, not when a request runs. What a row looks like stands in `row`.

use std::time::SystemTime;

use serde_json::Value;

use super::row;
use crate::{account::Record, context::Trace};

/// The steps in order: `[{"step": "stage", …}, …]`.
pub fn trace_json(trace: &Trace) -> Value {
    let mut out = Vec::new();
    row::write_trace(trace, &mut out);
    read(&out)
}

/// One request's facts and, when it is given, its trace. `at`: when it was settled.
pub fn record_json(record: &Record, trace: Option<&Trace>, at: SystemTime) -> Value {
    let mut out = Vec::new();
    row::write(record, trace, &row::Stamp::of(at), &mut out);
    read(&out)
}

fn read(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap_or(Value::Null)
}

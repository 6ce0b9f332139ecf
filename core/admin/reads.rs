//! What can be read: health, metrics, models, providers, the configuration's state, the last requests.

use std::sync::Arc;

use futures_util::future::{BoxFuture, ready as now};
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    AdminState,
    reply::{self, Reply},
    routes::Call,
};
use crate::{
    account::Record,
    error::{Error, Kind, Result},
    telemetry::{record_json, ring::Row, trace_json},
};

pub(super) fn live(_state: Arc<AdminState>, _call: Call) -> BoxFuture<'static, Result<Reply>> {
    done(Ok(reply::ok(&json!({ "status": "live" }))))
}

pub(super) fn ready(state: Arc<AdminState>, _call: Call) -> BoxFuture<'static, Result<Reply>> {
    let (ready, body) = state.facts.ready();
    done(Ok(reply::json(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)))
}

pub(super) fn metrics(state: Arc<AdminState>, _call: Call) -> BoxFuture<'static, Result<Reply>> {
    state.facts.measure();
    done(Ok(reply::metrics(crate::telemetry::metrics().render())))
}

pub(super) fn teams(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    done(page(&call, state.facts.teams()))
}

pub(super) fn models(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    done(page(&call, state.facts.models()))
}

pub(super) fn providers(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    done(page(&call, state.facts.providers()))
}

pub(super) fn config_status(state: Arc<AdminState>, _call: Call) -> BoxFuture<'static, Result<Reply>> {
    done(Ok(reply::ok(&state.facts.config_status())))
}

pub(super) fn requests(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    done(request_page(&state, &call))
}

pub(super) fn request(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    let found = state.ring.find(&call.id);
    let unknown = "no such request among the last ones; its id is the x-request-id of the answer";
    done(found.map(|row| reply::ok(&show(&row))).ok_or_else(|| Error::new(Kind::NotFound, unknown)))
}

fn request_page(state: &AdminState, call: &Call) -> Result<Reply> {
    let limit = call.limit()?;
    let before = number(call, "cursor")?;
    let status = number(call, "status")?;
    let wanted = |record: &Record| {
        let same = |name: &str, value: &str| call.query(name).is_none_or(|wanted| wanted == value);
        same("team", record.team.as_deref().unwrap_or(""))
            && same("key", &record.key_id)
            && same("model", &record.model)
            && status.is_none_or(|status| status == u64::from(record.status))
    };
    let mut rows = state.ring.page(before, limit + 1, wanted);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.number.to_string());
    let data: Vec<Value> = rows.iter().map(|row| show(row)).collect();
    Ok(reply::ok(&json!({ "data": data, "next_cursor": next })))
}

fn show(row: &Row) -> Value {
    let mut answer = record_json(&row.record, row.at);
    answer["trace"] = trace_json(&row.trace);
    answer
}

/// A page of a list that is short enough to be made whole.
fn page(call: &Call, rows: Vec<Value>) -> Result<Reply> {
    let limit = call.limit()?;
    let start = usize::try_from(number(call, "cursor")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let end = start.saturating_add(limit);
    let next = (end < rows.len()).then(|| end.to_string());
    let data: Vec<Value> = rows.into_iter().skip(start).take(limit).collect();
    Ok(reply::ok(&json!({ "data": data, "next_cursor": next })))
}

fn number(call: &Call, name: &str) -> Result<Option<u64>> {
    let parsed = call.query(name).map(str::parse).transpose();
    parsed.map_err(|_| Error::invalid(name, "not a number; pass a cursor on as it came"))
}

fn done(result: Result<Reply>) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(now(result))
}

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
    account::history::{Page, Wanted},
    auth::permission::Operation,
    error::{Error, Kind, Result},
    experiment::Window,
    store::StoreError,
    telemetry::ring::Place,
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

pub(super) fn models(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    done(page(&call, state.facts.models()))
}

pub(super) fn providers(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    done(page(&call, state.facts.providers()))
}

pub(super) fn config_status(state: Arc<AdminState>, _call: Call) -> BoxFuture<'static, Result<Reply>> {
    done(Ok(reply::ok(&state.facts.config_status())))
}

pub(super) fn experiments(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let (from, to) = call.span()?;
        let window = Window { model: call.query("model").map(str::to_owned), from, to };
        page(&call, state.facts.experiments(window).await?)
    })
}

pub(super) fn requests(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move { request_page(&state, &call).await })
}

pub(super) fn request(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let mut found = state.ledger.request(&call.id).await.map_err(unreadable)?;
        if let Some(row) = &mut found {
            seen(&state, &call, Operation::ReadRequests, row)?;
            if call.query("bodies").is_some_and(|asked| asked == "1") {
                seen(&state, &call, Operation::ReadBodies, row)?;
                row["bodies"] = bodies(&state, &call.id).await?;
            }
        }
        if let Some(row) = found {
            return Ok(reply::ok(&row));
        }
        let unknown = "no such request in the records that are kept; its id is the x-request-id of the answer";
        let elsewhere = state.facts.elsewhere(call.id.clone()).await;
        Err(Error::new(Kind::NotFound, elsewhere.unwrap_or_else(|| unknown.to_owned())))
    })
}

/// May the actor do this with a request's record?
fn seen(state: &AdminState, call: &Call, operation: Operation, row: &Value) -> Result<()> {
    let (team, key) = (row["team"].as_str(), row["key_id"].as_str());
    if call.sight(state, operation).sees(team, key) {
        return Ok(());
    }
    call.permits(state, operation, team, None)
}

/// What a request and its answer said: for who has the admin token only, and asks for it.
async fn bodies(state: &AdminState, id: &str) -> Result<Value> {
    if state.token.is_none() {
        let message = "what requests said is shown to holders of the admin token only: set admin.token and give it";
        return Err(Error::new(Kind::Forbidden, message));
    }
    Ok(state.ledger.bodies(id).await.map_err(unreadable)?.unwrap_or_default())
}

async fn request_page(state: &AdminState, call: &Call) -> Result<Reply> {
    let limit = call.limit()?;
    let before = call.query("cursor").map(place).transpose()?;
    let text = |name: &str| call.query(name).map(str::to_owned);
    let (from, to) = call.span()?;
    let status = status(call)?;
    let wanted = Wanted { team: text("team"), key: text("key"), model: text("model"), status, from, to };
    let Page { mut rows, next } = state.ledger.page(wanted, before, limit).await.map_err(unreadable)?;
    let sight = call.sight(state, Operation::ReadRequests);
    if !sight.is_whole() {
        rows.retain(|row| sight.sees(row["team"].as_str(), row["key_id"].as_str()));
    }
    let next = next.map(|place| format!("{}.{}.{}", place.hour, place.at, place.number));
    Ok(reply::ok(&json!({ "data": rows, "next_cursor": next })))
}

/// Of answers that are asked for.
fn status(call: &Call) -> Result<Option<u16>> {
    let status = call.query("status").map(str::parse::<u16>).transpose();
    status.map_err(|_| Error::invalid("status", "a number such as 429: the status that the caller was answered with"))
}

fn place(cursor: &str) -> Result<Place> {
    let mut parts = cursor.split('.').map(str::parse);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Ok(hour)), Some(Ok(at)), Some(Ok(number)), None) => match u32::try_from(hour) {
            Ok(hour) => Ok(Place { hour, at, number }),
            Err(_) => Err(Error::invalid("cursor", "pass a cursor on as it came")),
        },
        _ => Err(Error::invalid("cursor", "pass a cursor on as it came")),
    }
}

pub(super) fn unreadable(error: StoreError) -> Error {
    Error::new(Kind::Internal, "the records cannot be read; the gateway's log says why").because(error)
}

/// A page of a list that is short enough to be made whole.
pub(super) fn page(call: &Call, rows: Vec<Value>) -> Result<Reply> {
    let limit = call.limit()?;
    let start = start(call)?;
    let end = start.saturating_add(limit);
    let next = (end < rows.len()).then(|| end.to_string());
    let data: Vec<Value> = rows.into_iter().skip(start).take(limit).collect();
    Ok(reply::ok(&json!({ "data": data, "next_cursor": next })))
}

/// How many rows the pages before had: the cursor of lists that are counted.
pub(super) fn start(call: &Call) -> Result<usize> {
    let start = call.query("cursor").map(str::parse::<usize>).transpose();
    let start = start.map_err(|_| Error::invalid("cursor", "pass a cursor on as it came"))?;
    Ok(start.unwrap_or(0))
}

fn done(result: Result<Reply>) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(now(result))
}

//! `/api/v1/versions`, `/api/v1/rollout`, and what changes the version that runs. Reads the history itself; the rest is done
//! by the one who swaps (`Deployment`).

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::{
    Action, AdminState,
    reply::{self, Reply},
    routes::Call,
};
use crate::{
    error::{Error, Kind, Result},
    versions::{By, Cause},
};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Word {
    author: Option<String>,
    note: Option<String>,
}

pub(super) fn list(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let limit = call.limit()?;
        let before = call.query("cursor").map(str::parse::<u64>).transpose();
        let before = before.map_err(|_| Error::invalid("cursor", "pass a cursor on as it came"))?;
        let versions = state.deployment.versions();
        let mut rows = versions.page(before, limit + 1);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.number.to_string());
        let data: Vec<_> = rows.iter().map(|row| row.json(versions.is_kept(row))).collect();
        Ok(reply::ok(&json!({ "data": data, "next_cursor": next })))
    })
}

pub(super) fn show(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move { Ok(reply::ok(&state.deployment.clone().show(call.id).await?)) })
}

pub(super) fn diff(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move { Ok(reply::ok(&state.deployment.clone().diff(call.id, call.other).await?)) })
}

pub(super) fn rollout(state: Arc<AdminState>, _call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move { Ok(reply::ok(&state.deployment.rollout())) })
}

pub(super) fn rollback(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    act(state, Action::Rollback(call.id.clone()), call, Cause::Rollback)
}

pub(super) fn reload(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    act(state, Action::Reload, call, Cause::Reload)
}

pub(super) fn unpin(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    act(state, Action::Unpin, call, Cause::Reload)
}

pub(super) fn promote(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    act(state, Action::Promote, call, Cause::Reload)
}

pub(super) fn abort(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    act(state, Action::Abort, call, Cause::Reload)
}

fn act(state: Arc<AdminState>, action: Action, call: Call, cause: Cause) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let by = by(&call, cause)?;
        let answer = state.deployment.clone().act(action, by).await?;
        let refused = answer["outcome"] == "refused";
        Ok(reply::json(if refused { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK }, &answer))
    })
}

/// Who says so, and why: both are the caller's own words.
fn by(call: &Call, cause: Cause) -> Result<By> {
    let word: Word = match call.body.is_empty() {
        true => Word::default(),
        false => serde_json::from_slice(&call.body)
            .map_err(|e| Error::new(Kind::InvalidRequest, format!("the body is not right: {e}")))?,
    };
    for (name, text) in [("author", &word.author), ("note", &word.note)] {
        let fine = |text: &String| text.chars().count() <= MOST_WORDS && !text.chars().any(char::is_control);
        if !text.as_ref().is_none_or(fine) {
            return Err(Error::invalid(name, format!("a line of at most {MOST_WORDS} characters")));
        }
    }
    let given = |text: Option<String>| text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    Ok(By { author: given(word.author), note: given(word.note), cause })
}

/// Characters of an author's name and of a note.
const MOST_WORDS: usize = 200;

//! `/api/v1/budgets`: what every scope may spend and has spent, and raises of it for a while.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    AdminState, Sees, reads,
    reply::{self, Reply},
    routes::Call,
};
use crate::{
    auth::permission::{Operation, Reach, Target, permits},
    config::{Per, Scope},
    error::{Error, Result},
};

pub(super) fn list(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let limit = call.limit()?;
        let after = call.query("cursor").map(place).transpose()?;
        let whole = permits(&call.actor, Operation::ReadTeams, &Target::Gateway).is_ok();
        let actor = call.actor.clone();
        let sees = move |target: &Target| permits(&actor, Operation::ReadTeams, target).is_ok();
        let sees: Option<Sees> = if whole { None } else { Some(Arc::new(sees)) };
        let mut rows = state.facts.budgets(sees, after, limit + 1).await;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row["id"].clone());
        Ok(reply::ok(&json!({ "data": rows, "next_cursor": next })))
    })
}

/// A budget's id, `team:research/month`.
fn place(cursor: &str) -> Result<(Scope, Per)> {
    let parts = cursor.rsplit_once('/');
    let place = parts.and_then(|(scope, per)| Some((Scope::parse(scope)?, Per::named(per)?)));
    place.ok_or_else(|| Error::invalid("cursor", "pass a cursor on as it came"))
}

pub(super) fn raises(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    let page = reads::page(&call, seen(&state, &call, state.facts.raises()));
    Box::pin(std::future::ready(page))
}

/// Rows of scopes that the actor may see. What no team, user or organisation owns is the gateway's.
fn seen(state: &AdminState, call: &Call, mut rows: Vec<Value>) -> Vec<Value> {
    if permits(&call.actor, Operation::ReadTeams, &Target::Gateway).is_ok() {
        return rows;
    }
    let scope = |row: &Value| row["scope"].as_str().and_then(Scope::parse);
    let keys = rows.iter().filter_map(scope).filter_map(|scope| match scope {
        Scope::Key(id) => Some(id),
        _ => None,
    });
    let owners = state.keys.table().owners(&keys.collect());
    let directory = state.keys.table().directory();
    rows.retain(|row| {
        let target = match scope(row) {
            Some(Scope::Organisation(name)) => directory.lies(&Reach::Organisation(name)),
            Some(Scope::Team(name)) => directory.lies(&Reach::Team(name)),
            Some(Scope::User(name)) => directory.lies(&Reach::User(name)),
            Some(Scope::Key(id)) => match owners.get(&id) {
                Some((team, user)) => Target::Of(directory.place(team.as_deref(), user.as_deref())),
                None => Target::Gateway,
            },
            _ => Target::Gateway,
        };
        permits(&call.actor, Operation::ReadTeams, &target).is_ok()
    });
    rows
}

pub(super) fn raise(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let made = state.facts.raise(call.body).await?;
        Ok(reply::json(StatusCode::CREATED, &made))
    })
}

pub(super) fn end(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move { Ok(reply::ok(&state.facts.end_raise(call.id).await?)) })
}

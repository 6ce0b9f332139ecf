//! Tokens of this API over HTTP, who somebody is here, and the table of permissions.

use std::{sync::Arc, time::SystemTime};

use futures_util::future::{BoxFuture, ready};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    AdminState,
    reads::page,
    reply::{self, Reply},
    routes::Call,
};
use crate::{
    auth::{
        permission::{Cell, Operation, Reach, permits},
        tokens::NewToken,
    },
    config::Role,
    error::Result,
};

pub(super) fn list(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let mut rows = state.keys.token_rows().await?;
        rows.retain(|row| permits(&call.actor, Operation::ReadTokens, &state.keys.token_target(row)).is_ok());
        page(&call, rows)
    })
}

pub(super) fn one(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let row = state.keys.one_token(&call.id).await?;
        permits(&call.actor, Operation::ReadTokens, &state.keys.token_target(&row))?;
        Ok(reply::ok(&row))
    })
}

pub(super) fn create(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let new = NewToken::read(call.object()?, SystemTime::now())?;
        let target = json!({ "user": new.user, "team": new.team, "organisation": new.organisation });
        permits(&call.actor, Operation::CreateTokens, &state.keys.token_target(&target))?;
        let (mut row, secret) = state.keys.create_token(new, &call.actor).await?;
        tracing::info!(id = %row["id"], name = %row["name"], by = %call.actor.name, "admin token created");
        row["token"] = secret.expose().into();
        Ok(reply::json(StatusCode::CREATED, &row))
    })
}

pub(super) fn revoke(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let row = state.keys.one_token(&call.id).await?;
        permits(&call.actor, Operation::RevokeTokens, &state.keys.token_target(&row))?;
        let row = state.keys.revoke_token(&call.id).await?;
        tracing::info!(id = call.id, by = %call.actor.name, "admin token revoked");
        Ok(reply::ok(&row))
    })
}

pub(super) fn whoami(_state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    let actor = &call.actor;
    let holds = |held: &crate::auth::permission::Held| {
        let (kind, name) = match &held.reach {
            Reach::Everything => ("everything", None),
            Reach::Organisation(name) => ("organisation", Some(name)),
            Reach::Team(name) => ("team", Some(name)),
            Reach::User(name) => ("self", Some(name)),
        };
        json!({ "role": held.role.name(), "over": kind, "name": name })
    };
    let may: Vec<&str> = Operation::ALL
        .iter()
        .filter(|operation| actor.holds.iter().any(|held| operation.cell(held.role) != Cell::No))
        .map(|operation| operation.name())
        .collect();
    let body = json!({
        "name": actor.name,
        "user": actor.user,
        "token": actor.token,
        "issuer": actor.issuer,
        "roles": actor.holds.iter().map(holds).collect::<Vec<_>>(),
        "permissions": may,
    });
    Box::pin(ready(Ok(reply::ok(&body))))
}

pub(super) fn permissions(_state: Arc<AdminState>, _call: Call) -> BoxFuture<'static, Result<Reply>> {
    let row = |operation: &Operation| {
        let cells: Map<String, Value> = Role::ALL
            .into_iter()
            .map(|role| {
                let cell = match operation.cell(role) {
                    Cell::No => "no",
                    Cell::Own => "own",
                    Cell::All => "all",
                };
                (role.name().to_owned(), cell.into())
            })
            .collect();
        json!({ "permission": operation.name(), "to": operation.meaning(), "roles": cells })
    };
    let rows: Vec<Value> = Operation::ALL.iter().map(row).collect();
    Box::pin(ready(Ok(reply::ok(&json!({ "data": rows, "next_cursor": null })))))
}

//! Virtual keys over HTTP: list, create, read, change, rotate, revoke, within what the actor may do. Their life is `auth::Keys`.

use std::{sync::Arc, time::SystemTime};

use futures_util::future::BoxFuture;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    AdminState,
    reply::{self, Reply},
    routes::Call,
};
use crate::{
    auth::{KeyInfo, NewKey, expiry, keys::Wanted, permission::Operation, terms},
    config::Secret,
    error::{Error, Kind, Result},
};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RotationBody {
    overlap: Option<String>,
}

pub(super) fn list(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let limit = call.limit()?;
        let text = |name: &str| call.query(name).map(str::to_owned);
        let wanted = Wanted {
            team: text("team"),
            user: text("user"),
            status: text("status"),
            name: text("name"),
            tag: text("tag"),
        };
        let mut rows: Vec<KeyInfo> = Vec::new();
        let mut after = text("cursor");
        while rows.len() <= limit {
            let page = state.keys.list(after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            let short = page.len() < PAGE;
            let sees = |key: &KeyInfo| allowed(&state, &call, Operation::ReadKeys, key).is_ok();
            rows.extend(page.into_iter().filter(|key| wanted.takes(key) && sees(key)));
            if short {
                break;
            }
        }
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.id.clone());
        let data: Vec<Value> = rows.iter().map(KeyInfo::json).collect();
        Ok(reply::ok(&json!({ "data": data, "next_cursor": next })))
    })
}

pub(super) fn one(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let info = state.keys.one(&call.id).await?;
        allowed(&state, &call, Operation::ReadKeys, &info)?;
        Ok(reply::ok(&info.json()))
    })
}

pub(super) fn create(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let mut body = call.object()?;
        let (mut name, mut expires, mut new) = (None::<String>, None::<String>, NewKey::default());
        terms::set(&mut body, "name", &mut name)?;
        terms::set(&mut body, "team", &mut new.team)?;
        terms::set(&mut body, "user", &mut new.user)?;
        terms::set(&mut body, "expires", &mut expires)?;
        new.terms.take(&mut body)?;
        terms::nothing_left(&body, &["name", "team", "user", "expires"])?;
        new.name = name.ok_or_else(|| Error::invalid("name", "a key needs a name: whose or what it is for"))?;
        let expires = expires.as_deref().map(|text| expiry::parse(text, SystemTime::now())).transpose();
        new.expires = expires.map_err(|message| Error::invalid("expires", message))?;
        call.permits(&state, Operation::CreateKeys, new.team.as_deref(), new.user.as_deref())?;
        let unknown_team = new.team.clone().filter(|team| !state.keys.table().knows_team(team));
        let (info, secret) = state.keys.create(new).await?;
        tracing::info!(id = info.id, name = info.name, team = info.team, by = %call.actor.name, "key created");
        let mut answer = with_secret(&info, &secret);
        if let Some(team) = unknown_team {
            answer["warnings"] = json!([no_such_team(&team)]);
        }
        Ok(reply::json(StatusCode::CREATED, &answer))
    })
}

pub(super) fn revoke(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let cut = match call.query("cut") {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => return Err(Error::invalid("cut", "true or false")),
        };
        allowed(&state, &call, Operation::RevokeKeys, &state.keys.one(&call.id).await?)?;
        let info = state.keys.revoke(&call.id, cut).await?;
        tracing::info!(id = info.id, name = info.name, cut, by = %call.actor.name, "key revoked");
        Ok(reply::ok(&info.json()))
    })
}

pub(super) fn change(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let was = state.keys.one(&call.id).await?;
        allowed(&state, &call, Operation::ChangeKeys, &was)?;
        let body = call.object()?;
        let named = |field: &str, was: &Option<String>| match body.get(field) {
            None => was.clone(),
            Some(value) => value.as_str().map(str::to_owned),
        };
        // Where it will belong must be the actor's, too.
        let (team, user) = (named("team", &was.team), named("user", &was.user));
        call.permits(&state, Operation::ChangeKeys, team.as_deref(), user.as_deref())?;
        let info = state.keys.change(&call.id, body).await?;
        tracing::info!(id = info.id, name = info.name, limits = ?info.limits, by = %call.actor.name, "key changed");
        Ok(reply::ok(&info.json()))
    })
}

pub(super) fn rotate(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        allowed(&state, &call, Operation::ChangeKeys, &state.keys.one(&call.id).await?)?;
        let body: RotationBody = match call.body.is_empty() {
            true => RotationBody::default(),
            false => serde_json::from_slice(&call.body)
                .map_err(|e| Error::new(Kind::InvalidRequest, format!("the body is not right: {e}")))?,
        };
        let overlap = expiry::distance(body.overlap.as_deref().unwrap_or("0"));
        let overlap = overlap.map_err(|message| Error::invalid("overlap", message))?;
        let (info, secret) = state.keys.rotate(&call.id, overlap).await?;
        tracing::info!(id = info.id, name = info.name, by = %call.actor.name, "key rotated");
        Ok(reply::ok(&with_secret(&info, &secret)))
    })
}

pub(super) fn export_state(state: Arc<AdminState>, _call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let done = state.keys.export_state().await?;
        tracing::info!(path = %done.path.display(), rows = done.rows, "state exported");
        Ok(reply::ok(&json!(done)))
    })
}

fn allowed(state: &AdminState, call: &Call, operation: Operation, key: &KeyInfo) -> Result<()> {
    call.permits(state, operation, key.team.as_deref(), key.user.as_deref())
}

/// Said when a key is made for a team that is not there.
pub fn no_such_team(team: &str) -> String {
    format!(
        "gateway.toml has no [teams.{team}], nor has the store: the name is kept for records and scripts, but no team rules apply"
    )
}

fn with_secret(info: &KeyInfo, secret: &Secret) -> Value {
    let mut answer = info.json();
    answer["key"] = secret.expose().into();
    answer
}

const PAGE: usize = 500;

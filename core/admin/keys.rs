//! `/api/v1/keys`: the life of virtual keys over HTTP, and the export of the store that they live in.

use std::{sync::Arc, time::SystemTime};

use futures_util::future::BoxFuture;
use http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    AdminState,
    reply::{self, Reply},
    routes::Call,
};
use crate::{
    auth::{KeyInfo, NewKey, expiry},
    config::{Limits, Secret},
    error::{Error, Kind, Result},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKeyBody {
    name: String,
    team: Option<String>,
    models: Option<Vec<String>>,
    expires: Option<String>,
    limits: Option<Limits>,
}

/// `limits` must be said, so that an empty body does not take them away.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    #[serde(deserialize_with = "Option::deserialize")]
    limits: Option<Limits>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RotationBody {
    overlap: Option<String>,
}

pub(super) fn list(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let limit = call.limit()?;
        let mut rows = state.keys.list(call.query("cursor"), limit + 1).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.id.clone());
        Ok(reply::ok(&json!({ "data": rows, "next_cursor": next })))
    })
}

pub(super) fn create(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let body: NewKeyBody = parse(&call)?;
        let expires = body.expires.as_deref().map(|text| expiry::parse(text, SystemTime::now())).transpose();
        let expires = expires.map_err(|message| Error::invalid("expires", message))?;
        let unknown_team = body.team.clone().filter(|team| !state.keys.table().knows_team(team));
        let new = NewKey { name: body.name, team: body.team, models: body.models, limits: body.limits, expires };
        let (info, secret) = state.keys.create(new).await?;
        tracing::info!(id = info.id, name = info.name, team = info.team, "key created");
        let mut answer = with_secret(&info, &secret);
        if let Some(team) = unknown_team {
            answer["warnings"] = json!([no_such_team(&team)]);
        }
        Ok(reply::json(StatusCode::CREATED, &answer))
    })
}

pub(super) fn revoke(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let info = state.keys.revoke(&call.id).await?;
        tracing::info!(id = info.id, name = info.name, "key revoked");
        Ok(reply::ok(&json!(info)))
    })
}

pub(super) fn change(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let body: ChangeBody = parse(&call)?;
        let info = state.keys.set_limits(&call.id, body.limits).await?;
        tracing::info!(id = info.id, name = info.name, limits = ?info.limits, "key limits changed");
        Ok(reply::ok(&json!(info)))
    })
}

pub(super) fn rotate(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let body: RotationBody = if call.body.is_empty() { RotationBody::default() } else { parse(&call)? };
        let overlap = expiry::distance(body.overlap.as_deref().unwrap_or("0"));
        let overlap = overlap.map_err(|message| Error::invalid("overlap", message))?;
        let (info, secret) = state.keys.rotate(&call.id, overlap).await?;
        tracing::info!(id = info.id, name = info.name, "key rotated");
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

/// Said when a key is made for a team that gateway.toml does not have.
pub fn no_such_team(team: &str) -> String {
    format!("gateway.toml has no [teams.{team}]: the name is kept for records and scripts, but no team rules apply")
}

fn with_secret(info: &KeyInfo, secret: &Secret) -> Value {
    let mut answer = json!(info);
    answer["key"] = secret.expose().into();
    answer
}

fn parse<T: DeserializeOwned>(call: &Call) -> Result<T> {
    if call.body.is_empty() {
        return Err(Error::new(Kind::InvalidRequest, "a JSON body is needed; see /api/openapi.json"));
    }
    serde_json::from_slice(&call.body)
        .map_err(|e| Error::new(Kind::InvalidRequest, format!("the body is not right: {e}")))
}

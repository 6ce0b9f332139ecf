//! `/api/v1/secrets`: provider keys and other secrets in the gateway's store. They are put in, used and taken away; no answer
//! holds one. Another master key is taken on here too.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;

use super::{
    AdminState,
    reply::{self, Reply},
    routes::Call,
};
use crate::{
    config::{Master, Secret},
    error::{Error, Kind, Result},
    keyring::Next,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBody {
    value: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RotationBody {
    to: Option<String>,
    #[serde(default)]
    finish: bool,
}

pub(super) fn list(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let limit = call.limit()?;
        let mut rows = state.secrets.list(call.query("cursor"), limit + 1).await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| row.name.clone());
        Ok(reply::ok(&json!({ "data": rows, "next_cursor": next })))
    })
}

pub(super) fn show(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move { Ok(reply::ok(&json!(state.secrets.info(&call.id).await?))) })
}

pub(super) fn set(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        // What serde says of a body may repeat a part of it.
        let body: SetBody = serde_json::from_slice(&call.body).map_err(|_| {
            Error::new(
                Kind::InvalidRequest,
                "the body is not right: it is {\"value\": \"the secret\"} and nothing else",
            )
        })?;
        let info = state.secrets.set(&call.id, &Secret::new(body.value)).await?;
        tracing::info!(name = info.name, version = info.version, "secret set");
        take_up(&state).await;
        Ok(reply::ok(&json!(info)))
    })
}

pub(super) fn delete(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let info = state.secrets.delete(&call.id).await?;
        tracing::info!(name = info.name, "secret deleted");
        take_up(&state).await;
        Ok(reply::ok(&json!(info)))
    })
}

pub(super) fn rotate(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let body: RotationBody = match call.body.is_empty() {
            true => RotationBody::default(),
            false => serde_json::from_slice(&call.body)
                .map_err(|e| Error::new(Kind::InvalidRequest, format!("the body is not right: {e}")))?,
        };
        match (body.to, body.finish) {
            (Some(_), true) => {
                return Err(Error::invalid("finish", "another key and the end of a rotation are two calls"));
            }
            (None, true) => state.secrets.finish_rotation().await?,
            (None, false) => state.secrets.rotate_master(Next::Own).await?,
            (Some(to), false) => {
                let root = state.secrets.root();
                let next = Master::parse(&[to], &root).map_err(|why| Error::invalid("to", format!("`to` {why}")))?;
                if let Master::Command(_) = next {
                    let message = "a program is started for who owns the machine only: name it in gateway.toml, and rotate \
                                   the stopped gateway (portcullis secrets rotate-master --to cmd:…)";
                    return Err(Error::invalid("to", message));
                }
                state.secrets.rotate_master(Next::From(next)).await?;
            }
        }
        tracing::info!("the master key was rotated");
        Ok(reply::ok(&state.secrets.ring().json()))
    })
}

/// The next request has it. It goes on when nobody waits any more.
async fn take_up(state: &Arc<AdminState>) {
    state.secrets.refresh().await;
    state.deployment.clone().secrets_changed().await;
}

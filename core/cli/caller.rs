//! For whom `explain` decides: a team, or the owner of a key, who is looked up in the stopped store or asked for at a
//! running gateway. Changes nothing, and never makes a store where there is none.

use std::{sync::Arc, time::SystemTime};

use anyhow::{Result, anyhow, bail};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    admin::client::Admin,
    auth::{KeyInfo, Keys, Principal, credential},
    config::{Config, Secret, StoreKind, env},
    store::{self, StoreError},
};

/// Anybody of this team, or nobody in particular.
pub fn member(team: Option<&str>, config: &Config) -> Principal {
    let models = team.and_then(|team| config.teams.get(team)?.models.clone());
    Principal { team: team.map(Into::into), team_models: models.map(Into::into), ..Principal::default() }
}

/// `key`: an id, or the key itself. Unknown, revoked and expired ones are errors, as they are at the gateway.
pub fn of_key(key: &str, admin: Option<&str>, config: &Config) -> Result<Principal> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        match admin {
            Some(url) => remote(key, url, config).await,
            None => local(key, config).await,
        }
    })
}

async fn local(key: &str, config: &Config) -> Result<Principal> {
    if config.store.kind == StoreKind::Memory {
        bail!("store.kind = \"memory\" keeps no keys between runs: use --admin URL on the running gateway");
    }
    if !config.store.path.is_dir() {
        bail!("there is no store in {}: no key was made yet", config.store.path.display());
    }
    let store = store::open(&config.store).await.map_err(|e| match e {
        StoreError::Locked { path } => anyhow!(
            "the store in {} is in use: if that is the running gateway, add --admin http://{} and give the key's id",
            path.display(),
            config.admin.listen
        ),
        other => other.into(),
    })?;
    super::tell(store.notices())?;
    let found = async {
        let keys = Keys::open(store.clone(), &config.auth, &config.teams).await.map_err(plain)?;
        if is_secret(key) {
            let principal = keys.table().authenticate(Some(key), SystemTime::now()).map_err(plain)?;
            return Ok(Principal::clone(&principal));
        }
        let mut after: Option<String> = None;
        loop {
            let page = keys.list(after.as_deref(), PAGE).await.map_err(plain)?;
            if let Some(info) = page.iter().find(|info| info.id == key) {
                return owner(info, config);
            }
            after = Some(page.last().ok_or_else(|| unknown(key))?.id.clone());
        }
    };
    let found = found.await;
    store.close().await?;
    found
}

async fn remote(key: &str, url: &str, config: &Config) -> Result<Principal> {
    if is_secret(key) {
        bail!("a running gateway finds keys by their id only: `portcullis keys list --admin {url}` shows it");
    }
    let token = env::var("PORTCULLIS_ADMIN_TOKEN").map(|token| Secret::new(token.trim()));
    let admin = Admin::new(url, token).map_err(anyhow::Error::msg)?;
    let mut page = format!("/api/v1/keys?limit={PAGE}");
    loop {
        let answer = admin.call(Method::GET, &page, None).await.map_err(anyhow::Error::msg)?;
        let mut rows = answer["data"].as_array().into_iter().flatten();
        if let Some(row) = rows.find(|row| row["id"] == key) {
            return owner(&serde_json::from_value(row.clone())?, config);
        }
        let next = answer["next_cursor"].as_str().ok_or_else(|| unknown(key))?;
        page = format!("/api/v1/keys?limit={PAGE}&cursor={}", utf8_percent_encode(next, NON_ALPHANUMERIC));
    }
}

fn owner(info: &KeyInfo, config: &Config) -> Result<Principal> {
    if info.status != "active" {
        bail!("the key {} ({}) is {}: its requests are refused with 401", info.id, info.name, info.status);
    }
    Ok(Principal {
        key_id: info.id.as_str().into(),
        key_name: info.name.as_str().into(),
        key_models: info.models.clone().map(Arc::from),
        ..member(info.team.as_deref(), config)
    })
}

fn is_secret(key: &str) -> bool {
    key.starts_with(credential::PREFIX)
}

fn unknown(key: &str) -> anyhow::Error {
    anyhow!("there is no key {key:?}; `portcullis keys list` shows the ids of all")
}

/// The message without its code: people read it.
fn plain(error: crate::error::Error) -> anyhow::Error {
    anyhow!("{}", error.message)
}

const PAGE: usize = 500;

//! Where a command's changes go: to a running gateway by its admin API, or to the stopped store of a configuration. Both
//! give the same answers.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::{
    admin::client::Admin,
    audit::PURPOSE,
    auth::Keys,
    cli::{
        Exit,
        stopped::{self, Wants},
    },
    config::{self, Place, Secret, env},
    keyring::Keyring,
    provider,
};

/// One of both.
pub enum Either {
    Running(Admin),
    Stopped(Arc<Keys>),
}

/// Runs a command on a small runtime of its own, with the admin token of the environment: an argument would show in process
/// lists.
pub fn block<F: Future<Output = Result<Exit>>>(work: impl FnOnce(Option<Secret>) -> F) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let token = env::var("PORTCULLIS_ADMIN_TOKEN").map(|token| Secret::new(token.trim()));
    runtime.block_on(work(token))
}

/// What the audit log calls a change at a stopped store; a running gateway writes its own rows.
pub struct Told {
    action: String,
    object: String,
}

impl Told {
    pub fn new(action: impl Into<String>, object: &str) -> Told {
        Told { action: action.into(), object: object.to_owned() }
    }
}

/// Does the work where it is to be done. `told`: nothing where nothing is changed.
pub async fn with(
    admin: Option<&str>,
    token: Option<Secret>,
    place: &Place,
    told: Option<Told>,
    work: impl AsyncFnOnce(&Either) -> Result<()>,
) -> Result<Exit> {
    if let Some(url) = admin {
        work(&Either::Running(Admin::new(url, token).map_err(anyhow::Error::msg)?)).await?;
        return Ok(Exit::Done);
    }
    let config = match config::load(place, &env::var, &provider::catalog_names()) {
        Ok((config, _)) => config,
        Err(problems) => return Ok(super::refuse(&problems)?),
    };
    stopped::with(&config, KEYS, async |store| {
        let ring = Keyring::open(store, &config.secrets).await.map_err(plain)?;
        let keys = Keys::with(&ring, store.clone(), &config.auth, config.who()).await.map_err(plain)?;
        let either = Either::Stopped(keys);
        match &told {
            Some(Told { action, object }) => {
                let key = ring.secret_for(PURPOSE);
                super::audit::told(store, &key, (action, Some(object)), work(&either)).await
            }
            None => work(&either).await,
        }
    })
    .await?;
    Ok(Exit::Done)
}

/// One call of the admin API.
pub async fn call(admin: &Admin, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
    admin.call(method, path, body).await.map_err(anyhow::Error::msg)
}

/// All pages of a list.
pub async fn all(admin: &Admin, path: &str) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    let more = if path.contains('?') { '&' } else { '?' };
    let mut page = format!("{path}{more}limit=500");
    loop {
        let mut answer = call(admin, Method::GET, &page, None).await?;
        rows.extend(answer["data"].as_array_mut().map(std::mem::take).unwrap_or_default());
        let Some(next) = answer["next_cursor"].as_str() else { return Ok(rows) };
        page = format!("{path}{more}limit=500&cursor={}", encoded(next));
    }
}

pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// The message without its code: people read it.
pub fn plain(error: crate::error::Error) -> anyhow::Error {
    match &error.param {
        Some(param) => anyhow!("{param}: {}", error.message),
        None => anyhow!("{}", error.message),
    }
}

/// A value in a cell of a table.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(map) => {
            map.iter().map(|(name, value)| format!("{name}={}", cell(value))).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

/// Rows as a table with these columns.
pub fn table(columns: &[&str], rows: &[Value]) -> Vec<String> {
    let mut lines = vec![columns.iter().map(|c| (*c).to_owned()).collect::<Vec<String>>()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|column| cell(&row[*column])).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |line: &Vec<String>| {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect()
}

const KEYS: Wants = Wants { kept: "keys", missing: None, running: Some("") };

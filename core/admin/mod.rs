//! The control plane: a small HTTP API on its own listener, for operators, Prometheus and probes. It reads the gateway
//! through `Facts` and changes keys, identities and tokens through `auth::Keys`; each request passes one gate and one table
//! of permissions, and requests to models never pass here.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::{
    account::{Ledger, price::Rates},
    audit::Audit,
    auth::{Keys, permission::Target},
    config::{Per, Scope, Secret},
    error::{Error, Kind, Result},
    experiment::Window,
    explain::Asked,
    secrets::Secrets,
    versions::{By, Versions},
};

mod access;
mod audit;
mod budgets;
mod cache;
pub mod client;
mod explain;
mod export;
mod gate;
mod identities;
mod keys;
mod listen;
mod openapi;
mod quotas;
mod reads;
mod record;
mod reply;
mod rerate;
mod routes;
mod secrets;
mod shapes;
mod tokens;
mod usage;
mod versions;

pub use keys::no_such_team;
pub use listen::serve;
pub use record::written_late;

/// What the plane works on. Lives as long as the process.
pub struct AdminState {
    pub keys: Arc<Keys>,
    pub ledger: Arc<Ledger>,
    pub audit: Arc<Audit>,
    pub secrets: Arc<Secrets>,
    pub facts: Arc<dyn Facts>,
    pub deployment: Arc<dyn Deployment>,
    /// Without one only the local user is served.
    pub token: Option<Secret>,
}

/// What the gateway tells about itself, as it is at the moment of asking.
pub trait Facts: Send + Sync {
    /// `{running: {hash, stages: [{use, …}]}, refused: null | {hash, errors: [{file, line, message}]}}`
    fn config_status(&self) -> Value;
    /// Every name that may be asked for, with its targets: one object each, with an `id`.
    fn models(&self) -> Vec<Value>;
    /// Every provider, ready or not: one object each, with a `name`.
    fn providers(&self) -> Vec<Value>;
    /// Every configured team, with its limits and the state of its budget: one object each, with a `name`.
    fn teams(&self) -> Vec<Value>;
    /// Budgets in their windows, by scope, behind one of them and so many at most: one object each, with an `id`.
    fn budgets(&self, _sees: Option<Sees>, _after: Option<(Scope, Per)>, _limit: usize) -> BoxFuture<'_, Vec<Value>> {
        Box::pin(std::future::ready(Vec::new()))
    }
    /// Every quota of a target or of a provider's key, and those that their provider closed: one object each, with an `id`.
    fn quotas(&self) -> Vec<Value> {
        Vec::new()
    }
    /// Raises of budgets that are in force: one object each, with an `id`.
    fn raises(&self) -> Vec<Value> {
        Vec::new()
    }
    /// Prices of targets, as they are now.
    fn prices(&self) -> Priced {
        Box::new(|_| None)
    }
    /// Removes kept answers: of a team, of a key that has none, or all. How many there were.
    fn flush_cache(&self, _team: Option<&str>, _key: Option<&str>) -> BoxFuture<'static, Result<u64>> {
        Box::pin(std::future::ready(Ok(0)))
    }
    /// Raises a budget; `body` says which, by what, until when and why.
    fn raise(&self, _body: Bytes) -> BoxFuture<'_, Result<Value>> {
        Box::pin(std::future::ready(Err(Error::new(Kind::NotFound, "there is no budget here"))))
    }
    fn end_raise(&self, _id: String) -> BoxFuture<'_, Result<Value>> {
        Box::pin(std::future::ready(Err(Error::new(Kind::NotFound, "there is no budget here"))))
    }
    /// Every alias that tries something, with the figures of its arms: one object each.
    fn experiments(&self, _window: Window) -> BoxFuture<'_, Result<Vec<Value>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
    /// Ready to serve? And the body that says so. A refused configuration does not make a gateway unready.
    fn ready(&self) -> (bool, Value);
    /// What would become of a request now: nothing is sent, reserved or counted.
    fn explain(&self, _asked: Asked) -> BoxFuture<'_, Result<Value>> {
        let nothing = Error::new(Kind::NotFound, "there is nothing to explain here");
        Box::pin(std::future::ready(Err(nothing)))
    }
    /// Which other gateway has the record of this request, in words; `None`: nobody knows of one.
    fn elsewhere(&self, _request: String) -> BoxFuture<'_, Option<String>> {
        Box::pin(std::future::ready(None))
    }
    /// Sets the gauges that are measured when somebody looks.
    fn measure(&self) {}
}

/// Whether things that lie there are shown.
pub type Sees = Arc<dyn Fn(&Target) -> bool + Send + Sync>;

/// What a target costs, by its name.
pub type Priced = Box<dyn FnMut(&str) -> Option<Arc<Rates>> + Send>;

/// The one who decides which version of the policy runs.
pub trait Deployment: Send + Sync {
    fn versions(&self) -> &Versions;
    /// The version that is being tried, with its figures.
    fn rollout(&self) -> Value;
    /// A version with its files.
    fn show(self: Arc<Self>, version: String) -> BoxFuture<'static, Result<Value>>;
    /// Two versions side by side; `running` and `files` are versions too.
    fn diff(self: Arc<Self>, from: String, to: String) -> BoxFuture<'static, Result<Value>>;
    /// A secret that gateway.toml only names is another one: waits until requests have it.
    fn secrets_changed(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
    /// Waits until it is done.
    fn act(self: Arc<Self>, action: Action, by: By) -> BoxFuture<'static, Result<Value>>;
}

/// What changes the version that runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Reload,
    /// To this version.
    Rollback(String),
    Unpin,
    Promote,
    Abort,
}

/// Why a plane with this address and token must not start; the sentence says what to do.
pub fn refuse_to_listen(listen: SocketAddr, token: Option<&Secret>) -> Option<String> {
    let local = listen.ip().to_canonical().is_loopback();
    match token {
        Some(token) if token.expose().trim().is_empty() => {
            Some("admin.token is empty: set a long random value, or listen on 127.0.0.1 without one".to_owned())
        }
        None if !local => Some(format!(
            "admin.listen = {listen} can be reached by others: set admin.token = \"env:PORTCULLIS_ADMIN_TOKEN\", or listen on \
             127.0.0.1"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

//! What the admin plane may do with versions: its calls in words of the API, each on a thread where waiting is allowed.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{Deploy, Outcome};
use crate::{
    admin::{Action, Deployment},
    error::{Error, Kind, Result},
    versions::{By, Row, Versions, compare, id},
};

impl Deployment for Deploy {
    fn versions(&self) -> &Versions {
        &self.versions
    }

    fn rollout(&self) -> Value {
        let standing = self.gateway.state.standing.load();
        let rollout = self.gateway.state.rollout.under_way();
        json!({
            "running": standing.named(),
            "rollout": rollout.map(|rollout| rollout.json()),
            "reverted": standing.held.as_ref().map(super::Held::json),
        })
    }

    fn secrets_changed(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _ = tokio::task::spawn_blocking(move || Deploy::secrets_changed(&self)).await;
        })
    }

    fn act(self: Arc<Self>, action: Action, by: By) -> BoxFuture<'static, Result<Value>> {
        blocking(move || match action {
            Action::Reload => Ok(self.told(&self.reload(by))),
            Action::Unpin => Ok(self.told(&self.unpin(by)?)),
            Action::Rollback(to) => {
                let row = self.rollback(&to, by)?;
                let mut answer = self.row(&row);
                answer["pinned"] = json!(self.gateway.state.standing.load().pin.as_ref().map(|pin| pin.json()));
                answer["durable"] = json!(self.versions.saved());
                Ok(answer)
            }
            Action::Promote => Ok(self.numbered("live", self.promote(&by)?)),
            Action::Abort => Ok(self.numbered("aborted", self.abort(&by)?)),
        })
    }

    fn show(self: Arc<Self>, text: String) -> BoxFuture<'static, Result<Value>> {
        blocking(move || {
            let row = self.versions.find(&text)?;
            Ok(crate::versions::show(&self.versions, &row))
        })
    }

    fn diff(self: Arc<Self>, from: String, to: String) -> BoxFuture<'static, Result<Value>> {
        blocking(move || {
            let side = |text: &str| match text {
                "files" => Ok(("files".to_owned(), self.files())),
                "running" => {
                    let row = self.versions.find(&id(self.gateway.state.standing.load().version))?;
                    Ok((id(row.number), self.versions.content(&row)?))
                }
                text => {
                    let row = self.versions.find(text)?;
                    Ok((id(row.number), self.versions.content(&row)?))
                }
            };
            let ((from, old), (to, new)): ((String, _), (String, _)) = (side(&from)?, side(&to)?);
            let mut answer = compare((&from, &old), (&to, &new));
            (answer["from"], answer["to"]) = (json!(from), json!(to));
            Ok(answer)
        })
    }
}

impl Deploy {
    fn row(&self, row: &Row) -> Value {
        row.json(self.versions.is_kept(row))
    }

    fn numbered(&self, outcome: &str, number: u64) -> Value {
        json!({ "outcome": outcome, "version": self.versions.row(number).map(|row| self.row(&row)) })
    }

    /// `{outcome, version, errors}`; `message` says what to do where the files do not run.
    fn told(&self, outcome: &Outcome) -> Value {
        let why = || {
            let rollout = self.gateway.state.rollout.under_way();
            self.gateway.state.standing.load().why(rollout.as_deref(), None)
        };
        match outcome {
            Outcome::Unchanged(number) => self.numbered("unchanged", *number),
            Outcome::Live(number) => self.numbered("live", *number),
            Outcome::Trying(number) => with(self.numbered("rollout", *number), why()),
            Outcome::Pinned(number) => with(self.numbered("pinned", *number), why()),
            Outcome::Held(held) => with(self.numbered("reverted", held.number), why()),
            Outcome::Refused(refused) => {
                let first = refused.problems.first().map(|p| format!("{}:{}: {}", p.file, p.line, p.message));
                let message = format!("the files are refused, and nothing was changed: {}", first.unwrap_or_default());
                json!({
                    "outcome": "refused",
                    "hash": refused.hash,
                    "errors": refused.problems,
                    "error": { "code": "config_refused", "message": message },
                })
            }
        }
    }
}

fn with(mut answer: Value, message: Option<String>) -> Value {
    answer["message"] = json!(message);
    answer
}

fn blocking(work: impl FnOnce() -> Result<Value> + Send + 'static) -> BoxFuture<'static, Result<Value>> {
    Box::pin(async move {
        let broke = |e| Error::new(Kind::Internal, "the gateway failed over this").because(e);
        tokio::task::spawn_blocking(work).await.map_err(broke)?
    })
}

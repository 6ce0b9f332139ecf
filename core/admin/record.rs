//! The one place where admin actions are written down: before they are done, and how they ended. A change that cannot be
//! written down is not made. What an action changed is told by what a look at the same thing says before and after.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, header, request::Parts};
use http_body_util::BodyExt;
use serde_json::Value;

use super::{
    AdminState, gate,
    reply::{self, Reply},
    routes::{Call, Route, TABLE},
};
use crate::{
    audit::{Actor, ActorKind, Audit, Entry, Origin, Outcome},
    auth::{KeyInfo, permission},
    error::{Error, Kind, Result},
    store::StoreError,
};

/// Who asks, and from where.
pub(super) struct Who {
    pub actor: Actor,
    pub from: Origin,
}

impl Who {
    pub fn of(actor: &permission::Actor, peer: SocketAddr, head: &Parts) -> Who {
        let agent = head.headers.get(header::USER_AGENT).map(|value| value.as_bytes());
        let mut who = Actor::new(match &actor.token {
            Some(_) => ActorKind::Token,
            None if actor.issuer.is_some() => ActorKind::User,
            None if *actor.name == *gate::LOCAL => ActorKind::Local,
            None => ActorKind::Owner,
        });
        if let Some(token) = &actor.token {
            (who.id, who.name) = (Some(token.to_string()), Some(actor.name.to_string()));
            who.role = Some(actor.roles());
        } else if actor.issuer.is_some() {
            who.id = actor.user.as_ref().map(|user| user.to_string());
            (who.name, who.role) = (Some(actor.name.to_string()), Some(actor.roles()));
        }
        Who { actor: who, from: Origin::new(peer.ip(), agent) }
    }
}

/// Does what the route does. It goes on when the caller leaves, so that what was begun is also told to its end.
pub(super) async fn run(route: &'static Route, state: Arc<AdminState>, who: Who, call: Call) -> Result<Reply> {
    if !recorded(route, &call) {
        return (route.call)(state, call).await;
    }
    if route.method == Method::GET {
        return seen(route, state, who, call).await;
    }
    if state.audit.refusals().tired_of(&who.actor) {
        let message = "this actor has tried too often what it may not do; wait a minute";
        return Err(Error::new(Kind::RateLimited, message).with_code("too_many_refusals"));
    }
    let task = tokio::spawn(told(route, state, who, call));
    task.await.map_err(|e| Error::new(Kind::Internal, "the gateway failed over this").because(e))?
}

/// Somebody was not let in, or may not do this. Counted: a flood of guesses fills nothing. `who`: where it is known.
pub(super) fn refused(state: &AdminState, peer: SocketAddr, who: Option<Actor>, error: &Error) {
    if matches!(error.kind, Kind::Unauthenticated | Kind::Forbidden) {
        state.audit.refusals().admin(error.code(), who, Some(peer.ip()));
    }
}

/// A look at what callers said: written down before it is shown. It changes nothing, so a full disk does not forbid it; its
/// row follows.
async fn seen(route: &'static Route, state: Arc<AdminState>, who: Who, call: Call) -> Result<Reply> {
    let mut entry = Entry::new(who.actor, who.from, action(route));
    entry.object = Some(call.id.clone()).filter(|id| !id.is_empty());
    let result = (route.call)(state.clone(), call).await;
    if let Err(error) = &result {
        entry.outcome = if error.status() < 500 { Outcome::Refused } else { Outcome::Failed };
        entry.code = Some(error.code().to_owned());
    }
    state.audit.record_done(entry).await;
    result
}

async fn told(route: &'static Route, state: Arc<AdminState>, who: Who, call: Call) -> Result<Reply> {
    let look = Look::of(route, &call);
    let mut entry = Entry::new(who.actor, who.from, action(route)).outcome(Outcome::Intended);
    entry.object = Some(call.id.clone()).filter(|id| !id.is_empty());
    entry.before = look.at(&state).await;
    let of = match state.audit.record(entry.clone()).await {
        Ok(of) => Some(of),
        // A right that is taken away is gone at once, even when the disk is full: its row follows.
        Err(error) if takes_away(&entry.action) => {
            tracing::error!(%error, action = entry.action, "done before it could be written to the audit log");
            None
        }
        Err(error) => return Err(unwritten(error)),
    };
    let result = (route.call)(state.clone(), call).await;
    let (result, answer) = match result {
        Ok(reply) => {
            let (head, body) = reply.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let answer = serde_json::from_slice::<Value>(&body).unwrap_or_default();
            entry.outcome = if head.status.is_success() { Outcome::Done } else { Outcome::Refused };
            (Ok(Reply::from_parts(head, reply::body(body))), answer)
        }
        Err(error) => {
            if error.kind == Kind::Forbidden {
                state.audit.refusals().forbade(&entry.actor);
            }
            entry.outcome = if error.status() < 500 { Outcome::Refused } else { Outcome::Failed };
            entry.code = Some(error.code().to_owned());
            (Err(error), Value::Null)
        }
    };
    if entry.object.is_none() {
        entry.object = answer["id"].as_str().or_else(|| answer["name"].as_str()).map(str::to_owned);
    }
    let after = look.at(&state).await;
    entry.after = if after.is_null() { answer } else { after };
    entry.of = of;
    // It is done: what cannot be written now is written later.
    state.audit.record_done(entry).await;
    result
}

/// What changes something, and what shows what callers said.
fn recorded(route: &Route, call: &Call) -> bool {
    let reads = route.method == Method::GET || UNCHANGING.contains(&route.path);
    !reads || call.query("bodies").is_some()
}

/// `keys.create`, `keys.rotate`, `rollout.promote`: the thing, and what is done to it.
fn action(route: &Route) -> String {
    let path = route.path.strip_prefix("/api/v1/").unwrap_or(route.path.trim_start_matches('/'));
    let mut words = path.split('/').filter(|word| !word.starts_with('{'));
    let thing = words.next().unwrap_or_default();
    let verb = words.next_back().unwrap_or(match route.method {
        Method::POST => "create",
        Method::PUT => "set",
        Method::PATCH => "change",
        Method::DELETE => "delete",
        _ => "read",
    });
    format!("{thing}.{verb}")
}

fn takes_away(action: &str) -> bool {
    AWAY.iter().any(|verb| action.ends_with(verb))
}

/// The look at a thing that shows what was done to it.
struct Look {
    route: Option<&'static Route>,
    actor: permission::Actor,
    id: String,
}

impl Look {
    fn of(route: &Route, call: &Call) -> Look {
        let of_versions = VERSIONED.iter().any(|prefix| route.path.starts_with(prefix));
        // `/keys/{id}` for `/keys/{id}/rotate`.
        let own = route.path.split_inclusive("{id}").next().filter(|path| path.ends_with("{id}"));
        let path = if of_versions { Some(RUNNING) } else { own };
        let found = path.and_then(|path| TABLE.iter().find(|r| r.method == Method::GET && r.path == path));
        let actor = call.actor.clone();
        Look { route: found.filter(|_| route.method != Method::GET), actor, id: call.id.clone() }
    }

    /// Nothing where there is no such look, or no such thing.
    async fn at(&self, state: &Arc<AdminState>) -> Value {
        let Some(route) = self.route else { return Value::Null };
        let call = Call {
            actor: self.actor.clone(),
            id: self.id.clone(),
            other: String::new(),
            query: Vec::new(),
            accept: String::new(),
            body: Bytes::new(),
        };
        let Ok(reply) = (route.call)(state.clone(), call).await else { return Value::Null };
        let body = reply.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        serde_json::from_slice(&body).unwrap_or_default()
    }
}

/// A disk without room is told as such: nothing was changed.
fn unwritten(error: StoreError) -> Error {
    let status = error.status();
    let message = format!("this could not be written to the audit log, so it was not done: {error}");
    let code = if status == 507 { "store_full" } else { "audit_failed" };
    Error::new(Kind::Internal, message).with_status(status).with_code(code).because(error)
}

/// Written with POST because of their bodies.
const UNCHANGING: [&str; 1] = ["/api/v1/explain"];
const AWAY: [&str; 3] = [".delete", ".revoke", ".disable"];
/// What changes the version that runs.
const VERSIONED: [&str; 3] = ["/api/v1/versions", "/api/v1/config", "/api/v1/rollout"];
const RUNNING: &str = "/api/v1/rollout";

/// For who writes revocations that the store had not taken: each is an action that is done now.
pub fn written_late(audit: Arc<Audit>) -> impl Fn(KeyInfo) -> BoxFuture<'static, ()> + Send + Sync + 'static {
    move |info| {
        let audit = audit.clone();
        Box::pin(async move {
            let entry = Entry::system("keys.delete").object(info.id.clone()).after(info.json());
            audit.record_done(entry).await;
        })
    }
}

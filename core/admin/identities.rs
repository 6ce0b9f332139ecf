//! Organisations, teams, users and service accounts over HTTP: one way for all four. What the actor may do with each of them
//! is asked in `auth::identities`, where the rows are.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::StatusCode;
use serde_json::Value;

use super::{
    AdminState,
    reads::page,
    reply::{self, Reply},
    routes::Call,
};
use crate::{
    auth::identities::Thing,
    error::{Error, Result},
};

type Answer = BoxFuture<'static, Result<Reply>>;

/// The routes of one of them.
macro_rules! routes {
    ($thing:expr, $list:ident, $create:ident, $one:ident, $change:ident, $delete:ident) => {
        pub(super) fn $list(state: Arc<AdminState>, call: Call) -> Answer {
            Box::pin(list($thing, state, call))
        }

        pub(super) fn $create(state: Arc<AdminState>, call: Call) -> Answer {
            Box::pin(create($thing, state, call))
        }

        pub(super) fn $one(state: Arc<AdminState>, call: Call) -> Answer {
            Box::pin(async move { Ok(reply::ok(&state.keys.identity($thing, &call.id, &call.actor).await?)) })
        }

        pub(super) fn $change(state: Arc<AdminState>, call: Call) -> Answer {
            Box::pin(change($thing, state, call))
        }

        pub(super) fn $delete(state: Arc<AdminState>, call: Call) -> Answer {
            Box::pin(delete($thing, state, call))
        }
    };
}

routes!(
    Thing::Organisation,
    organisations,
    create_organisations,
    one_of_organisations,
    change_organisations,
    delete_organisations
);
routes!(Thing::Team, teams, create_teams, one_of_teams, change_teams, delete_teams);
routes!(Thing::User, users, create_users, one_of_users, change_users, delete_users);
routes!(
    Thing::ServiceAccount,
    service_accounts,
    create_service_accounts,
    one_of_service_accounts,
    change_service_accounts,
    delete_service_accounts
);

async fn list(thing: Thing, state: Arc<AdminState>, call: Call) -> Result<Reply> {
    let mut rows = state.keys.identities(thing, &call.actor).await?;
    if thing == Thing::Team {
        // What is left of limits and budgets is known to those who count.
        for facts in state.facts.teams() {
            let row = rows.iter_mut().find(|row| row["name"] == facts["name"]);
            if let (Some(Value::Object(row)), Value::Object(facts)) = (row, facts) {
                row.extend(facts);
            }
        }
    }
    page(&call, rows)
}

async fn create(thing: Thing, state: Arc<AdminState>, call: Call) -> Result<Reply> {
    let row = state.keys.create_identity(thing, call.object()?.into(), &call.actor).await?;
    tracing::info!(kind = thing.name(), name = %row["name"], by = %call.actor.name, "identity created");
    Ok(reply::json(StatusCode::CREATED, &row))
}

async fn change(thing: Thing, state: Arc<AdminState>, call: Call) -> Result<Reply> {
    let row = state.keys.change_identity(thing, &call.id, call.object()?.into(), &call.actor).await?;
    tracing::info!(kind = thing.name(), name = call.id, by = %call.actor.name, "identity changed");
    Ok(reply::ok(&row))
}

async fn delete(thing: Thing, state: Arc<AdminState>, call: Call) -> Result<Reply> {
    let keys = match call.query("keys") {
        None => false,
        Some("revoke") => true,
        Some(_) => return Err(Error::invalid("keys", "`revoke`, or nothing")),
    };
    let row = state.keys.delete_identity(thing, &call.id, keys, &call.actor).await?;
    tracing::info!(kind = thing.name(), name = call.id, by = %call.actor.name, "identity deleted");
    Ok(reply::ok(&row))
}

//! `/api/v1/cache`: kept answers are taken away, of one tenant or all.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::json;

use super::{
    AdminState,
    reply::{self, Reply},
    routes::Call,
};
use crate::error::{Error, Result};

pub(super) fn flush(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    let flushed = match (call.query("team"), call.query("key")) {
        (Some(_), Some(_)) => {
            Err(Error::invalid("key", "name a team, or a key that has none; a tenant is one of them"))
        }
        (team, key) => Ok(state.facts.flush_cache(team, key)),
    };
    Box::pin(std::future::ready(flushed.map(|count| reply::ok(&json!({ "removed": count })))))
}

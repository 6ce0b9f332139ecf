//! `/api/v1/cache`: kept answers are taken away, of one tenant or all, from memory and from behind it.

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
    Box::pin(async move {
        let removed = match (call.query("team"), call.query("key")) {
            (Some(_), Some(_)) => {
                let text = "name a team, or a key that has none; a tenant is one of them";
                return Err(Error::invalid("key", text));
            }
            (team, key) => state.facts.flush_cache(team, key),
        };
        Ok(reply::ok(&json!({ "removed": removed.await? })))
    })
}

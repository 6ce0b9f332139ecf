//! `/api/v1/quotas`: what providers grant, what is left of it and when it returns.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{AdminState, reads, reply::Reply, routes::Call};
use crate::error::Result;

pub(super) fn list(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    let page = reads::page(&call, state.facts.quotas());
    Box::pin(std::future::ready(page))
}

//! `/api/v1/budgets`: what every scope may spend and has spent, and raises of it for a while.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::StatusCode;

use super::{
    AdminState, reads,
    reply::{self, Reply},
    routes::Call,
};
use crate::error::Result;

pub(super) fn list(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    let page = reads::page(&call, state.facts.budgets());
    Box::pin(std::future::ready(page))
}

pub(super) fn raises(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    let page = reads::page(&call, state.facts.raises());
    Box::pin(std::future::ready(page))
}

pub(super) fn raise(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let made = state.facts.raise(call.body).await?;
        Ok(reply::json(StatusCode::CREATED, &made))
    })
}

pub(super) fn end(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move { Ok(reply::ok(&state.facts.end_raise(call.id).await?)) })
}

//! `POST /api/v1/usage/rerate`: recorded usage at the prices of now, for good. It works for some seconds and says where to go on,
//! so that no answer takes long; what it has done is done whole.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Handle;

use super::{
    AdminState,
    reads::unreadable,
    reply::{self, Reply},
    routes::Call,
};
use crate::{
    account::rerate::write::Written,
    error::{Error, Kind, Result},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    from: String,
    to: Option<String>,
}

pub(super) fn rerate(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let body: Body = serde_json::from_value(call.object()?.into())
            .map_err(|e| Error::new(Kind::InvalidRequest, format!("the body is not right: {e}")))?;
        let now = SystemTime::now();
        let from = moment("from", &body.from)?;
        let to = body.to.as_deref().map(|to| moment("to", to)).transpose()?.unwrap_or(now).min(now);
        if from >= to {
            return Err(Error::invalid("from", "it must be before `to`, and in the past"));
        }
        let (ledger, mut prices, runtime) = (state.ledger.clone(), state.facts.prices(), Handle::current());
        let until = Instant::now() + AT_WORK;
        let work = move || ledger.rerate_served(&runtime, (from, to), until, &mut |target| prices(target));
        let done = tokio::task::spawn_blocking(work).await;
        let done = done.map_err(|e| Error::new(Kind::Internal, "the gateway failed over this").because(e))?;
        let Some(Written { hours, requests, left, next }) = done.map_err(unreadable)? else {
            let message = "records are priced again already: wait until that is done, then ask again";
            return Err(Error::new(Kind::InvalidRequest, message).with_status(409).with_code("conflict"));
        };
        tracing::info!(hours, requests, left, by = %call.actor.name, "recorded usage has other prices");
        let next = next.and_then(|at| jiff::Timestamp::try_from(at).ok()).map(|at| at.to_string());
        Ok(reply::ok(&json!({ "hours": hours, "requests": requests, "left": left, "next": next })))
    })
}

/// A time, or the beginning of a day, UTC.
fn moment(field: &str, text: &str) -> Result<SystemTime> {
    let day = || format!("{text}T00:00:00Z").parse::<jiff::Timestamp>();
    let time = text.parse::<jiff::Timestamp>().or_else(|_| day());
    let wrong = || Error::invalid(field, "a time such as 2026-01-31T08:00:00Z, or a day such as 2026-01-31");
    time.map(SystemTime::from).map_err(|_| wrong())
}

/// No further hour is begun after it.
const AT_WORK: Duration = Duration::from_secs(5);

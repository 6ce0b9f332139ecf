//! The ledger as a file: every request that was settled in a time, as JSON lines or CSV, sent while it is read.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};

use super::{
    AdminState,
    reply::{self, Reply},
    routes::Call,
    usage::{Form, form},
};
use crate::{
    account::export,
    auth::permission::Operation,
    error::{Error, Result},
};

pub(super) fn requests(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(ready(begin(state, &call)))
}

fn begin(state: Arc<AdminState>, call: &Call) -> Result<Reply> {
    let csv = match form(call)? {
        Form::Csv => true,
        Form::Lines => false,
        Form::Json if call.query("format").is_none() => false,
        Form::Json => return Err(Error::invalid("format", "one of ndjson, csv")),
    };
    let (from, to) = call.span()?;
    let to = to.unwrap_or_else(SystemTime::now);
    let from = from.unwrap_or_else(|| to.checked_sub(USUAL).unwrap_or(SystemTime::UNIX_EPOCH));
    if from > to {
        return Err(Error::invalid("from", "it is later than `to`"));
    }
    let sight = call.sight(&state, Operation::ReadRequests);
    let (feed, reply) = reply::feed(if csv { "text/csv; charset=utf-8" } else { "application/x-ndjson" });
    tokio::task::spawn_blocking(move || {
        let mut piece = if csv { export::head() } else { Vec::new() };
        let read = state.ledger.lines(from, to, |line| {
            if !sight.is_whole() && !export::is_seen(line, |team, key| sight.sees(team, key)) {
                return true;
            }
            match csv {
                true => piece.extend(export::attempts(line)),
                false => {
                    piece.extend_from_slice(line);
                    piece.push(b'\n');
                }
            }
            piece.len() < PIECE || feed.send_blocking(Bytes::from(std::mem::take(&mut piece)))
        });
        match read {
            Ok(()) => drop(feed.send_blocking(piece.into())),
            // Who reads half of it sees that it was cut off.
            Err(error) => {
                tracing::warn!(%error, "an export of the records was broken off");
                feed.break_off_blocking();
            }
        }
    });
    Ok(reply)
}

const USUAL: Duration = Duration::from_secs(86_400);
const PIECE: usize = 64 << 10;

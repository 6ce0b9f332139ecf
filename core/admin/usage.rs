//! What was used and spent, by anything that sums are by and by windows in any zone: from the sums, without reading records.
//! As pages of JSON, or as a whole in CSV or JSON lines, made while it is sent.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{
    AdminState,
    reads::{self, unreadable},
    reply::{self, Feed, Reply},
    routes::Call,
};
use crate::{
    account::report::{Asked, Dimension, Failed, Fault, Report, Row, Seen, table},
    auth::permission::Operation,
    error::{Error, Result},
};

/// What whole reports are written in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    Json,
    Csv,
    Lines,
}

pub(super) fn usage(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let text = |name: &str| call.query(name).map(str::to_owned);
        let only = Dimension::ALL.into_iter().filter_map(|dimension| Some((dimension, text(dimension.name())?)));
        let asked = Asked {
            group_by: text("group_by"),
            bucket: text("bucket"),
            zone: text("tz"),
            from: text("from"),
            to: text("to"),
            only: only.collect(),
        };
        let wrong = |Fault { part, message }: Fault| Error::invalid(part, message);
        let mut report = Report::read(asked, SystemTime::now()).map_err(wrong)?;
        let sight = call.sight(&state, Operation::ReadUsage);
        if !sight.is_whole() {
            let named = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let sees = move |team: &str, key: &str| sight.sees(named(team).as_deref(), named(key).as_deref());
            report = report.seen_by(Seen(Arc::new(sees)));
        }
        match form(&call)? {
            Form::Json => page(&state, &call, &report).await,
            form => Ok(whole(state, report, form)),
        }
    })
}

/// As `format` says, or the header `accept`.
pub(super) fn form(call: &Call) -> Result<Form> {
    match call.query("format") {
        Some("json") => Ok(Form::Json),
        Some("csv") => Ok(Form::Csv),
        Some("ndjson") => Ok(Form::Lines),
        Some(_) => Err(Error::invalid("format", "one of json, csv, ndjson")),
        None if call.accepts("text/csv") => Ok(Form::Csv),
        None if call.accepts("application/x-ndjson") => Ok(Form::Lines),
        None => Ok(Form::Json),
    }
}

async fn page(state: &AdminState, call: &Call, report: &Report) -> Result<Reply> {
    let limit = call.limit()?;
    let start = reads::start(call)?;
    let end = start.saturating_add(limit);
    let (mut passed, mut data, mut more) = (0, Vec::<Value>::new(), false);
    for window in report.windows() {
        let rows = report.rows(&state.ledger.sums, &window).await.map_err(failed)?;
        for row in rows {
            more |= passed == end;
            if passed >= start && passed < end {
                data.push(table::json(report, &row));
            }
            passed += 1;
        }
        if more {
            break;
        }
    }
    let mut body = json!({ "data": data, "next_cursor": more.then(|| end.to_string()) });
    if report.is_coarse() {
        body["note"] = COARSE.into();
    }
    Ok(reply::ok(&body))
}

fn whole(state: Arc<AdminState>, report: Report, form: Form) -> Reply {
    let (feed, reply) = match form {
        Form::Csv => reply::feed("text/csv; charset=utf-8"),
        _ => reply::feed("application/x-ndjson"),
    };
    tokio::spawn(async move {
        // Who reads half of it sees that it was cut off.
        if let Err(error) = send(&state, &report, form, &feed).await {
            tracing::warn!(%error, "a report of usage was broken off");
            feed.break_off().await;
        }
    });
    reply
}

async fn send(state: &AdminState, report: &Report, form: Form, feed: &Feed) -> std::result::Result<(), Failed> {
    let line = |row: &Row| match form {
        Form::Csv => table::csv(report, row),
        _ => format!("{}\n", table::json(report, row)).into_bytes(),
    };
    let mut piece = if form == Form::Csv { table::csv_head(report) } else { Vec::new() };
    for window in report.windows() {
        for row in report.rows(&state.ledger.sums, &window).await? {
            piece.extend(line(&row));
            if piece.len() > PIECE && !feed.send(Bytes::from(std::mem::take(&mut piece))).await {
                return Ok(());
            }
        }
    }
    feed.send(piece.into()).await;
    Ok(())
}

fn failed(error: Failed) -> Error {
    match error {
        Failed::TooMany => Error::invalid("group_by", error.to_string()),
        Failed::Store(error) => unreadable(error),
    }
}

const PIECE: usize = 64 << 10;
const COARSE: &str = "what is older than 94 days is kept by whole days, UTC: days and months of other zones begin with the day that is nearest";

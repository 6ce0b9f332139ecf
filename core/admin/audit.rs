//! `/api/v1/audit`: the log of what was done, newest first, as files, and verified. Reads only.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, header};
use serde_json::json;

use super::{
    AdminState,
    reply::{self, Reply},
    routes::Call,
};
use crate::{
    audit::{Wanted, csv},
    error::{Error, Kind, Result},
    store::StoreError,
};

pub(super) fn list(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let (wanted, limit) = (wanted(&call)?, call.limit()?);
        let page = state.audit.page(&wanted, call.query("cursor"), limit).await.map_err(unreadable)?;
        let page = page.ok_or_else(odd_cursor)?;
        Ok(reply::ok(&json!({ "data": page.rows, "next_cursor": page.next })))
    })
}

/// Rows as they are stored. Where there are more, `x-next-cursor` says from where.
pub(super) fn export(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let as_csv = match call.query("format").unwrap_or("ndjson") {
            "csv" => true,
            "ndjson" => false,
            _ => return Err(Error::invalid("format", "ndjson or csv")),
        };
        let (wanted, cursor) = (wanted(&call)?, call.query("cursor"));
        let rows = state.audit.export(&wanted, cursor, MOST_ROWS).await.map_err(unreadable)?;
        let (rows, next) = rows.ok_or_else(odd_cursor)?;
        let (body, kind) = if as_csv {
            (csv(&rows, cursor.is_none()).into_bytes(), "text/csv; charset=utf-8")
        } else {
            let mut lines = Vec::with_capacity(rows.iter().map(|row| row.len() + 1).sum());
            for row in &rows {
                lines.extend_from_slice(row);
                lines.push(b'\n');
            }
            (lines, "application/x-ndjson")
        };
        let mut answer = reply::bytes(kind, body);
        let next = next.and_then(|next| HeaderValue::from_str(&next).ok());
        if let Some(next) = next {
            answer.headers_mut().insert(NEXT, next);
        }
        answer.headers_mut().insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
        Ok(answer)
    })
}

pub(super) fn verify(state: Arc<AdminState>, _call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let found = state.audit.verify().await.map_err(unreadable)?;
        Ok(reply::ok(&match found {
            Ok(chains) => json!({
                "whole": true,
                "chains": chains.iter().map(|seen| json!({
                    "node": seen.node, "rows": seen.rows, "first": seen.first, "last": seen.last,
                })).collect::<Vec<_>>(),
            }),
            Err(broken) => json!({
                "whole": false,
                "broken": { "node": broken.node, "seq": broken.seq, "fault": broken.fault.name(), "why": broken.why },
            }),
        }))
    })
}

fn wanted(call: &Call) -> Result<Wanted> {
    let text = |name: &str| call.query(name).map(str::to_owned);
    let (from, to) = call.span()?;
    Ok(Wanted {
        action: text("action"),
        actor: text("actor"),
        object: text("object"),
        outcome: text("outcome"),
        node: text("node"),
        from,
        to,
    })
}

fn odd_cursor() -> Error {
    Error::invalid("cursor", "pass a cursor on as it came")
}

fn unreadable(error: StoreError) -> Error {
    Error::new(Kind::Internal, "the audit log cannot be read; the gateway's log says why").because(error)
}

const NEXT: HeaderName = HeaderName::from_static("x-next-cursor");
/// Of one answer.
const MOST_ROWS: usize = 5_000;

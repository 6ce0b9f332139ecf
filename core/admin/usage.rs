//! What was used and spent, by team, key, model, target, provider or day: from the sums, without reading records.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::{
    AdminState,
    reads::{page, unreadable},
    reply::Reply,
    routes::Call,
};
use crate::{
    account::{hour::Hour, price::usd_text, sum::Sum, usage::By},
    auth::permission::Operation,
    error::{Error, Result},
};

pub(super) fn usage(state: Arc<AdminState>, call: Call) -> BoxFuture<'static, Result<Reply>> {
    Box::pin(async move {
        let group = call.query("group_by").unwrap_or("team").to_owned();
        let by = GROUPS.iter().find(|(name, _)| *name == group).map(|(_, by)| by).ok_or_else(|| {
            let names: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
            Error::invalid("group_by", format!("one of {}", names.join(", ")))
        })?;
        let now = SystemTime::now();
        let to = call.time("to")?.unwrap_or(now);
        // A time before 1970 has nothing before it.
        let from = call.time("from")?.unwrap_or_else(|| to.checked_sub(USUAL).unwrap_or(SystemTime::UNIX_EPOCH));
        if from > to {
            return Err(Error::invalid("from", "it is later than `to`"));
        }
        // An hour that has begun counts whole.
        let end = Hour::of(to.checked_sub(Duration::from_nanos(1)).unwrap_or(to)).plus(1);
        let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
        let sight = call.sight(&state, Operation::ReadUsage);
        let named = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
        let each = state.ledger.sums.each(Hour::of(from), end, |of, sum| {
            if sight.is_whole() || sight.sees(named(of.team).as_deref(), named(of.key).as_deref()) {
                sums.entry(by(&of)).or_default().add(sum);
            }
        });
        each.await.map_err(unreadable)?;
        page(&call, sums.iter().map(|(name, sum)| row(&group, name, sum)).collect())
    })
}

fn row(group: &str, name: &str, sum: &Sum) -> Value {
    let Sum {
        requests,
        errors,
        input_tokens,
        output_tokens,
        cache_read_tokens,
        cache_write_tokens,
        reasoning_tokens,
        input_audio_tokens,
        output_audio_tokens,
        unknown_costs,
        cost_nano_usd,
        units: _,
    } = *sum;
    // All digits: never through a float.
    let cost = usd_text(i64::try_from(cost_nano_usd).unwrap_or(i64::MAX)).parse().map_or(Value::Null, Value::Number);
    let mut row = Map::new();
    row.insert(group.to_owned(), if name.is_empty() { Value::Null } else { name.into() });
    let figures = json!({
        "requests": requests,
        "errors": errors,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cache_read_tokens": cache_read_tokens,
        "cache_write_tokens": cache_write_tokens,
        "reasoning_tokens": reasoning_tokens,
        "input_audio_tokens": input_audio_tokens,
        "output_audio_tokens": output_audio_tokens,
        "cost_usd": cost,
        "unknown_costs": unknown_costs,
    });
    if let Value::Object(figures) = figures {
        row.extend(figures);
    }
    row.extend(sum.named_units().filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count.into())));
    row.into()
}

type Group = fn(&By<'_>) -> String;

const GROUPS: &[(&str, Group)] = &[
    ("team", |by| by.team.to_owned()),
    ("key", |by| by.key.to_owned()),
    ("model", |by| by.model.to_owned()),
    ("target", |by| by.target.to_owned()),
    ("provider", |by| by.target.split('/').next().unwrap_or("").to_owned()),
    ("day", |by| by.hour.day()),
];

const USUAL: Duration = Duration::from_secs(30 * 86_400);

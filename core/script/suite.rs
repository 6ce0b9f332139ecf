//! A context and a candidate as a few words describe them: for unit tests, `repl` and benches, which have no gateway around
//! them. Cases of `*.test.toml` are `crate::suite`'s.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Map, Value};

use crate::{
    auth::Principal,
    context::{Context, Priority, Trace},
    model::{Format, Operation},
    pipeline::Candidate,
};

/// A healthy target without figures.
pub fn candidate(name: &str) -> Candidate {
    let (provider, model) = name.split_once('/').unwrap_or((name, name));
    Candidate {
        name: name.into(),
        provider: provider.into(),
        model: model.into(),
        healthy: true,
        quota_left: u64::MAX,
        ..Candidate::default()
    }
}

/// The context that a table describes: team, key, user, roles, tags, headers, now, seed.
pub fn context(map: &Map<String, Value>, format: Format) -> Result<Context, String> {
    let text = |key: &str| match map.get(key) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.clone())),
        Some(_) => Err(format!("context.{key} must be a string")),
    };
    let pairs = |key: &str| match map.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Object(pairs)) => {
            let pair = |(k, v): (&String, &Value)| v.as_str().map(|v| (k.clone(), v.to_owned()));
            pairs.iter().map(pair).collect::<Option<Vec<_>>>().ok_or(format!("context.{key} holds strings"))
        }
        Some(_) => Err(format!("context.{key} must be a table")),
    };
    let now = match text("now")? {
        None => SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600),
        Some(now) => {
            let time: jiff::Timestamp =
                now.parse().map_err(|_| "context.now must be a time such as 2026-01-01T00:00:00Z")?;
            time.into()
        }
    };
    let roles = map.get("roles").and_then(Value::as_array).cloned().unwrap_or_default();
    let roles = roles.iter().filter_map(|r| r.as_str().map(str::to_owned)).collect();
    let key = text("key")?.unwrap_or_else(|| "test".into());
    let principal = Principal {
        key_id: format!("key_{key}").into(),
        key_name: key.into(),
        team: text("team")?.map(Into::into),
        user: text("user")?.map(Into::into),
        roles,
        ..Principal::default()
    };
    Ok(Context {
        id: "req_00000000000000000000000000000000".into(),
        operation: Operation::Chat,
        format,
        principal: Arc::new(principal),
        now,
        started: Instant::now(),
        deadline: None,
        tags: pairs("tags")?,
        priority: Priority::default(),
        sticks: None,
        beside: false,
        drawn: None,
        headers: pairs("headers")?,
        explain: false,
        attempt: 1,
        seed: map.get("seed").and_then(Value::as_u64).unwrap_or(0),
        vars: Map::new(),
        trace: Trace::default(),
    })
}

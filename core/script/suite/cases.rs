//! Reads files of cases: every mistake with its line.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Map, Value};

use super::problem;
use crate::{
    auth::Principal,
    config::{self, Problem},
    context::{Context, Priority, Trace},
    model::{Format, Operation},
    pipeline::Candidate,
};

/// One case, read.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub line: u32,
    pub request: Map<String, Value>,
    pub format: Format,
    pub context: Map<String, Value>,
    /// Live figures given by the case; else the names' own.
    pub targets: Vec<Candidate>,
    pub expect: Map<String, Value>,
}

/// Reads a file of cases; every mistake with its line.
pub fn cases(file: &str, text: &str) -> Result<Vec<Case>, Vec<Problem>> {
    let mut table = match config::toml(text) {
        Ok(table) => table,
        Err((line, message)) => return Err(vec![problem(file, line, message)]),
    };
    // The n-th [[case]] header stands where the n-th case does.
    let lines: Vec<u32> =
        (1..).zip(text.lines()).filter(|(_, l)| l.trim_start().starts_with("[[case]]")).map(|(n, _)| n).collect();
    let mut problems = Vec::new();
    for key in table.keys().filter(|key| *key != "case") {
        problems.push(problem(file, 1, format!("unknown key `{key}`: a file of cases holds [[case]] tables")));
    }
    let mut cases = Vec::new();
    let list = match table.remove("case") {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    if list.is_empty() {
        problems.push(problem(file, 1, "there is no [[case]] in this file".into()));
    }
    for (at, value) in list.into_iter().enumerate() {
        let line = lines.get(at).copied().unwrap_or(1);
        match case(value, line) {
            Ok(case) => cases.push(case),
            Err(message) => problems.push(problem(file, line, message)),
        }
    }
    if problems.is_empty() { Ok(cases) } else { Err(problems) }
}

fn case(value: Value, line: u32) -> Result<Case, String> {
    let Value::Object(mut map) = value else { return Err("a case is a table".into()) };
    known(&map, "a case", &["name", "request", "context", "targets", "expect", "format"])?;
    let mut table = |key: &str| match map.remove(key) {
        None => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(format!("{key} must be a table")),
    };
    let (mut request, context, expect) = (table("request")?, table("context")?, table("expect")?);
    known(&expect, "expect", &["target", "targets", "status", "message", "text", "model", "notes", "request"])?;
    if let Some(Value::Object(fields)) = expect.get("request") {
        known(fields, "expect.request", &["temperature", "top_p", "max_tokens", "messages", "metadata"])?;
    }
    known(&context, "context", &["team", "key", "user", "roles", "tags", "headers", "now", "seed"])?;
    if expect.is_empty() {
        return Err("a case without `expect` proves nothing".into());
    }
    let name = map.remove("name").and_then(|n| n.as_str().map(str::to_owned)).ok_or("a case needs a name")?;
    let format = match map.remove("format") {
        None => Format::OpenaiChat,
        Some(name) => name.as_str().and_then(Format::parse).ok_or(UNKNOWN_FORMAT)?,
    };
    request.entry("model").or_insert_with(|| "auto".into());
    let content = match format {
        Format::Gemini => None,
        Format::BedrockConverse => Some(serde_json::json!([{ "text": "hello" }])),
        _ => Some("hello".into()),
    };
    if let Some(content) = content {
        request.entry("messages").or_insert_with(|| serde_json::json!([{ "role": "user", "content": content }]));
    }
    let targets = match map.remove("targets") {
        None => Vec::new(),
        Some(Value::Array(list)) => list.iter().map(target).collect::<Result<_, _>>()?,
        Some(_) => return Err("targets must be an array of tables".into()),
    };
    Ok(Case { name, line, request, format, context, targets, expect })
}

const UNKNOWN_FORMAT: &str =
    "format must be openai_chat, anthropic_messages, gemini, bedrock_converse, cohere or ollama";

fn target(value: &Value) -> Result<Candidate, String> {
    let Value::Object(map) = value else { return Err("a target is a table with a name".into()) };
    const KEYS: [&str; 9] = [
        "name",
        "healthy",
        "latency_ms",
        "in_flight",
        "price_input",
        "price_output",
        "quota_left",
        "quota_resets_in",
        "context_window",
    ];
    known(map, "a target", &KEYS)?;
    let name = map.get("name").and_then(Value::as_str).ok_or("a target needs a name")?;
    let count = |key: &str| map.get(key).and_then(Value::as_u64);
    let price = |key: &str| map.get(key).and_then(Value::as_f64);
    Ok(Candidate {
        healthy: map.get("healthy").and_then(Value::as_bool).unwrap_or(true),
        latency: count("latency_ms").map(Duration::from_millis),
        in_flight: count("in_flight").unwrap_or(0),
        price_input: price("price_input"),
        price_output: price("price_output"),
        quota_left: count("quota_left").unwrap_or(u64::MAX),
        quota_resets_in: count("quota_resets_in").map(Duration::from_secs),
        context_window: count("context_window"),
        ..candidate(name)
    })
}

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

/// The context that a case describes.
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
        headers: pairs("headers")?,
        explain: false,
        attempt: 1,
        seed: map.get("seed").and_then(Value::as_u64).unwrap_or(0),
        vars: Map::new(),
        trace: Trace::default(),
    })
}

fn known(map: &Map<String, Value>, what: &str, keys: &[&str]) -> Result<(), String> {
    match map.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(format!("{what} has no `{key}`; it has {}", keys.join(", "))),
        None => Ok(()),
    }
}

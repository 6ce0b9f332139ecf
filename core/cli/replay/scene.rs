//! From a record to the scene that plays it again: the request as it was said, or one of the same facts; the caller; and
//! upstreams that answer as they did.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value, json};

use crate::{
    account::bodies,
    codec::{Dialect, codec},
    context,
    model::{Event, FinishReason, Format, Operation, Usage, fold::unfold},
    rehearse::{Answer, Answers, Fault, House, Scene, answers::text_part},
    suite,
};

/// `Err`: why this record cannot be replayed.
pub fn of(row: &Value, said: Option<&Value>, house: &House) -> Result<Scene, &'static str> {
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    let code = text("error_code");
    // A record holds no state of limits: who was refused by one made no decision that could change.
    if UNDECIDED.contains(&code) {
        return Err("it was refused before any decision");
    }
    let operation = match text("operation") {
        "chat" => Operation::Chat,
        "embeddings" => Operation::Embeddings,
        "count_tokens" => Operation::CountTokens,
        _ => return Err("its operation is not one that stages decide on"),
    };
    let format = Format::parse(text("format")).ok_or("its format is unknown")?;
    let id = text("id");
    let (team, key) = (row["team"].as_str(), row["key_id"].as_str().unwrap_or_default());
    let mut caller = suite::principal(key.strip_prefix("key_").unwrap_or(key), team, house.config());
    caller.key_id = key.into();
    // Their counters are not in the record.
    caller.rules = Arc::default();
    let stream = row["stream"].as_bool().unwrap_or(false);
    let mut scene = Scene {
        id: id.into(),
        operation,
        format,
        principal: Arc::new(caller),
        now: began(id).unwrap_or(SystemTime::UNIX_EPOCH),
        seed: context::seed_of(id),
        tags: tags(row),
        answers: answers(row, said),
        ..Scene::default()
    };
    let model = text("model");
    if format.model_in_path() {
        scene.model = Some(model.to_owned());
        scene.stream = Some(stream);
    }
    scene.body = match said.and_then(|said| bodies::bytes(&said["request"])) {
        Some(body) => body,
        None => standing(format, operation, model, stream, row).to_string().into(),
    };
    Ok(scene)
}

/// Providers that had no key then: their targets were passed over for that. What has one today is not asked, so that a replay
/// says the same on every machine.
pub fn without(row: &Value) -> BTreeSet<String> {
    let steps = row["trace"].as_array().into_iter().flatten();
    let passed = steps.filter(|step| step["step"] == "passed_over" && step["code"] == "not_configured");
    passed.filter_map(|step| Some(step["target"].as_str()?.split_once('/')?.0.to_owned())).collect()
}

/// A request of the same facts as this record's, for one whose words were not kept. `None`: there is none to be made.
pub fn like(row: &Value) -> Option<Value> {
    let operation = (row["operation"] == "chat").then_some(Operation::Chat)?;
    let format = Format::parse(row["format"].as_str()?)?;
    Some(standing(format, operation, row["model"].as_str()?, row["stream"] == true, row))
}

/// The recorded request, as JSON.
pub fn body(said: Option<&Value>) -> Option<Value> {
    serde_json::from_slice(&bodies::bytes(&said?["request"])?).ok()
}

/// When a request began: its id says it.
pub fn began(id: &str) -> Option<SystemTime> {
    let millis = u64::from_str_radix(id.strip_prefix("req_")?.get(..12)?, 16).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
}

/// What stages added is not the caller's.
fn tags(row: &Value) -> Vec<(String, String)> {
    let tags = row["tags"].as_object().into_iter().flatten();
    let own = tags.filter(|(key, _)| *key != "quality_unmet");
    own.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// A request of the same facts: model, stream, size.
fn standing(format: Format, operation: Operation, model: &str, stream: bool, row: &Value) -> Value {
    let tokens = row["usage"]["input_tokens"].as_u64().unwrap_or(8);
    // About four bytes a token, as estimates have it.
    let text = "word ".repeat(usize::try_from(tokens.saturating_mul(4) / 5).unwrap_or(0).clamp(1, MOST_TEXT / 5));
    let mut body = Map::new();
    if !format.model_in_path() {
        body.insert("model".into(), model.into());
        if operation == Operation::Chat {
            body.insert("stream".into(), stream.into());
        }
    }
    let (key, value) = match (operation, format) {
        (Operation::Embeddings, Format::Gemini) => ("content", json!({ "parts": [{ "text": text }] })),
        (Operation::Embeddings, Format::Cohere) => ("texts", json!([text])),
        (Operation::Embeddings, _) => ("input", text.into()),
        (_, Format::Gemini) => ("contents", json!([{ "role": "user", "parts": [{ "text": text }] }])),
        (_, Format::OpenaiResponses) => ("input", text.into()),
        (_, Format::BedrockConverse) => ("messages", json!([{ "role": "user", "content": [{ "text": text }] }])),
        _ => ("messages", json!([{ "role": "user", "content": text }])),
    };
    body.insert(key.into(), value);
    if format == Format::AnthropicMessages && operation == Operation::Chat {
        body.insert("max_tokens".into(), 1024.into());
    }
    Value::Object(body)
}

/// Each target as it did; who was not asked then says what was said then.
fn answers(row: &Value, said: Option<&Value>) -> Answers {
    let events = said.and_then(|said| heard(&said["answer"])).filter(|events| !events.is_empty());
    let answer = |usage: &Value, took: u64| {
        let tokens = usage["output_tokens"].as_u64().unwrap_or(1);
        let filler =
            || "word ".repeat(usize::try_from(tokens.saturating_mul(4) / 5).unwrap_or(0).clamp(1, MOST_ANSWER / 5));
        Answer {
            latency: Duration::from_millis(took),
            events: events.clone().unwrap_or_else(|| text_part(0, filler().trim_end())),
            usage: used(usage),
            finish: row["finish_reason"].as_str().and_then(finish),
            ..Answer::default()
        }
    };
    let mut by_target: BTreeMap<String, Vec<Answer>> = BTreeMap::new();
    for attempt in row["ledger"].as_array().into_iter().flatten() {
        let (target, outcome) = (attempt["target"].as_str(), attempt["outcome"].as_str().unwrap_or_default());
        let took = attempt["took_ms"].as_f64().unwrap_or(0.0).max(0.0) as u64;
        let Some(target) = target else { continue };
        let mut told = answer(&attempt["usage"], took);
        told.fault = fault(outcome, row["status"].as_u64().unwrap_or(0));
        if told.fault.is_some() {
            told.events = Vec::new();
        }
        by_target.entry(target.to_owned()).or_default().push(told);
    }
    let took = row["upstream_ms"].as_f64().unwrap_or(0.0).max(0.0) as u64;
    Answers { by_target, others: Some(answer(&row["usage"], took)), ..Answers::default() }
}

/// How an attempt ended, by its code in the ledger.
fn fault(outcome: &str, status: u64) -> Option<Fault> {
    let refusal = |status: u16| Some(Fault::Status { status, message: None, retry_after: None });
    match outcome {
        "upstream_timeout" => Some(Fault::Silent),
        "connection_refused" | "connect_timeout" => Some(Fault::Refused),
        "upstream_overloaded" => refusal(503),
        "upstream_rate_limited" | "insufficient_quota" => refusal(429),
        "upstream_auth_error" => refusal(401),
        "upstream_refused" => refusal(u16::try_from(status).ok().filter(|s| (400..500).contains(s)).unwrap_or(400)),
        "upstream_failed" => refusal(502),
        _ => None,
    }
}

fn used(usage: &Value) -> Option<Usage> {
    let count = |key: &str| usage[key].as_u64();
    usage.is_object().then(|| Usage {
        input_tokens: count("input_tokens"),
        output_tokens: count("output_tokens"),
        cache_read_tokens: count("cache_read_tokens"),
        cache_write_tokens: count("cache_write_tokens"),
        cache_write_1h_tokens: count("cache_write_1h_tokens"),
        reasoning_tokens: count("reasoning_tokens"),
        ..Usage::default()
    })
}

fn finish(word: &str) -> Option<FinishReason> {
    [FinishReason::Stop, FinishReason::Length, FinishReason::ToolCalls, FinishReason::ContentFilter]
        .into_iter()
        .find(|reason| reason.name() == word)
}

/// What an upstream said, as events of parts.
fn heard(answer: &Value) -> Option<Vec<Event>> {
    let format = Format::parse(answer["format"].as_str()?)?;
    let body = bodies::bytes(&answer["body"])?;
    let mut events = Vec::new();
    if answer["stream"] == true {
        let mut decoder = codec(format).stream_decoder(&Dialect::of(""), MOST_EVENT);
        // One that was cut is heard as far as it goes.
        let _ = decoder.push(&body, &mut events).and_then(|()| decoder.finish(&mut events));
    } else {
        events = unfold(&codec(format).decode_response(&body).ok()?);
    }
    events.retain(|event| {
        matches!(
            event,
            Event::PartStart { choice: 0, .. } | Event::Delta { choice: 0, .. } | Event::PartEnd { choice: 0, .. }
        )
    });
    Some(events)
}

/// Codes of what never reached a stage or a target.
const UNDECIDED: [&str; 15] = [
    "invalid_api_key",
    "key_revoked",
    "key_expired",
    "not_found",
    "method_not_allowed",
    "request_timeout",
    "request_too_large",
    "unsupported_media_type",
    "invalid_request",
    "rate_limited",
    "budget_exceeded",
    "overloaded",
    "file_not_found",
    "batch_not_found",
    "response_not_found",
];
const MOST_TEXT: usize = 1 << 20;
const MOST_ANSWER: usize = 64 << 10;
const MOST_EVENT: usize = 16 << 20;

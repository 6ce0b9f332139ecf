//! What the gateway knows, as the records that cross into a guest. Copies what the guest asked for and nothing else.

use std::time::Duration;

use http::HeaderMap;
use serde_json::Value;

use super::{bind::types, texts};
use crate::{
    account::Record,
    codec::document::Document,
    context::Context,
    error::{Error, Side},
    model::{
        Delta, Event, Finish, FinishReason, MediaKind, MediaSource, Message, Part, PartStart, Request, Response, Role,
        Tool, Usage,
    },
    pipeline::{Candidate, effects::is_private},
};

/// What a guest reads (`describe`): all else stays outside.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Needs {
    pub headers: bool,
    pub last_user_text: bool,
    pub parameters: bool,
    pub metadata: bool,
    pub messages: bool,
    pub tools: bool,
    pub texts: bool,
    pub answer: bool,
    pub answer_texts: bool,
}

impl Needs {
    /// As the contract calls them.
    pub fn names(self) -> Vec<&'static str> {
        let Needs { headers, last_user_text, parameters, metadata, messages, tools, texts, answer, answer_texts } =
            self;
        let all = [
            (headers, "headers"),
            (last_user_text, "last-user-text"),
            (parameters, "parameters"),
            (metadata, "metadata"),
            (messages, "messages"),
            (tools, "tools"),
            (texts, "texts"),
            (answer, "answer"),
            (answer_texts, "answer-texts"),
        ];
        all.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| name).collect()
    }
}

/// `headers`: those that go to the target, in the phase `attempt`. The error is the caller's: its body cannot be read.
pub fn request(
    needs: Needs,
    cx: &Context,
    doc: &mut Document,
    headers: Option<&HeaderMap>,
) -> Result<types::Request, Error> {
    let mut out = types::Request {
        model: doc.model().to_owned(),
        operation: cx.operation.name().to_owned(),
        format: doc.format().name().to_owned(),
        streamed: doc.stream(),
        input_tokens: doc.text_bytes().div_ceil(4),
        has_tools: doc.has_tools(),
        has_media: doc.has_media(),
        headers: Vec::new(),
        last_user_text: String::new(),
        temperature: None,
        top_p: None,
        max_tokens: None,
        metadata: Vec::new(),
        messages: Vec::new(),
        tools: Vec::new(),
        texts: Vec::new(),
        unread: Vec::new(),
    };
    if needs.headers {
        out.headers = match headers {
            Some(headers) => visible(headers),
            None => cx.headers.clone(),
        };
    }
    if needs.last_user_text {
        out.last_user_text = doc.last_user_text()?.into_owned();
    }
    if needs.parameters || needs.metadata || needs.messages || needs.tools {
        body(needs, doc.request()?, &mut out);
    }
    if needs.texts {
        (out.texts, out.unread) = texts::of_request(doc, cx.operation)?;
    }
    Ok(out)
}

fn body(needs: Needs, request: &Request, out: &mut types::Request) {
    if needs.parameters {
        out.temperature = request.sampling.temperature;
        out.top_p = request.sampling.top_p;
        out.max_tokens = request.max_tokens;
    }
    if needs.metadata {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        out.metadata = request.metadata.iter().map(|(key, value)| (key.clone(), text(value))).collect();
    }
    if needs.messages {
        let mut next = 0;
        out.messages = request.messages.iter().enumerate().map(|(at, m)| message(at, m, &mut next)).collect();
    }
    if needs.tools {
        out.tools = request.tools.iter().map(tool).collect();
    }
}

fn visible(headers: &HeaderMap) -> Vec<(String, String)> {
    let shown = headers.iter().filter(|(name, _)| !is_private(name.as_str()));
    shown.filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))).collect()
}

fn message(at: usize, message: &Message, next: &mut u32) -> types::Message {
    let Message { role: who, parts: pieces, name, extra: _ } = message;
    types::Message { origin: Some(at as u32), role: role(*who), name: name.clone(), parts: parts(pieces, next) }
}

/// Parts count through all turns, or all choices.
fn parts(list: &[Part], next: &mut u32) -> Vec<types::Part> {
    let number = |part| {
        let origin = *next;
        *next += 1;
        types::Part { origin: Some(origin), ..self::part(part) }
    };
    list.iter().map(number).collect()
}

/// A piece without its number.
pub fn part(part: &Part) -> types::Part {
    let mut out = types::Part {
        origin: None,
        kind: kind(part),
        text: text(part),
        call_id: None,
        name: None,
        arguments: None,
        mime: None,
    };
    match part {
        Part::ToolCall(call) => {
            out.call_id = Some(call.id.clone());
            out.name = Some(call.name.clone());
            out.arguments = Some(call.arguments.clone());
        }
        Part::ToolResult(result) => {
            out.call_id = Some(result.call_id.clone());
            out.name = result.name.clone();
        }
        Part::Media(media) => {
            out.name = media.name.clone();
            out.mime = media.mime.clone();
        }
        Part::Text(_) | Part::Refusal(_) | Part::Reasoning(_) | Part::Native { .. } => {}
    }
    out
}

/// The text that a guest may set.
pub fn text(part: &Part) -> Option<String> {
    match part {
        Part::Text(text) => Some(text.text.clone()),
        Part::Refusal(text) => Some(text.clone()),
        Part::Reasoning(reasoning) => Some(reasoning.text.clone()),
        Part::ToolResult(result) => Some(result.parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")),
        Part::Media(media) => match &media.source {
            MediaSource::Text(text) => Some(text.clone()),
            _ => None,
        },
        Part::ToolCall(_) | Part::Native { .. } => None,
    }
}

pub fn kind(part: &Part) -> types::PartKind {
    match part {
        Part::Text(_) => types::PartKind::Text,
        Part::Refusal(_) => types::PartKind::Refusal,
        Part::Reasoning(_) => types::PartKind::Reasoning,
        Part::Media(media) => match media.kind {
            MediaKind::Image => types::PartKind::Image,
            MediaKind::Document => types::PartKind::Document,
            MediaKind::Audio => types::PartKind::Audio,
            MediaKind::Video => types::PartKind::Video,
        },
        Part::ToolCall(_) => types::PartKind::ToolCall,
        Part::ToolResult(_) => types::PartKind::ToolResult,
        Part::Native { kind, .. } => types::PartKind::Other(kind.clone()),
    }
}

fn tool(tool: &Tool) -> types::Tool {
    match tool {
        Tool::Function(function) => types::Tool {
            name: function.name.clone(),
            description: function.description.clone(),
            parameters: function.parameters.as_ref().map(Value::to_string),
        },
        Tool::Hosted { kind, .. } => types::Tool { name: kind.clone(), description: None, parameters: None },
    }
}

pub fn role(role: Role) -> types::Role {
    match role {
        Role::System => types::Role::System,
        Role::Developer => types::Role::Developer,
        Role::User => types::Role::User,
        Role::Assistant => types::Role::Assistant,
        Role::Tool => types::Role::Tool,
    }
}

pub fn target(target: &Candidate) -> types::Target {
    let Candidate {
        name,
        provider,
        model,
        healthy,
        latency,
        in_flight,
        price_input,
        price_output,
        quota_left,
        quota_resets_in,
        context_window,
        capabilities,
        // Records of version 1 have no place for them.
        speed: _,
        region: _,
    } = target;
    types::Target {
        name: name.to_string(),
        provider: provider.to_string(),
        model: model.to_string(),
        healthy: *healthy,
        latency_ms: latency.map(millis),
        in_flight: *in_flight,
        price_input: *price_input,
        price_output: *price_output,
        quota_left: *quota_left,
        quota_resets_in: quota_resets_in.map(|d| d.as_secs()),
        context_window: *context_window,
        capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
    }
}

pub fn answer(needs: Needs, cx: &Context, target: &Candidate, response: &Response) -> types::Answer {
    let mut next = 0;
    let choice = |choice: &crate::model::Choice| types::Choice {
        index: choice.index,
        finish_reason: choice.finish.as_ref().map(finish),
        parts: if needs.answer { parts(&choice.parts, &mut next) } else { Vec::new() },
    };
    let choices = if needs.answer { response.choices.iter().map(choice).collect() } else { Vec::new() };
    let (texts, unread) = if needs.answer_texts { texts::of_response(response) } else { Default::default() };
    types::Answer {
        model: response.model.clone(),
        target: target.name.to_string(),
        usage: usage(response.usage.as_ref()),
        latency_ms: millis(crate::clock::since(cx.started)),
        choices,
        texts,
        unread,
    }
}

/// `kind`: as the stage's own count of parts has it. `attempt`: this event begins one.
pub fn event(event: &Event, kind: &'static str, attempt: Option<u32>) -> types::Event {
    let mut out = types::Event {
        kind: event_kind(kind),
        choice: None,
        part: None,
        text: None,
        call_id: None,
        name: None,
        finish_reason: None,
        usage: None,
        attempt,
    };
    match event {
        Event::PartStart { choice, index, part } => {
            (out.choice, out.part) = (Some(*choice), Some(*index));
            match part {
                PartStart::ToolCall { id, name, .. } => {
                    (out.call_id, out.name) = (Some(id.clone()), Some(name.clone()));
                }
                PartStart::Whole(part) => out.text = text(part),
                PartStart::Text { .. } | PartStart::Refusal | PartStart::Reasoning { .. } => {}
            }
        }
        Event::Delta { choice, index, delta } => {
            (out.choice, out.part) = (Some(*choice), Some(*index));
            if let Delta::Text(text) = delta {
                out.text = Some(text.clone());
            }
        }
        Event::PartEnd { choice, index } => (out.choice, out.part) = (Some(*choice), Some(*index)),
        Event::ChoiceExtra { choice, .. } => out.choice = Some(*choice),
        Event::Finish { choice, finish: reason } => {
            out.choice = Some(*choice);
            out.finish_reason = Some(finish(reason));
        }
        Event::Usage(counts) => out.usage = Some(usage(Some(counts))),
        Event::Start(_) | Event::Extra(_) | Event::Ping | Event::End => {}
    }
    out
}

fn event_kind(kind: &'static str) -> types::EventKind {
    match kind {
        "start" => types::EventKind::Start,
        "part_start" => types::EventKind::PartStart,
        "text" => types::EventKind::Text,
        "reasoning" => types::EventKind::Reasoning,
        "refusal" => types::EventKind::Refusal,
        "tool_call" => types::EventKind::ToolCall,
        "tool_arguments" => types::EventKind::ToolArguments,
        "part" => types::EventKind::Part,
        "part_end" => types::EventKind::PartEnd,
        "signature" => types::EventKind::Signature,
        "citation" => types::EventKind::Citation,
        "finish" => types::EventKind::Finish,
        "usage" => types::EventKind::Usage,
        "extra" => types::EventKind::Extra,
        "ping" => types::EventKind::Ping,
        "end" => types::EventKind::End,
        other => types::EventKind::Other(other.to_owned()),
    }
}

fn finish(finish: &Finish) -> types::FinishReason {
    match finish.reason {
        FinishReason::Stop => types::FinishReason::Stop,
        FinishReason::Length => types::FinishReason::Length,
        FinishReason::ToolCalls => types::FinishReason::ToolCalls,
        FinishReason::ContentFilter => types::FinishReason::ContentFilter,
        FinishReason::Malformed => types::FinishReason::Malformed,
        FinishReason::Other => types::FinishReason::Other(finish.raw.clone()),
    }
}

fn usage(usage: Option<&Usage>) -> types::Usage {
    let count = |f: fn(&Usage) -> Option<u64>| usage.and_then(f);
    types::Usage {
        input_tokens: count(|u| u.input_tokens),
        output_tokens: count(|u| u.output_tokens),
        cache_read_tokens: count(|u| u.cache_read_tokens),
        cache_write_tokens: count(|u| u.cache_write_tokens),
        reasoning_tokens: count(|u| u.reasoning_tokens),
    }
}

pub fn failure(error: &Error) -> types::Failure {
    let side = match error.side() {
        Side::Client => "client",
        Side::Gateway => "gateway",
        Side::Upstream => "upstream",
    };
    types::Failure {
        status: error.status(),
        code: error.code().to_owned(),
        message: error.message.clone(),
        side: side.to_owned(),
        retryable: error.retryable(),
    }
}

pub fn summary(record: &Record) -> types::Summary {
    let finish = record.finish_reason.map(|name| match name {
        "stop" => types::FinishReason::Stop,
        "length" => types::FinishReason::Length,
        "tool_calls" => types::FinishReason::ToolCalls,
        "content_filter" => types::FinishReason::ContentFilter,
        "malformed" => types::FinishReason::Malformed,
        other => types::FinishReason::Other(other.to_owned()),
    });
    types::Summary {
        id: record.id.to_string(),
        key: record.key_id.to_string(),
        team: record.team.as_deref().map(str::to_owned),
        operation: record.operation.name().to_owned(),
        format: record.format.name().to_owned(),
        model: record.model.clone(),
        target: record.target.as_deref().map(str::to_owned),
        attempts: record.attempts,
        status: record.status,
        error_code: record.error_code.clone(),
        streamed: record.stream,
        finish_reason: finish,
        usage: usage(record.usage.as_ref()),
        cost_usd: record.cost_nano_usd.map(|nano| nano as f64 / 1e9),
        duration_ms: millis(record.duration),
        first_event_ms: record.first_event.map(millis),
        upstream_ms: millis(record.upstream_duration),
        tags: record.tags.clone(),
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

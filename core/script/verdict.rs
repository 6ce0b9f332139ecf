//! The verdicts as script functions. A verdict does nothing by itself: the hook returns it.

use rhai::{Dynamic, Map, NativeCallContext};

use super::{
    convert,
    desk::{Fail, fail},
    engine::mark,
    reference::Registrar,
};
use crate::{
    model::{Choice, Finish, FinishReason, Part, Reasoning, Response, Role, ToolCall, ToolKind, Usage},
    pipeline::Phase,
};

#[derive(Debug, Clone)]
pub enum Verdict {
    Reject { status: u16, message: String },
    Respond(Box<Response>),
    Next(String),
    Skip,
    Stop(String),
}

impl Verdict {
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Reject { .. } => "reject",
            Verdict::Respond(_) => "respond",
            Verdict::Next(_) => "next",
            Verdict::Skip => "skip",
            Verdict::Stop(_) => "stop",
        }
    }
}

/// The script functions that make verdicts.
pub const NAMES: [&str; 5] = ["reject", "respond", "next", "skip", "stop"];

/// May this verdict be given in this phase?
pub fn legal(name: &str, phase: Phase) -> bool {
    phase.row().verdicts.contains(&name)
}

pub fn register(r: &mut Registrar<'_>) {
    r.object("Verdicts", "Return one from a hook: `return reject(403, \"not here\");`. Returning nothing continues.");
    r.tell("reject(status, text)", "refuses; the status is 400 to 599");
    // Each marks its place: the trace tells the line of a verdict.
    r.engine.register_fn("reject", |at: NativeCallContext, status: i64, text: &str| -> Result<Verdict, Fail> {
        mark(at.call_position());
        match u16::try_from(status) {
            Ok(status @ 400..=599) => Ok(Verdict::Reject { status, message: text.to_owned() }),
            _ => Err(fail(format!("reject({status}, …): the status must be 400 to 599"))),
        }
    });
    r.tell(
        "respond(text | map)",
        "answers in place of a model; a map may hold text, reasoning, tool_calls, finish_reason, model, usage",
    );
    r.engine.register_fn("respond", |at: NativeCallContext, text: &str| {
        mark(at.call_position());
        Verdict::Respond(Box::new(answer(text)))
    });
    r.engine.register_fn("respond", |at: NativeCallContext, map: Map| -> Result<Verdict, Fail> {
        mark(at.call_position());
        response(&map).map(|r| Verdict::Respond(Box::new(r))).map_err(fail)
    });
    r.tell("next(reason)", "from fn response: this answer will not do, try the next target");
    r.engine.register_fn("next", |at: NativeCallContext, reason: &str| {
        mark(at.call_position());
        Verdict::Next(reason.to_owned())
    });
    r.tell("skip()", "from fn attempt: pass over this target");
    r.engine.register_fn("skip", |at: NativeCallContext| {
        mark(at.call_position());
        Verdict::Skip
    });
    r.tell("stop(reason)", "from fn event: ends the answer cleanly with finish reason content_filter");
    r.engine.register_fn("stop", |at: NativeCallContext, reason: &str| {
        mark(at.call_position());
        Verdict::Stop(reason.to_owned())
    });
}

fn answer(text: &str) -> Response {
    let choice = Choice {
        index: 0,
        parts: vec![Part::text(text)],
        finish: Some(Finish::new(FinishReason::Stop, "stop")),
        ..Choice::default()
    };
    Response { choices: vec![choice], ..Response::default() }
}

fn response(map: &Map) -> Result<Response, String> {
    let mut out = answer("");
    let mut parts = Vec::new();
    let mut finish = None;
    for (key, value) in map {
        match key.as_str() {
            "text" => parts.push((1, Part::text(string("text", value)?))),
            "reasoning" => {
                let text = string("reasoning", value)?;
                parts.push((0, Part::Reasoning(Reasoning { text, ..Reasoning::default() })));
            }
            "tool_calls" => {
                let list = value.as_array_ref().map_err(|_| "tool_calls must be an array of maps")?;
                for call in list.iter() {
                    parts.push((2, tool_call(call)?));
                }
            }
            "finish_reason" => finish = Some(finish_reason(&string("finish_reason", value)?)?),
            "model" => out.model = string("model", value)?,
            "usage" => out.usage = Some(usage(value)?),
            _ => return Err("respond(#{ … }) knows text, reasoning, tool_calls, finish_reason, model and usage".into()),
        }
    }
    // Reasoning first, calls last, as models write them.
    parts.sort_by_key(|(order, _)| *order);
    let calls = parts.iter().any(|(_, p)| matches!(p, Part::ToolCall(_)));
    let finish = finish.unwrap_or(if calls { FinishReason::ToolCalls } else { FinishReason::Stop });
    out.choices[0].parts = parts.into_iter().map(|(_, p)| p).collect();
    out.choices[0].finish = Some(Finish::new(finish, finish.name()));
    Ok(out)
}

/// A tool call as a script writes it: `#{ name: "f", arguments: #{…} | "json", id: "…" }`.
pub fn tool_call(value: &Dynamic) -> Result<Part, String> {
    let map = value.as_map_ref().map_err(|_| "a tool call must be a map with name and arguments")?;
    let name = map.get("name").and_then(convert::text).ok_or("a tool call needs a name")?;
    let arguments = match map.get("arguments") {
        None => String::new(),
        Some(value) => match convert::text(value) {
            Some(text) => text,
            None => convert::to_json(value).map_err(|e| format!("arguments cannot hold {e}"))?.to_string(),
        },
    };
    let id = map.get("id").and_then(convert::text).unwrap_or_default();
    Ok(Part::ToolCall(ToolCall {
        id,
        name,
        kind: ToolKind::Function,
        arguments,
        signature: None,
        cache: None,
        extra: crate::model::Extra::default(),
    }))
}

fn usage(value: &Dynamic) -> Result<Usage, String> {
    let map = value.as_map_ref().map_err(|_| "usage must be a map")?;
    let count = |key: &str| map.get(key).and_then(|v| v.as_int().ok()).and_then(|n| u64::try_from(n).ok());
    Ok(Usage { input_tokens: count("input_tokens"), output_tokens: count("output_tokens"), ..Usage::default() })
}

fn string(key: &str, value: &Dynamic) -> Result<String, String> {
    convert::text(value).ok_or_else(|| format!("{key} must be a string, not {}", value.type_name()))
}

pub fn finish_reason(name: &str) -> Result<FinishReason, String> {
    Ok(match name {
        "stop" => FinishReason::Stop,
        "length" => FinishReason::Length,
        "tool_calls" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        _ => return Err("unknown finish reason: stop, length, tool_calls or content_filter".into()),
    })
}

pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::Developer => "developer",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

pub fn role(name: &str) -> Result<Role, String> {
    Ok(match name {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        _ => return Err("unknown role: system, developer, user, assistant or tool".into()),
    })
}

//! A Gemini request body as the canonical request. Model and streaming come from the path. Adjacent plain text parts of a
//! model turn, and adjacent model turns, are one: SDKs replay a stream's chunks as parts of the history, and a chunk's
//! border means nothing. User turns keep their borders.

use std::collections::VecDeque;

use serde_json::{Map, Value};

use super::{config, parts, tools};
use crate::{
    codec::{
        Inbound,
        gemini::wire::{GEMINI, bare_model, list, make_id, spelling, string_any},
        json::{Fields, missing, parse, wrong_type},
    },
    error::{Error, Result},
    model::{Extra, Message, Part, Request, Role},
};

pub fn request(body: &[u8], inbound: Inbound<'_>) -> Result<Request> {
    let mut fields = Fields::new(parse(body)?, "")?;
    if inbound.counting {
        let key = spelling(&fields, &["generateContentRequest", "generate_content_request"]);
        if let Some(inner) = fields.object(key)? {
            fields = inner;
        }
    }
    let named = fields.string("model")?;
    let model = match (inbound.model, named) {
        (Some(path), _) => bare_model(path).to_owned(),
        (None, Some(name)) => bare_model(&name).to_owned(),
        (None, None) => return Err(missing("model")),
    };
    let mut out = Request { model, stream: inbound.stream.unwrap_or(false), ..Request::default() };
    let mut extra = Map::new();

    prompt(&mut fields, &mut out.messages)?;
    out.tools = tools::decode(&mut fields)?;
    out.tool_choice = tools::decode_choice(&mut fields, &mut extra)?;
    config::decode(&mut fields, &mut out, &mut extra)?;
    out.service_tier = string_any(&mut fields, &["serviceTier", "service_tier"])?;

    for (key, value) in fields.rest_map() {
        extra.insert(key, value);
    }
    out.extra = Extra::new(GEMINI, extra);
    Ok(out)
}

/// Cached prompt, system instruction and contents, in the order in which the model reads them.
fn prompt(fields: &mut Fields, messages: &mut Vec<Message>) -> Result<()> {
    if let Some(name) = string_any(fields, &["cachedContent", "cached_content"])? {
        // A part of the prompt that lives at the provider: a format that cannot name it must refuse.
        let part = Part::Native { format: GEMINI, kind: "cachedContent".to_owned(), value: Value::String(name) };
        messages.push(Message::new(Role::System, vec![part]));
    }
    let key = spelling(fields, &["systemInstruction", "system_instruction"]);
    let path = fields.path(key);
    match fields.take(key) {
        None => {}
        Some(Value::String(text)) => messages.push(Message::text(Role::System, text)),
        Some(value) => {
            let mut content = Fields::new(value, path)?;
            let role = content.string("role")?;
            let parts = parts::decode_list(&mut content)?;
            let mut message = Message::new(Role::System, parts);
            message.extra = content.rest(GEMINI);
            if let Some(role) = role {
                message.extra.insert(GEMINI, "role", Value::String(role));
            }
            messages.push(message);
        }
    }
    if fields.peek("contents").is_none() {
        return Err(missing(&fields.path("contents")));
    }
    let base = fields.path("contents");
    let contents = match fields.peek("contents") {
        Some(Value::String(_)) => {
            // The SDKs allow a bare string; so does the wire of some proxies.
            let text = fields.string("contents")?.unwrap_or_default();
            messages.push(Message::text(Role::User, text));
            return Ok(());
        }
        _ => list(fields, &["contents"])?,
    };
    if contents.is_empty() {
        return Err(Error::invalid(&base, format!("`{base}` is empty: send at least one turn")));
    }
    let mut calls = Calls::default();
    for (i, content) in contents.into_iter().enumerate() {
        turn(content, format!("{base}[{i}]"), &mut calls, messages)?;
    }
    Ok(())
}

fn turn(content: Value, path: String, calls: &mut Calls, messages: &mut Vec<Message>) -> Result<()> {
    if let Value::String(text) = content {
        messages.push(Message::text(Role::User, text));
        return Ok(());
    }
    let mut content = Fields::new(content, path)?;
    let role = content.string("role")?;
    let role_path = content.path("role");
    let mut parts = parts::decode_list(&mut content)?;
    calls.pair(&mut parts);
    let extra = content.rest(GEMINI);
    match role.as_deref() {
        Some("model") => {
            match messages.last_mut() {
                Some(last) if last.role == Role::Assistant && extra.is_empty() => {
                    parts.into_iter().for_each(|p| parts::join(&mut last.parts, p));
                }
                _ => {
                    let mut joined = Vec::with_capacity(parts.len());
                    parts.into_iter().for_each(|p| parts::join(&mut joined, p));
                    messages.push(Message { extra, ..Message::new(Role::Assistant, joined) });
                }
            }
            Ok(())
        }
        None | Some("user" | "function" | "") => {
            user_turn(parts, extra, messages);
            Ok(())
        }
        Some(other) => Err(wrong_role(&role_path, other)),
    }
}

/// Results first, as a turn of their own: other formats want them right behind their calls.
fn user_turn(parts: Vec<Part>, extra: Extra, messages: &mut Vec<Message>) {
    let (results, rest): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(|p| matches!(p, Part::ToolResult(_)));
    let only_results = rest.is_empty();
    if !results.is_empty() {
        messages.push(Message::new(Role::Tool, results));
    }
    if !rest.is_empty() {
        messages.push(Message { extra, ..Message::new(Role::User, rest) });
    } else if only_results
        && !extra.is_empty()
        && let Some(last) = messages.last_mut()
    {
        last.extra = extra;
    }
}

fn wrong_role(path: &str, role: &str) -> Error {
    let hint = match role {
        "assistant" => "; the model's turns have the role \"model\"",
        "system" => "; put system text into `systemInstruction`",
        _ => "",
    };
    Error::invalid(path, format!("`{path}` must be \"user\" or \"model\"{hint}"))
}

/// Calls and results find each other by id, else by name and order.
#[derive(Default)]
struct Calls {
    /// How many calls came before.
    count: usize,
    /// Calls that wait for their result: name and id.
    waiting: VecDeque<(String, String)>,
}

impl Calls {
    fn pair(&mut self, parts: &mut [Part]) {
        for part in parts {
            match part {
                Part::ToolCall(call) => {
                    if call.id.is_empty() {
                        call.id = make_id("", self.count, &call.name);
                    }
                    self.count += 1;
                    self.waiting.push_back((call.name.clone(), call.id.clone()));
                }
                Part::ToolResult(result) => {
                    let name = result.name.clone().unwrap_or_default();
                    let found = if result.call_id.is_empty() {
                        self.waiting.iter().position(|(n, _)| *n == name)
                    } else {
                        self.waiting.iter().position(|(_, id)| *id == result.call_id)
                    };
                    if let Some((_, id)) = found.and_then(|at| self.waiting.remove(at)) {
                        result.call_id = id;
                    } else if result.call_id.is_empty() {
                        // An answer to a call that the history no longer holds.
                        result.call_id = make_id("result", self.count, &name);
                    }
                }
                _ => {}
            }
        }
    }
}

/// For errors that must show what stood in place of a list of parts.
pub fn not_a_part(path: &str, got: &Value) -> Error {
    wrong_type(path, "an object with one of text, inlineData, fileData, functionCall, functionResponse", got)
}

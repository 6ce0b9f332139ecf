//! The canonical request as a Gemini body. Foreign reasoning and knobs that this wire lacks are dropped with a note;
//! foreign hosted tools, files and unreachable media are refused by name.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{
    config,
    parts::{INNER, result_text},
    tools,
};
use crate::{
    codec::{
        Dialect, Encoded, foreign,
        gemini::wire::{GEMINI, MADE_ID, SKIP_SIGNATURE, args_object, fill, generation, is_gemini_3},
        signature::split_id,
    },
    error::{Error, Result},
    model::{
        Media, MediaSource, Message, Part, Reasoning, Request, Role, Signature, Text, Tool, ToolCall, ToolKind,
        ToolResult,
    },
};

pub fn request(request: &Request, dialect: &Dialect) -> Result<Encoded> {
    let Request {
        model: _,
        stream: _,
        messages,
        tools: tool_list,
        tool_choice,
        parallel_tool_calls,
        output: _,
        sampling: _,
        max_tokens: _,
        n: _,
        logprobs: _,
        reasoning: _,
        user,
        metadata,
        service_tier,
        verbosity,
        include_usage: _,
        extra,
    } = request;
    let mut writer = Writer { dialect, dropped: Vec::new(), names: HashMap::new() };
    let mut body = Map::new();
    let lead = messages.iter().take_while(|m| matches!(m.role, Role::System | Role::Developer)).count();
    writer.system(&messages[..lead], &mut body)?;
    let contents = writer.contents(messages, lead)?;
    body.insert("contents".to_owned(), Value::Array(contents));
    let mut dropped = writer.dropped;

    if let Some(tools) = tools::encode(tool_list, dialect, &mut dropped)? {
        body.insert("tools".to_owned(), tools);
    }
    let has_functions = tool_list.iter().any(|t| matches!(t, Tool::Function(_)));
    if let Some(config) = tools::encode_choice(tool_choice.as_ref(), has_functions, extra) {
        body.insert("toolConfig".to_owned(), config);
    }
    let mut config = config::encode(request, dialect, &mut dropped)?;
    foreign::refuse(extra, GEMINI, &["audio", "image"])?;
    for (what, kinds) in [("audio", json!(["AUDIO"])), ("image", json!(["TEXT", "IMAGE"]))] {
        if foreign::wants(extra, GEMINI, what) {
            config.insert("responseModalities".to_owned(), kinds);
        }
    }
    if !config.is_empty() {
        body.insert("generationConfig".to_owned(), Value::Object(config));
    }
    match service_tier.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("auto") => {}
        Some("flex" | "standard" | "priority") => {
            body.insert("serviceTier".to_owned(), json!(service_tier));
        }
        Some("default") => {
            body.insert("serviceTier".to_owned(), json!("standard"));
        }
        Some(_) => note(&mut dropped, "service_tier"),
    }
    if *parallel_tool_calls == Some(false) && has_functions {
        note(&mut dropped, "parallel_tool_calls");
    }
    for (present, name) in
        [(user.is_some(), "user"), (!metadata.is_empty(), "metadata"), (verbosity.is_some(), "verbosity")]
    {
        if present {
            note(&mut dropped, name);
        }
    }
    for (key, value) in extra.of(GEMINI).into_iter().flatten() {
        if !matches!(key.as_str(), "generationConfig" | "toolConfig") && !body.contains_key(key) {
            body.insert(key.clone(), value.clone());
        }
    }
    foreign::note(extra, GEMINI, &mut dropped);
    Ok(Encoded { body, dropped })
}

pub fn note(dropped: &mut Vec<&'static str>, name: &'static str) {
    if !dropped.contains(&name) {
        dropped.push(name);
    }
}

pub struct Writer<'a> {
    pub dialect: &'a Dialect,
    dropped: Vec<&'static str>,
    /// Names of the calls so far, by id.
    names: HashMap<String, String>,
}

/// A content being written. Results are kept apart: they go first, in the order of their calls.
struct Turn {
    role: &'static str,
    results: Vec<(String, Value)>,
    parts: Vec<Value>,
    /// Ids of the calls in a model turn.
    calls: Vec<String>,
    /// Something a user said: the model's current turn begins behind it.
    spoken: bool,
    extra: Map<String, Value>,
}

impl Writer<'_> {
    fn system(&mut self, messages: &[Message], body: &mut Map<String, Value>) -> Result<()> {
        let mut parts = Vec::new();
        let mut content = Map::new();
        for (i, message) in messages.iter().enumerate() {
            for part in &message.parts {
                match part {
                    Part::Native { format, kind, value } if *format == GEMINI && kind == "cachedContent" => {
                        body.insert("cachedContent".to_owned(), value.clone());
                    }
                    _ => self.part(part, i, &mut parts)?,
                }
            }
            fill(&mut content, message.extra.of(GEMINI));
        }
        if !parts.is_empty() || !content.is_empty() {
            let mut out = Map::new();
            out.insert("parts".to_owned(), Value::Array(parts));
            fill(&mut out, Some(&content));
            body.insert("systemInstruction".to_owned(), Value::Object(out));
        }
        Ok(())
    }

    fn contents(&mut self, messages: &[Message], lead: usize) -> Result<Vec<Value>> {
        let mut turns: Vec<Turn> = Vec::new();
        for (i, message) in messages.iter().enumerate().skip(lead) {
            let turn = self.turn(message, i)?;
            if turn.parts.is_empty() && turn.results.is_empty() {
                continue;
            }
            match turns.last_mut() {
                Some(last) if last.role == turn.role => {
                    last.results.extend(turn.results);
                    last.parts.extend(turn.parts);
                    last.calls.extend(turn.calls);
                    last.spoken |= turn.spoken;
                    fill(&mut last.extra, Some(&turn.extra));
                }
                _ => turns.push(turn),
            }
        }
        if turns.is_empty() {
            // A system prompt alone is a request elsewhere; this wire wants a turn.
            turns.push(Turn { parts: vec![json!({ "text": "" })], spoken: true, ..Turn::new("user") });
        }
        self.sign(&mut turns);
        let mut out = Vec::with_capacity(turns.len());
        let mut order: Vec<String> = Vec::new();
        for mut turn in turns {
            // Stable: results of unknown calls stay behind in their own order.
            turn.results.sort_by_key(|(id, _)| order.iter().position(|c| c == id).unwrap_or(usize::MAX));
            let mut parts: Vec<Value> = turn.results.into_iter().map(|(_, value)| value).collect();
            parts.extend(turn.parts);
            let mut content = Map::new();
            content.insert("role".to_owned(), json!(turn.role));
            content.insert("parts".to_owned(), Value::Array(parts));
            fill(&mut content, Some(&turn.extra));
            out.push(Value::Object(content));
            if turn.role == "model" {
                order = turn.calls;
            }
        }
        Ok(out)
    }

    /// Since Gemini 3 the first call of each model turn since the user last spoke must be signed.
    fn sign(&self, turns: &mut [Turn]) {
        if !is_gemini_3(&self.dialect.model) {
            return;
        }
        let current = turns.iter().rposition(|t| t.role == "user" && t.spoken).unwrap_or(0);
        for turn in turns[current..].iter_mut().filter(|t| t.role == "model") {
            let first = turn.parts.iter_mut().find(|p| p.get("functionCall").is_some());
            if let Some(Value::Object(part)) = first
                && !part.contains_key("thoughtSignature")
            {
                part.insert("thoughtSignature".to_owned(), json!(SKIP_SIGNATURE));
            }
        }
    }

    fn turn(&mut self, message: &Message, index: usize) -> Result<Turn> {
        let Message { role, parts, name, extra } = message;
        if name.is_some() {
            self.note("name");
        }
        let mut turn = Turn::new(if *role == Role::Assistant { "model" } else { "user" });
        turn.extra = extra.of(GEMINI).cloned().unwrap_or_default();
        if matches!(role, Role::System | Role::Developer) {
            turn.extra.shift_remove("role");
            turn.spoken = true;
            turn.parts.push(json!({ "text": format!("<system>\n{}\n</system>", message.joined_text()) }));
            return Ok(turn);
        }
        // A signature alone, before a call that has none, is the call's (`signature::apart`).
        let mut sealed: Option<&Signature> = None;
        for (at, part) in parts.iter().enumerate() {
            match part {
                Part::Reasoning(reasoning)
                    if own_seal(reasoning).is_some() && parts.get(at + 1).is_some_and(is_unsigned_call) =>
                {
                    sealed = own_seal(reasoning);
                }
                Part::ToolResult(result) => {
                    let (id, _) = split_id(&result.call_id);
                    let (value, beside) = self.result(result, index)?;
                    turn.results.push((id.to_owned(), value));
                    turn.parts.extend(beside);
                }
                Part::ToolCall(call) => {
                    let (id, smuggled) = split_id(&call.id);
                    self.names.insert(id.to_owned(), call.name.clone());
                    turn.calls.push(id.to_owned());
                    turn.parts.push(function_call(
                        call,
                        id,
                        call.signature.as_ref().or(smuggled.as_ref()).or(sealed.take()),
                    ));
                    if call.cache.is_some() {
                        self.note("cache_control");
                    }
                }
                _ => {
                    turn.spoken |= *role != Role::Assistant;
                    self.part(part, index, &mut turn.parts)?;
                }
            }
        }
        Ok(turn)
    }

    pub fn note(&mut self, name: &'static str) {
        note(&mut self.dropped, name);
    }

    /// Everything but calls and results.
    pub fn part(&mut self, part: &Part, index: usize, out: &mut Vec<Value>) -> Result<()> {
        match part {
            Part::Text(Text { text, citations, cache, signature, extra }) => {
                if cache.is_some() {
                    self.note("cache_control");
                }
                if !citations.is_empty() {
                    self.note("citations");
                }
                let own = signature.as_ref().filter(|s| s.origin == GEMINI);
                let kept = extra.of(GEMINI);
                // Other families send empty text; several targets refuse it.
                if !text.is_empty() || own.is_some() || kept.is_some() {
                    out.push(finish_part(json!({ "text": text }), own, kept));
                }
            }
            Part::Refusal(text) => out.push(json!({ "text": text })),
            Part::Reasoning(Reasoning { text, signature, sealed, extra }) => {
                let foreign = signature.iter().chain(sealed).any(|s| s.origin != GEMINI);
                if foreign {
                    self.note("reasoning");
                } else if let Some(sealed) = sealed.as_ref().filter(|_| text.is_empty()) {
                    out.push(finish_part(json!({ "text": "" }), Some(sealed), None));
                } else if !text.is_empty() || signature.is_some() {
                    out.push(finish_part(
                        json!({ "text": text, "thought": true }),
                        signature.as_ref(),
                        extra.of(GEMINI),
                    ));
                }
            }
            Part::Media(media) => self.media(media, index, out)?,
            Part::Native { format, value, .. } if *format == GEMINI => out.push(value.clone()),
            Part::Native { kind, .. } => {
                return Err(Error::unsupported(
                    kind,
                    format!(
                        "messages[{index}] holds `{kind}`, which this target does not know; remove it or choose a model that has it"
                    ),
                ));
            }
            Part::ToolCall(_) | Part::ToolResult(_) => {}
        }
        Ok(())
    }

    /// The result, and media that must stand beside it: before Gemini 3 a function response holds none.
    fn result(&mut self, result: &ToolResult, index: usize) -> Result<(Value, Vec<Value>)> {
        let ToolResult { call_id, name, kind: _, parts, object, is_error, cache, extra } = result;
        if cache.is_some() {
            self.note("cache_control");
        }
        let (id, _) = split_id(call_id);
        let name = match self.names.get(id).or(name.as_ref()) {
            Some(name) => name.clone(),
            None => {
                let param = format!("messages[{index}]");
                return Err(Error::invalid(
                    param,
                    format!("the tool result in messages[{index}] answers the call `{id}`, which no earlier turn made"),
                ));
            }
        };
        let mut text = String::new();
        let mut media = Vec::new();
        for part in parts {
            match part {
                Part::Text(t) => {
                    if !text.is_empty() {
                        text.push('\n');
                    }
                    text.push_str(&t.text);
                    if t.cache.is_some() {
                        self.note("cache_control");
                    }
                }
                Part::Refusal(t) => text.push_str(t),
                // A document of words is what the call gave; the wire has no other place for words.
                Part::Media(Media { source: MediaSource::Text(words), name, context, .. }) => {
                    for words in context.iter().chain(name).chain([words]) {
                        if !text.is_empty() {
                            text.push('\n');
                        }
                        text.push_str(words);
                    }
                }
                other => self.part(other, index, &mut media)?,
            }
        }
        let mut out = Map::new();
        if !id.is_empty() && !id.starts_with(MADE_ID) {
            out.insert("id".to_owned(), json!(id));
        }
        out.insert("name".to_owned(), json!(name));
        out.insert("response".to_owned(), response_object(&text, object.as_ref(), *is_error));
        let beside = object.is_none() && generation(&self.dialect.model).is_some_and(|g| g < 3.0);
        let (inside, beside) = if beside { (Vec::new(), media) } else { (media, Vec::new()) };
        if !inside.is_empty() {
            out.insert("parts".to_owned(), Value::Array(inside));
        }
        let mut kept = extra.of(GEMINI).cloned();
        if let Some(Value::Object(inner)) = kept.as_mut().and_then(|k| k.shift_remove(INNER)) {
            fill(&mut out, Some(&inner));
        }
        Ok((finish_part(json!({ "functionResponse": out }), None, kept.as_ref()), beside))
    }
}

/// Reasoning of which only this family's seal came back.
fn own_seal(reasoning: &Reasoning) -> Option<&Signature> {
    reasoning.sealed.as_ref().filter(|sealed| sealed.origin == GEMINI && reasoning.text.is_empty())
}

fn is_unsigned_call(part: &Part) -> bool {
    matches!(part, Part::ToolCall(call) if call.signature.is_none() && split_id(&call.id).1.is_none())
}

impl Turn {
    fn new(role: &'static str) -> Self {
        Turn { role, results: Vec::new(), parts: Vec::new(), calls: Vec::new(), spoken: false, extra: Map::new() }
    }
}

/// The result as an object: the caller's own while its text is unchanged, the text itself when it is one, else wrapped.
fn response_object(text: &str, object: Option<&Map<String, Value>>, is_error: Option<bool>) -> Value {
    if let Some(object) = object.filter(|o| result_text(o).0 == text) {
        let told = is_error != Some(true) || object.contains_key("error");
        return if told { Value::Object(object.clone()) } else { json!({ "error": object }) };
    }
    if is_error == Some(true) {
        return json!({ "error": text });
    }
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(map)) => Value::Object(map),
        _ => json!({ "result": text }),
    }
}

/// `functionCall` as this wire writes it. Ids made here stay here.
pub fn function_call(call: &ToolCall, id: &str, signature: Option<&Signature>) -> Value {
    let mut out = Map::new();
    if is_told(id) {
        out.insert("id".to_owned(), json!(id));
    }
    out.insert("name".to_owned(), json!(call.name));
    let args = match call.kind {
        ToolKind::Function => args_object(&call.arguments),
        ToolKind::Custom => json!({ "input": call.arguments }),
    };
    out.insert("args".to_owned(), args);
    let mut kept = call.extra.of(GEMINI).cloned();
    if let Some(Value::Object(inner)) = kept.as_mut().and_then(|k| k.shift_remove(INNER)) {
        fill(&mut out, Some(&inner));
    }
    let call = Map::from_iter([("functionCall".to_owned(), Value::Object(out))]);
    finish_part(Value::Object(call), signature, kept.as_ref())
}

/// Not one that was made here, which stands for nothing there.
pub fn is_told(id: &str) -> bool {
    !id.is_empty() && !id.starts_with(MADE_ID)
}

/// Adds the signature, if it is this family's, and what the part came with.
pub fn finish_part(part: Value, signature: Option<&Signature>, kept: Option<&Map<String, Value>>) -> Value {
    let mut part = crate::codec::gemini::wire::object(part);
    if let Some(signature) = signature.filter(|s| s.origin == GEMINI) {
        part.insert("thoughtSignature".to_owned(), json!(signature.data));
    }
    if let Some(kept) = kept {
        for (key, value) in kept {
            if key != INNER && !part.contains_key(key) {
                part.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(part)
}

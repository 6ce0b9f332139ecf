//! The conversation for an upstream of this format: system turns hoisted or tagged, neighbours of one role merged, tool
//! results first, ids legal and matching, cache points behind what they mark. Never reorders what was said.

use serde_json::{Map, Value, json};

use super::{
    super::{
        Dialect, block,
        wire::{self, FORMAT},
    },
    family::Family,
    media::{Names, media_block},
};
use crate::{
    codec::{
        calls::{self, Ids, NO_RESULT},
        found, signature,
    },
    error::{Error, Result},
    model::{CacheHint, Citation, Media, Message, Part, Reasoning, Role, Text, ToolCall, ToolKind, ToolResult},
};

#[derive(Default)]
pub struct Written {
    pub system: Vec<Value>,
    pub messages: Vec<Value>,
    /// The last assistant turn calls tools, waits for their results, and does not begin with reasoning.
    pub lacks_thinking: bool,
    /// Tools that the conversation speaks of: without their declaration the wire refuses it.
    pub called: Vec<String>,
}

struct Turn {
    role: &'static str,
    /// They stand before everything else in a user's turn, with their cache points.
    results: Vec<Value>,
    blocks: Vec<Value>,
    extra: Map<String, Value>,
}

pub fn encode(messages: &[Message], dialect: &Dialect, dropped: &mut Vec<&'static str>) -> Result<Written> {
    let mut writer = Writer {
        dialect,
        caches: Family::of(&dialect.model).caches(&dialect.model),
        dropped,
        ids: Ids::new("tooluse_", wire::is_legal_id),
        names: Names::default(),
        called: Vec::new(),
        turns: Vec::new(),
        holds: false,
    };
    let mut system = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        if message.name.is_some() {
            writer.dropped.push("name");
        }
        let path = format!("messages[{i}]");
        match message.role {
            Role::System | Role::Developer if writer.turns.is_empty() => writer.system(message, &mut system)?,
            Role::System | Role::Developer => writer.late_system(message)?,
            Role::User | Role::Tool => writer.turn("user", message, &path)?,
            Role::Assistant => writer.turn("assistant", message, &path)?,
        }
    }
    let Writer { mut turns, called, .. } = writer;
    all_answered(&mut turns);
    trim_prefill(&mut turns);
    if turns.is_empty() {
        let message =
            "this model wants at least one user turn beside the system prompt; send the task as a user message";
        return Err(Error::unsupported("system_only", message).at("messages"));
    }
    let lacks_thinking = lacks_thinking(&turns);
    Ok(Written { system, messages: turns.into_iter().map(Turn::write).collect(), lacks_thinking, called })
}

struct Writer<'a> {
    dialect: &'a Dialect,
    caches: bool,
    dropped: &'a mut Vec<&'static str>,
    ids: Ids,
    names: Names,
    called: Vec<String>,
    turns: Vec<Turn>,
    /// What another host of these models signed in this turn can go back.
    holds: bool,
}

impl Writer<'_> {
    fn push(
        &mut self,
        role: &'static str,
        results: Vec<Value>,
        blocks: Vec<Value>,
        extra: Option<&Map<String, Value>>,
    ) {
        if results.is_empty() && blocks.is_empty() {
            return;
        }
        match self.turns.last_mut() {
            Some(last) if last.role == role => {
                last.results.extend(results);
                last.blocks.extend(blocks);
            }
            _ => self.turns.push(Turn { role, results, blocks, extra: extra.cloned().unwrap_or_default() }),
        }
    }

    fn turn(&mut self, role: &'static str, message: &Message, path: &str) -> Result<()> {
        let (mut results, mut blocks) = (Vec::new(), Vec::new());
        self.holds = signature::all_hold(&message.parts, FORMAT, &self.dialect.model);
        for part in &message.parts {
            match part {
                Part::ToolResult(result) => {
                    results.push(self.result(result, path)?);
                    self.point(calls::mark(result), &mut results);
                }
                part => self.block(part, role == "assistant", &mut blocks)?,
            }
        }
        let extra = message.extra.of(FORMAT);
        // A result answers the turn before, whoever's message it stands in.
        self.push("user", results, Vec::new(), extra);
        self.push(role, Vec::new(), blocks, extra);
        Ok(())
    }

    fn system(&mut self, message: &Message, out: &mut Vec<Value>) -> Result<()> {
        for part in &message.parts {
            match part {
                Part::Text(_) | Part::Refusal(_) | Part::Native { .. } => self.block(part, false, out)?,
                _ => {
                    let message = "a system prompt holds text only here; send media in a user turn";
                    return Err(Error::unsupported("system_media", message));
                }
            }
        }
        Ok(())
    }

    /// A system turn in mid-conversation stays where it is, as marked text of the user's.
    fn late_system(&mut self, message: &Message) -> Result<()> {
        let mut blocks = Vec::new();
        self.system(message, &mut blocks)?;
        for block in &mut blocks {
            if let Some(text) = block.get("text").and_then(Value::as_str) {
                block["text"] = format!("<system>\n{text}\n</system>").into();
            }
        }
        self.push("user", Vec::new(), blocks, None);
        Ok(())
    }

    /// A cache point behind what was just written.
    fn point(&mut self, hint: Option<&CacheHint>, out: &mut Vec<Value>) {
        let Some(hint) = hint else { return };
        if !self.caches {
            self.dropped.push("cache_control");
        } else if !out.is_empty() {
            out.push(wire::write_cache_point(hint));
        }
    }

    fn block(&mut self, part: &Part, assistant: bool, out: &mut Vec<Value>) -> Result<()> {
        match part {
            Part::Text(text) => {
                out.extend(self.text(text));
                self.point(text.cache.as_ref(), out);
            }
            Part::Refusal(text) => out.extend((!text.trim().is_empty()).then(|| json!({"text": text}))),
            Part::Reasoning(reasoning) => out.extend(self.reasoning(reasoning)),
            Part::Media(_) if assistant => {
                let message = "this model takes no media in its own past turns; send it in a user turn";
                return Err(Error::unsupported("assistant_media", message));
            }
            Part::Media(media) => {
                out.push(match self.found(media) {
                    Some(found) => found,
                    None => media_block(media, self.dialect, &mut self.names)?,
                });
                self.point(media.cache.as_ref(), out);
            }
            Part::ToolCall(call) => {
                out.push(self.call(call));
                self.point(call.cache.as_ref(), out);
            }
            Part::ToolResult(result) => out.push(self.result(result, "messages")?),
            Part::Native { format: FORMAT, kind: _, value } => out.push(value.clone()),
            Part::Native { format, kind, value: _ } => {
                let message = format!(
                    "`{kind}` is understood by {} models only; leave it out or choose such a model",
                    format.name()
                );
                return Err(Error::unsupported(kind, message));
            }
        }
        Ok(())
    }

    /// The wire refuses blank text. What it came wrapped in, it goes back in.
    fn text(&mut self, text: &Text) -> Option<Value> {
        let Text { text, citations, cache: _, signature: _, extra } = text;
        if text.trim().is_empty() && citations.is_empty() {
            return None;
        }
        if let Some(guard) = block::wrapping(extra, "guardContent") {
            let mut inner = guard.clone();
            inner.insert("text".to_owned(), text.as_str().into());
            return Some(json!({"guardContent": {"text": inner}}));
        }
        let own = |c: &&Citation| matches!(c.native, Some((FORMAT, _)));
        let native: Vec<Value> = citations.iter().filter(own).map(wire::write_citation).collect();
        if native.len() < citations.len() {
            self.dropped.push("citations");
        }
        if native.is_empty() {
            return (!text.trim().is_empty()).then(|| json!({"text": text}));
        }
        Some(json!({"citationsContent": {"content": [{"text": text}], "citations": native}}))
    }

    /// AWS tells of Claude alone that it reads what was found as such.
    fn found(&self, media: &Media) -> Option<Value> {
        let own = media.extra.of(FORMAT).is_some() || Family::of(&self.dialect.model) == Family::Claude;
        let block = found::write(media, FORMAT, |text| json!({"text": text}))?;
        own.then(|| json!({"searchResult": block}))
    }

    /// Only reasoning that came from here, or from the same models elsewhere, goes back; nothing else may pose as it, and it never becomes visible text.
    fn reasoning(&mut self, reasoning: &Reasoning) -> Option<Value> {
        let Reasoning { text, signature, sealed, extra: _ } = reasoning;
        match (signature, sealed) {
            (_, Some(sealed)) if sealed.origin == FORMAT => {
                Some(json!({"reasoningContent": {"redactedContent": sealed.data}}))
            }
            (Some(signature), _) if signature.origin == FORMAT || self.holds => {
                Some(json!({"reasoningContent": {"reasoningText": {"text": text, "signature": signature.data}}}))
            }
            _ => {
                self.dropped.push("reasoning");
                None
            }
        }
    }

    fn call(&mut self, call: &ToolCall) -> Value {
        let ToolCall { id, name, kind, arguments, signature: _, cache: _, extra } = call;
        let mut out = Map::new();
        out.insert("toolUseId".to_owned(), self.ids.of_call(id, name).into());
        out.insert("name".to_owned(), name.as_str().into());
        out.insert("input".to_owned(), calls::tool_input(arguments, *kind == ToolKind::Custom));
        block::give_back(&mut out, extra);
        if !self.called.contains(name) {
            self.called.push(name.clone());
        }
        json!({"toolUse": out})
    }

    fn result(&mut self, result: &ToolResult, path: &str) -> Result<Value> {
        let ToolResult { call_id, name, kind: _, parts, object, is_error, cache: _, extra } = result;
        let Some(id) = self.ids.of_result(signature::split_id(call_id).0, name.as_deref()) else {
            let message = format!("`{path}` answers a tool call that was never made; send the call before it");
            return Err(Error::invalid(path, message));
        };
        let mut content = Vec::new();
        for part in parts {
            match part {
                // As the object that it was, unless a stage has changed its text.
                Part::Text(text) if json_of(text, object.as_ref().filter(|_| parts.len() == 1)).is_some() => {
                    content.extend(json_of(text, object.as_ref()).map(|json| json!({"json": json})));
                }
                Part::Media(_) | Part::Text(_) | Part::Refusal(_) | Part::Native { .. } => {
                    self.block(part, false, &mut content)?;
                }
                Part::Reasoning(_) | Part::ToolCall(_) | Part::ToolResult(_) => {}
            }
        }
        // A point stands behind the result itself (`turn`).
        content.retain(|block| block.get("cachePoint").is_none());
        if content.is_empty()
            && let Some(object) = object
        {
            content.push(json!({"json": object}));
        }
        let mut out = Map::new();
        out.insert("toolUseId".to_owned(), id.into());
        out.insert("content".to_owned(), Value::Array(content));
        if let Some(is_error) = is_error {
            out.insert("status".to_owned(), if *is_error { "error" } else { "success" }.into());
        }
        block::give_back(&mut out, extra);
        Ok(json!({"toolResult": out}))
    }
}

/// The value that a result's text stands for.
fn json_of(text: &Text, object: Option<&Map<String, Value>>) -> Option<Value> {
    let kept = text.extra.of(FORMAT).and_then(|kept| kept.get("json")).cloned();
    let value = kept.or_else(|| object.cloned().map(Value::Object))?;
    (serde_json::from_str::<Value>(&text.text).ok()? == value).then_some(value)
}

impl Turn {
    fn write(self) -> Value {
        let mut out = Map::new();
        out.insert("role".to_owned(), self.role.into());
        out.insert("content".to_owned(), self.results.into_iter().chain(self.blocks).collect());
        for (key, value) in self.extra {
            out.entry(key).or_insert(value);
        }
        Value::Object(out)
    }
}

/// A call whose turn is over needs a result.
fn all_answered(turns: &mut [Turn]) {
    for at in 1..turns.len() {
        let (before, after) = turns.split_at_mut(at);
        let (Some(asked), Some(answer)) = (before.last(), after.first_mut()) else { continue };
        if asked.role != "assistant" || answer.role != "user" {
            continue;
        }
        let id = |block: &Value, kind: &str| block.get(kind).and_then(|inner| inner.get("toolUseId")).cloned();
        let given: Vec<Value> = answer.results.iter().filter_map(|block| id(block, "toolResult")).collect();
        // What the vendor ran itself has its result beside it.
        let asked = asked.blocks.iter().filter(|block| block["toolUse"].get("type").is_none());
        for lost in asked.filter_map(|block| id(block, "toolUse")).filter(|id| !given.contains(id)) {
            // Not every model here knows a status.
            answer.results.push(json!({"toolResult": {"toolUseId": lost, "content": [{ "text": NO_RESULT }]}}));
        }
    }
}

/// A trailing assistant turn is a prefill; models refuse white space at its end.
fn trim_prefill(turns: &mut [Turn]) {
    let Some(last) = turns.last_mut().filter(|turn| turn.role == "assistant") else { return };
    let Some(text) = last.blocks.last_mut().and_then(|block| block.get_mut("text")) else { return };
    *text = text.as_str().unwrap_or_default().trim_end().into();
}

fn lacks_thinking(turns: &[Turn]) -> bool {
    let [.., assistant, user] = turns else { return false };
    let calls = assistant.role == "assistant" && assistant.blocks.iter().any(|block| block.get("toolUse").is_some());
    let begins = assistant.blocks.first().is_some_and(|block| block.get("reasoningContent").is_some());
    calls && !user.results.is_empty() && !begins
}

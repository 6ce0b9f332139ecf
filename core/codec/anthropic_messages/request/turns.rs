//! The conversation for an upstream of this format: system turns hoisted or tagged, neighbours of one role merged, tool
//! results first, ids legal and matching. Never reorders what was said.

use serde_json::{Map, Value, json};

use super::{
    super::{
        Dialect, block,
        wire::{self, FORMAT},
    },
    media::media_block,
};
use crate::{
    codec::{
        calls::{Ids, NO_RESULT},
        signature,
    },
    error::{Error, Result},
    model::{CacheHint, Citation, Message, Part, Reasoning, Role, Text, ToolCall, ToolKind, ToolResult},
};

#[derive(Default)]
pub struct Written {
    pub system: Vec<Value>,
    pub messages: Vec<Value>,
    /// The last assistant turn calls tools, waits for their results, and does not begin with thinking.
    pub lacks_thinking: bool,
}

struct Turn {
    role: &'static str,
    blocks: Vec<Value>,
    extra: Map<String, Value>,
}

pub fn encode(messages: &[Message], dialect: &Dialect, dropped: &mut Vec<&'static str>) -> Result<Written> {
    let mut writer =
        Writer { dialect, dropped, ids: Ids::new("toolu_", wire::is_legal_id), turns: Vec::new(), holds: false };
    let mut system = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        if message.name.is_some() {
            writer.dropped.push("name");
        }
        let path = format!("messages[{i}]");
        match message.role {
            Role::System | Role::Developer if writer.turns.is_empty() => {
                for part in &message.parts {
                    system.extend(writer.system_block(part)?);
                }
            }
            Role::System | Role::Developer => writer.late_system(message)?,
            Role::User | Role::Tool => writer.turn("user", message, &path)?,
            Role::Assistant => writer.turn("assistant", message, &path)?,
        }
    }
    let mut turns = writer.turns;
    results_first(&mut turns);
    all_answered(&mut turns);
    trim_prefill(&mut turns);
    if dialect.lacks.contains(&"prefill") && is_prefill(&turns) {
        let message = "this model cannot go on with an answer that was begun for it; end with a user message, or choose \
                       another model";
        return Err(Error::unsupported("prefill", message).at("messages"));
    }
    if turns.is_empty() {
        let message =
            "this model wants at least one user turn beside the system prompt; send the task as a user message";
        return Err(Error::unsupported("system_only", message).at("messages"));
    }
    let lacks_thinking = lacks_thinking(&turns);
    Ok(Written { system, messages: turns.into_iter().map(Turn::write).collect(), lacks_thinking })
}

struct Writer<'a> {
    dialect: &'a Dialect,
    dropped: &'a mut Vec<&'static str>,
    ids: Ids,
    turns: Vec<Turn>,
    /// What another host of these models signed in this turn can go back.
    holds: bool,
}

impl Writer<'_> {
    fn push(&mut self, role: &'static str, blocks: Vec<Value>, extra: Option<&Map<String, Value>>) {
        if blocks.is_empty() {
            return;
        }
        match self.turns.last_mut() {
            Some(last) if last.role == role => last.blocks.extend(blocks),
            _ => self.turns.push(Turn { role, blocks, extra: extra.cloned().unwrap_or_default() }),
        }
    }

    fn turn(&mut self, role: &'static str, message: &Message, path: &str) -> Result<()> {
        let (mut blocks, mut results) = (Vec::new(), Vec::new());
        self.holds = signature::all_hold(&message.parts, FORMAT, &self.dialect.model);
        for part in &message.parts {
            match part {
                Part::ToolResult(result) => results.push(self.result(result, path)?),
                Part::Text(text) if text.text.trim().is_empty() => mark_last(&mut blocks, text.cache.as_ref()),
                part => blocks.extend(self.block(part, role == "assistant")?),
            }
        }
        let extra = message.extra.of(FORMAT);
        self.push("user", results, extra);
        self.push(role, blocks, extra);
        Ok(())
    }

    fn system_block(&mut self, part: &Part) -> Result<Option<Value>> {
        match part {
            Part::Text(_) | Part::Refusal(_) => self.block(part, false),
            Part::Native { .. } => self.block(part, false),
            _ => Err(Error::unsupported(
                "system_media",
                "a system prompt holds text only here; send media in a user turn",
            )),
        }
    }

    /// A system turn in mid-conversation stays where it is.
    fn late_system(&mut self, message: &Message) -> Result<()> {
        let mut blocks = Vec::new();
        for part in &message.parts {
            blocks.extend(self.system_block(part)?);
        }
        if self.dialect.mid_system {
            self.push("system", blocks, message.extra.of(FORMAT));
            return Ok(());
        }
        for block in &mut blocks {
            if let Some(text) = block.get("text").and_then(Value::as_str) {
                block["text"] = format!("<system>\n{text}\n</system>").into();
            }
        }
        self.push("user", blocks, None);
        Ok(())
    }

    fn block(&mut self, part: &Part, assistant: bool) -> Result<Option<Value>> {
        match part {
            Part::Text(text) => Ok(self.text(text)),
            Part::Refusal(text) if text.trim().is_empty() => Ok(None),
            Part::Refusal(text) => Ok(Some(json!({"type": "text", "text": text}))),
            Part::Reasoning(reasoning) => Ok(self.reasoning(reasoning)),
            Part::Media(_) if assistant => {
                let message = "this model takes no media in its own past turns; send it in a user turn";
                Err(Error::unsupported("assistant_media", message))
            }
            Part::Media(media) => media_block(media, self.dialect).map(Some),
            Part::ToolCall(call) => Ok(Some(self.call(call))),
            Part::ToolResult(result) => self.result(result, "messages").map(Some),
            Part::Native { format: FORMAT, kind: _, value } => Ok(Some(value.clone())),
            Part::Native { format, kind, value: _ } => {
                let message = format!(
                    "`{kind}` is understood by {} models only; leave it out or choose such a model",
                    format.name()
                );
                Err(Error::unsupported(kind, message))
            }
        }
    }

    /// The wire refuses blank text.
    fn text(&mut self, text: &Text) -> Option<Value> {
        let Text { text, citations, cache, signature: _, extra } = text;
        if text.trim().is_empty() {
            return None;
        }
        let mut out = Map::new();
        out.insert("type".to_owned(), "text".into());
        out.insert("text".to_owned(), text.as_str().into());
        let own = |c: &&Citation| matches!(c.native, Some((FORMAT, _)));
        let native: Vec<Value> = citations.iter().filter(own).map(wire::write_citation).collect();
        if native.len() < citations.len() {
            self.dropped.push("citations");
        }
        if !native.is_empty() {
            out.insert("citations".to_owned(), Value::Array(native));
        }
        wire::put_cache(&mut out, cache.as_ref());
        block::give_back(&mut out, extra);
        Some(Value::Object(out))
    }

    /// Only reasoning that this family's models signed goes back; nothing else may pose as it, and it never becomes visible text.
    fn reasoning(&mut self, reasoning: &Reasoning) -> Option<Value> {
        let Reasoning { text, signature, sealed, extra } = reasoning;
        let mut out = match (signature, sealed) {
            (_, Some(sealed)) if sealed.origin == FORMAT => json!({"type": "redacted_thinking", "data": sealed.data}),
            (Some(signature), _) if signature.origin == FORMAT || self.holds => {
                json!({"type": "thinking", "thinking": text, "signature": signature.data})
            }
            _ => {
                self.dropped.push("reasoning");
                return None;
            }
        };
        if let Value::Object(out) = &mut out {
            block::give_back(out, extra);
        }
        Some(out)
    }

    fn call(&mut self, call: &ToolCall) -> Value {
        let ToolCall { id, name, kind, arguments, signature: _, cache, extra } = call;
        let mut out = Map::new();
        out.insert("type".to_owned(), "tool_use".into());
        out.insert("id".to_owned(), self.ids.of_call(id, name).into());
        out.insert("name".to_owned(), name.as_str().into());
        out.insert("input".to_owned(), wire::tool_input(arguments, *kind == ToolKind::Custom));
        wire::put_cache(&mut out, cache.as_ref());
        block::give_back(&mut out, extra);
        Value::Object(out)
    }

    fn result(&mut self, result: &ToolResult, path: &str) -> Result<Value> {
        let ToolResult { call_id, name, kind: _, parts, object, is_error, cache, extra } = result;
        let Some(id) = self.ids.of_result(call_id, name.as_deref()) else {
            return Err(Error::invalid(
                path,
                format!("`{path}` answers a tool call that was never made; send the call before it"),
            ));
        };
        let mut content = Vec::new();
        for part in parts {
            content.extend(self.block(part, false)?);
        }
        if content.is_empty()
            && let Some(object) = object
        {
            content.push(json!({"type": "text", "text": Value::Object(object.clone()).to_string()}));
        }
        let mut out = Map::new();
        out.insert("type".to_owned(), "tool_result".into());
        out.insert("tool_use_id".to_owned(), id.into());
        if !content.is_empty() {
            out.insert("content".to_owned(), short(content));
        }
        if let Some(is_error) = is_error {
            out.insert("is_error".to_owned(), (*is_error).into());
        }
        wire::put_cache(&mut out, cache.as_ref());
        block::give_back(&mut out, extra);
        Ok(Value::Object(out))
    }
}

impl Turn {
    fn write(self) -> Value {
        let mut out = Map::new();
        out.insert("role".to_owned(), self.role.into());
        out.insert("content".to_owned(), short(self.blocks));
        for (key, value) in self.extra {
            out.entry(key).or_insert(value);
        }
        Value::Object(out)
    }
}

/// A blank text is left out; the mark that stood on it stands on what is before it. Thoughts take none.
fn mark_last(blocks: &mut [Value], hint: Option<&CacheHint>) {
    let takes = |block: &&mut Map<String, Value>| {
        !block.contains_key("cache_control") && !block["type"].as_str().is_some_and(|kind| kind.contains("thinking"))
    };
    if let Some(block) = blocks.last_mut().and_then(Value::as_object_mut).filter(takes) {
        wire::put_cache(block, hint);
    }
}

/// One plain text block is written as a string.
fn short(mut blocks: Vec<Value>) -> Value {
    match blocks.as_mut_slice() {
        [Value::Object(one)] if one.len() == 2 && one.get("type").is_some_and(|t| t == "text") => {
            one.get_mut("text").map(Value::take).unwrap_or_default()
        }
        _ => Value::Array(blocks),
    }
}

/// In a user turn that answers calls the results stand first; a native system turn may not stand between them.
fn results_first(turns: &mut [Turn]) {
    let is_result = |block: &Value| block["type"] == "tool_result";
    for i in 1..turns.len().saturating_sub(1) {
        let answered =
            turns[i].role == "system" && turns[i + 1].role == "user" && turns[i + 1].blocks.iter().any(is_result);
        if answered && turns[i - 1].blocks.iter().any(|block| block["type"] == "tool_use") {
            turns.swap(i, i + 1);
        }
    }
    for turn in turns.iter_mut().filter(|turn| turn.role == "user") {
        turn.blocks.sort_by_key(|block| !is_result(block));
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
        let has = |id: &Value| answer.blocks.iter().any(|block| block.get("tool_use_id") == Some(id));
        let calls = asked.blocks.iter().filter(|block| block["type"] == "tool_use");
        let lost = calls
            .filter_map(|block| block.get("id"))
            .filter(|id| !has(id))
            .map(|id| json!({"type": "tool_result", "tool_use_id": id, "content": NO_RESULT, "is_error": true}));
        let lost: Vec<Value> = lost.collect();
        let place = answer.blocks.iter().take_while(|block| block["type"] == "tool_result").count();
        answer.blocks.splice(place..place, lost);
    }
}

/// A trailing assistant turn is a prefill; the wire refuses white space at its end.
fn trim_prefill(turns: &mut [Turn]) {
    let Some(last) = turns.last_mut().filter(|turn| turn.role == "assistant") else { return };
    let Some(block) = last.blocks.last_mut().filter(|block| block["type"] == "text") else { return };
    let text = block["text"].as_str().unwrap_or_default().trim_end().to_owned();
    block["text"] = text.into();
}

fn is_prefill(turns: &[Turn]) -> bool {
    let last = turns.last().filter(|turn| turn.role == "assistant");
    last.and_then(|turn| turn.blocks.last()).is_some_and(|block| block["type"] == "text")
}

fn lacks_thinking(turns: &[Turn]) -> bool {
    let [.., assistant, user] = turns else { return false };
    let calls = assistant.role == "assistant" && assistant.blocks.iter().any(|block| block["type"] == "tool_use");
    let answered = user.blocks.first().is_some_and(|block| block["type"] == "tool_result");
    let begins = assistant.blocks.first().and_then(|block| block["type"].as_str()).unwrap_or_default();
    calls && answered && !matches!(begins, "thinking" | "redacted_thinking")
}

//! The conversation for an upstream of this format. Pictures of tool results go into the user's turn that follows; documents
//! of text are read where they stand; what is no text and no picture is refused.

use serde_json::{Map, Value, json};

use super::{
    Dialect,
    wire::{self, FORMAT},
};
use crate::{
    codec::{calls::Ids, mime},
    error::{Error, Result},
    model::{Media, MediaKind, MediaSource, Message, Part, Role, ToolResult},
};

pub fn encode(messages: &[Message], dialect: &Dialect, dropped: &mut Vec<&'static str>) -> Result<Vec<Value>> {
    let ids = Ids::new("call_", |id| !id.is_empty());
    let mut writer = Writer { dialect, dropped, ids, held: Said::default(), out: Vec::new() };
    for (i, message) in messages.iter().enumerate() {
        if message.name.is_some() {
            writer.dropped.push("name");
        }
        if !matches!(message.role, Role::Tool | Role::User) {
            writer.attach();
        }
        writer.message(message, &format!("messages[{i}]"))?;
    }
    writer.attach();
    Ok(writer.out)
}

struct Writer<'a> {
    dialect: &'a Dialect,
    dropped: &'a mut Vec<&'static str>,
    ids: Ids,
    /// Of tool results: for the user's turn that follows.
    held: Said,
    out: Vec<Value>,
}

/// What one message says.
#[derive(Default)]
struct Said {
    texts: Vec<String>,
    images: Vec<Value>,
}

impl Said {
    fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.images.is_empty()
    }

    fn message(self, role: &str) -> Map<String, Value> {
        let mut out = Map::new();
        out.insert("role".to_owned(), role.into());
        // One text is all that a message has: pieces stay apart as paragraphs.
        out.insert("content".to_owned(), self.texts.join("\n\n").into());
        if !self.images.is_empty() {
            out.insert("images".to_owned(), Value::Array(self.images));
        }
        out
    }
}

impl Writer<'_> {
    fn attach(&mut self) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            self.out.push(Value::Object(held.message("user")));
        }
    }

    fn message(&mut self, message: &Message, path: &str) -> Result<()> {
        let role = match message.role {
            Role::System | Role::Developer => "system",
            Role::User | Role::Tool => "user",
            Role::Assistant => "assistant",
        };
        let (mut said, mut thinking, mut calls) = (Said::default(), Vec::new(), Vec::new());
        for part in &message.parts {
            match part {
                Part::ToolResult(result) => self.result(result, path)?,
                // What another family has signed or sealed is nothing to this one.
                Part::Reasoning(r) if r.signature.is_none() && r.sealed.is_none() => thinking.push(r.text.as_str()),
                Part::Reasoning(_) => self.dropped.push("reasoning"),
                Part::ToolCall(call) => {
                    let id = self.ids.of_call(&call.id, &call.name);
                    calls.push(wire::write_call(&id, &call.name, &call.arguments, call.kind));
                }
                Part::Media(_) if role == "assistant" => {
                    let message = "this model takes no media in its own past turns; send it in a user turn";
                    return Err(Error::unsupported("assistant_media", message));
                }
                Part::Media(_) if role == "system" => {
                    let message = "a system prompt holds text only here; send media in a user turn";
                    return Err(Error::unsupported("system_media", message));
                }
                part => self.part(part, &mut said)?,
            }
        }
        if said.is_empty() && thinking.is_empty() && calls.is_empty() {
            return Ok(());
        }
        if role == "user" && !self.held.is_empty() {
            let mut all = std::mem::take(&mut self.held);
            all.texts.append(&mut said.texts);
            all.images.append(&mut said.images);
            said = all;
        }
        let mut out = said.message(role);
        if !thinking.is_empty() {
            out.insert("thinking".to_owned(), thinking.concat().into());
        }
        if !calls.is_empty() {
            out.insert("tool_calls".to_owned(), Value::Array(calls));
        }
        for (key, value) in message.extra.of(FORMAT).into_iter().flatten() {
            out.entry(key).or_insert_with(|| value.clone());
        }
        self.out.push(Value::Object(out));
        Ok(())
    }

    fn part(&mut self, part: &Part, said: &mut Said) -> Result<()> {
        match part {
            Part::Text(text) => {
                if text.cache.is_some() {
                    self.dropped.push("cache_control");
                }
                if !text.citations.is_empty() {
                    self.dropped.push("citations");
                }
                said.texts.push(text.text.clone());
            }
            Part::Refusal(text) => said.texts.push(text.clone()),
            Part::Media(media) => self.media(media, said)?,
            Part::Native { format, kind, value: _ } => {
                let message = format!(
                    "`{kind}` is understood by {} models only; leave it out or choose such a model",
                    format.name()
                );
                return Err(Error::unsupported(kind, message));
            }
            Part::Reasoning(_) | Part::ToolCall(_) | Part::ToolResult(_) => self.dropped.push("reasoning"),
        }
        Ok(())
    }

    fn media(&mut self, media: &Media, said: &mut Said) -> Result<()> {
        if media.cache.is_some() {
            self.dropped.push("cache_control");
        }
        let lacking = |feature: &str, message: &str| Err(Error::unsupported(feature, message));
        match (media.kind, &media.source) {
            (_, MediaSource::File { .. }) => {
                lacking("files", "a file that lives at one vendor cannot be read by another; send the bytes as base64")
            }
            (MediaKind::Image, _) if self.dialect.lacks.contains(&"images") => {
                lacking("images", "this model does not see; choose one that takes images")
            }
            (MediaKind::Image, MediaSource::Base64(data)) => {
                said.images.push(data.as_str().into());
                Ok(())
            }
            (MediaKind::Image, _) => {
                lacking("media_urls", "this server does not fetch media; send the bytes as base64")
            }
            (MediaKind::Document, _) => self.document(media, said),
            (MediaKind::Audio, _) => lacking("audio", "this server takes no sound; send the words as text"),
            (MediaKind::Video, _) => lacking("video", "this server takes no video; choose another model"),
        }
    }

    fn document(&mut self, media: &Media, said: &mut Said) -> Result<()> {
        said.texts.extend(media.context.clone());
        if media.cite == Some(true) {
            self.dropped.push("citations");
        }
        if let MediaSource::Parts(parts) = &media.source {
            return parts.iter().try_for_each(|part| self.part(part, said));
        }
        let Some(text) = mime::text_of(media) else {
            let message = "this server reads documents of plain text only; convert it";
            return Err(Error::unsupported("documents", message));
        };
        said.texts.extend(media.name.clone());
        said.texts.push(text);
        Ok(())
    }

    fn result(&mut self, result: &ToolResult, path: &str) -> Result<()> {
        let ToolResult { call_id, name, kind: _, parts, object, is_error, cache, extra: _ } = result;
        let Some(id) = self.ids.of_result(call_id, name.as_deref()) else {
            let message = format!("`{path}` answers a tool call that was never made; send the call before it");
            return Err(Error::invalid(path, message));
        };
        if cache.is_some() {
            self.dropped.push("cache_control");
        }
        if *is_error == Some(true) {
            self.dropped.push("tool_result.is_error");
        }
        let mut said = Said::default();
        for part in parts {
            self.part(part, &mut said)?;
        }
        if said.texts.is_empty()
            && let Some(object) = object
        {
            said.texts.push(Value::Object(object.clone()).to_string());
        }
        let images = std::mem::take(&mut said.images);
        if !images.is_empty() {
            let what = name.as_deref().map_or(String::new(), |n| format!(" ({n})"));
            self.held.texts.push(format!("Attached to the result of tool call {id}{what}:"));
            self.held.images.extend(images);
            if said.texts.is_empty() {
                said.texts.push("The result is attached to the next message.".to_owned());
            }
        }
        let mut out = json!({"role": "tool", "content": said.texts.join("\n\n"), "tool_call_id": id});
        // Servers that know no ids go by the name.
        if let Some(name) = name {
            out["tool_name"] = name.as_str().into();
        }
        self.out.push(out);
        Ok(())
    }
}

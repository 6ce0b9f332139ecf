//! The conversation for an upstream of this format: a message a turn, a message a tool result, documents that were this
//! format's own beside it. Media of tool results go into the user's turn that follows, for results hold text only.

use serde_json::{Map, Value, json};

use super::super::{
    Dialect,
    wire::{self, FORMAT},
};
use crate::{
    codec::calls::Ids,
    error::{Error, Result},
    model::{Citation, Media, MediaKind, MediaSource, Message, Part, Role, Text, ToolCall, ToolKind, ToolResult},
};

#[derive(Default)]
pub struct Written {
    pub messages: Vec<Value>,
    pub documents: Vec<Value>,
}

pub fn encode(messages: &[Message], dialect: &Dialect, dropped: &mut Vec<&'static str>) -> Result<Written> {
    let ids = Ids::new("call_", |id| !id.is_empty());
    let mut writer = Writer { dialect, dropped, ids, held: Vec::new(), written: Written::default() };
    for (i, message) in messages.iter().enumerate() {
        if message.name.is_some() {
            writer.dropped.push("name");
        }
        if !matches!(message.role, Role::Tool | Role::User) {
            writer.attach();
        }
        let path = format!("messages[{i}]");
        match message.role {
            Role::System | Role::Developer => writer.system(message)?,
            Role::User | Role::Tool => writer.user(message, &path)?,
            Role::Assistant => writer.assistant(message)?,
        }
    }
    writer.attach();
    Ok(writer.written)
}

struct Writer<'a> {
    dialect: &'a Dialect,
    dropped: &'a mut Vec<&'static str>,
    ids: Ids,
    /// Of tool results: for the user's turn that follows.
    held: Vec<Value>,
    written: Written,
}

impl Writer<'_> {
    fn push(&mut self, role: &str, content: Vec<Value>, more: Map<String, Value>, message: &Message) {
        let mut out = Map::new();
        out.insert("role".to_owned(), role.into());
        if !content.is_empty() || more.is_empty() {
            out.insert("content".to_owned(), short(content));
        }
        out.extend(more);
        wire::give_back(&mut out, &message.extra);
        self.written.messages.push(Value::Object(out));
    }

    fn attach(&mut self) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            self.written.messages.push(json!({"role": "user", "content": held}));
        }
    }

    fn system(&mut self, message: &Message) -> Result<()> {
        let mut content = Vec::new();
        for part in &message.parts {
            match part {
                Part::Text(text) => content.push(self.text(text)),
                Part::Refusal(text) => content.push(json!({"type": "text", "text": text})),
                Part::Native { format, kind, value: _ } => return Err(foreign(kind, format.name())),
                _ => {
                    let message = "a system prompt holds text only here; send media in a user turn";
                    return Err(Error::unsupported("system_media", message));
                }
            }
        }
        self.push("system", content, Map::new(), message);
        Ok(())
    }

    /// Results are messages of their own, before what else was said.
    fn user(&mut self, message: &Message, path: &str) -> Result<()> {
        let (mut content, documents) = (Vec::new(), self.written.documents.len());
        for part in &message.parts {
            match part {
                Part::ToolResult(result) => self.result(result, path)?,
                part => self.part(part, &mut content)?,
            }
        }
        let only_documents = content.is_empty() && self.written.documents.len() > documents;
        if message.role == Role::Tool && content.is_empty() || only_documents {
            return Ok(());
        }
        let mut all = std::mem::take(&mut self.held);
        all.append(&mut content);
        self.push("user", all, Map::new(), message);
        Ok(())
    }

    fn part(&mut self, part: &Part, out: &mut Vec<Value>) -> Result<()> {
        match part {
            Part::Text(text) => out.push(self.text(text)),
            Part::Refusal(text) => out.push(json!({"type": "text", "text": text})),
            Part::Media(media) => self.media(media, out)?,
            Part::Native { format: FORMAT, kind: _, value } => out.push(value.clone()),
            Part::Native { format, kind, value: _ } => return Err(foreign(kind, format.name())),
            // Of nobody's turn but the model's.
            Part::Reasoning(_) | Part::ToolCall(_) | Part::ToolResult(_) => self.dropped.push("reasoning"),
        }
        Ok(())
    }

    fn text(&mut self, text: &Text) -> Value {
        if text.cache.is_some() {
            self.dropped.push("cache_control");
        }
        let mut out = Map::new();
        out.insert("type".to_owned(), "text".into());
        out.insert("text".to_owned(), text.text.as_str().into());
        wire::give_back(&mut out, &text.extra);
        Value::Object(out)
    }

    fn media(&mut self, media: &Media, out: &mut Vec<Value>) -> Result<()> {
        if media.cache.is_some() {
            self.dropped.push("cache_control");
        }
        match media.kind {
            MediaKind::Image if self.dialect.lacks.contains(&"images") => {
                Err(Error::unsupported("images", "this model does not see; choose one that takes images"))
            }
            MediaKind::Image => {
                out.push(self.image(media)?);
                Ok(())
            }
            MediaKind::Document => self.document(media, out),
            MediaKind::Audio => Err(Error::unsupported("audio", "this model does not hear; send the words as text")),
            MediaKind::Video => Err(Error::unsupported("video", "this model takes no video; choose one that does")),
        }
    }

    fn image(&self, media: &Media) -> Result<Value> {
        let url = match &media.source {
            MediaSource::Base64(data) => {
                let mime = media.mime.as_deref().or_else(|| crate::codec::mime::sniffed(data)).unwrap_or("image/png");
                format!("data:{mime};base64,{data}")
            }
            MediaSource::Url(url) if self.dialect.media_urls => url.clone(),
            MediaSource::Url(_) => {
                let message = "this provider does not fetch media; send the bytes as base64";
                return Err(Error::unsupported("media_urls", message));
            }
            MediaSource::File { .. } => {
                let message = "a file that lives at one vendor cannot be read by another; send the bytes as base64";
                return Err(Error::unsupported("files", message));
            }
            MediaSource::Text(_) | MediaSource::Parts(_) => {
                return Err(Error::unsupported("images", "an image must come as bytes or by URL"));
            }
        };
        let mut inner = Map::new();
        inner.insert("url".to_owned(), url.into());
        if let Some(detail) = media.detail.as_deref().filter(|d| ["auto", "low", "high"].contains(d)) {
            inner.insert("detail".to_owned(), detail.into());
        }
        Ok(json!({"type": "image_url", "image_url": inner}))
    }

    /// One of this format's own goes back to its list; another's words are read where they stand.
    fn document(&mut self, media: &Media, out: &mut Vec<Value>) -> Result<()> {
        if let Some(own) = wire::own_document(media) {
            self.written.documents.push(own);
            return Ok(());
        }
        let line = |text: &str| json!({"type": "text", "text": text});
        out.extend(media.context.as_deref().map(line));
        if media.cite == Some(true) {
            self.dropped.push("citations");
        }
        if let MediaSource::Parts(parts) = &media.source {
            return parts.iter().try_for_each(|part| self.part(part, out));
        }
        let Some(text) = crate::codec::mime::text_of(media) else {
            return Err(Error::unsupported("documents", "this model reads documents of plain text only; convert it"));
        };
        match &media.name {
            Some(name) => out.push(line(&format!("{name}\n\n{text}"))),
            None => out.push(line(&text)),
        }
        Ok(())
    }

    fn assistant(&mut self, message: &Message) -> Result<()> {
        let (mut content, mut calls, mut citations, mut more) = (Vec::new(), Vec::new(), Vec::new(), Map::new());
        for part in &message.parts {
            match part {
                Part::Text(text) if wire::is_plan(&text.extra) && content.is_empty() => {
                    more.insert("tool_plan".to_owned(), text.text.as_str().into());
                }
                Part::Text(text) => {
                    content.push(self.text(text));
                    let own = |c: &&Citation| matches!(c.native, Some((FORMAT, _)));
                    let native: Vec<&Citation> = text.citations.iter().filter(own).collect();
                    if native.len() < text.citations.len() {
                        self.dropped.push("citations");
                    }
                    citations.extend(native.into_iter().map(|c| wire::write_citation(c, content.len() - 1, 0, "")));
                }
                Part::Refusal(text) => content.push(json!({"type": "text", "text": text})),
                // What another family has signed or sealed is nothing to this one.
                Part::Reasoning(r) if r.signature.is_none() && r.sealed.is_none() => {
                    content.push(json!({"type": "thinking", "thinking": r.text}));
                }
                Part::Reasoning(_) => self.dropped.push("reasoning"),
                Part::ToolCall(call) => calls.push(self.call(call)),
                Part::Media(_) => {
                    let message = "this model takes no media in its own past turns; send it in a user turn";
                    return Err(Error::unsupported("assistant_media", message));
                }
                Part::Native { format: FORMAT, kind: _, value } => content.push(value.clone()),
                Part::Native { format, kind, value: _ } => return Err(foreign(kind, format.name())),
                Part::ToolResult(result) => self.result(result, "messages")?,
            }
        }
        for (key, list) in [("tool_calls", calls), ("citations", citations)] {
            if !list.is_empty() {
                more.insert(key.to_owned(), Value::Array(list));
            }
        }
        if !content.is_empty() || !more.is_empty() {
            self.push("assistant", content, more, message);
        }
        Ok(())
    }

    fn call(&mut self, call: &ToolCall) -> Value {
        let ToolCall { id, name, kind, arguments, signature: _, cache: _, extra } = call;
        let id = self.ids.of_call(id, name);
        if *kind == ToolKind::Custom {
            return wire::write_call(&id, name, &json!({"input": arguments}).to_string(), None, extra);
        }
        wire::write_call(&id, name, arguments, None, extra)
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
        let (mut content, mut media) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Part::Media(one) if one.kind == MediaKind::Document => match wire::own_document(one) {
                    Some(own) => content.push(json!({"type": "document", "document": own})),
                    None => self.document(one, &mut content)?,
                },
                Part::Media(one) => self.media(one, &mut media)?,
                Part::Text(text) => match wire::own_words(&text.text, &text.extra) {
                    Some(own) => content.push(json!({"type": "document", "document": own})),
                    None if wire::is_document(&text.extra) => content.push(json!({"type": "text", "text": text.text})),
                    None => self.part(part, &mut content)?,
                },
                other => self.part(other, &mut content)?,
            }
        }
        if content.is_empty()
            && let Some(object) = object
        {
            content.push(json!({"type": "text", "text": Value::Object(object.clone()).to_string()}));
        }
        if !media.is_empty() {
            let what = name.as_deref().map_or(String::new(), |n| format!(" ({n})"));
            self.held.push(json!({"type": "text", "text": format!("Attached to the result of tool call {id}{what}:")}));
            self.held.append(&mut media);
            if content.is_empty() {
                content.push(json!({"type": "text", "text": "The result is attached to the next message."}));
            }
        }
        self.written.messages.push(json!({"role": "tool", "tool_call_id": id, "content": short(content)}));
        Ok(())
    }
}

/// One plain text is written as a string.
fn short(mut content: Vec<Value>) -> Value {
    match content.as_mut_slice() {
        [] => "".into(),
        [Value::Object(one)] if one.len() == 2 && one.get("type").is_some_and(|t| t == "text") => {
            one.get_mut("text").map(Value::take).unwrap_or_default()
        }
        _ => Value::Array(content),
    }
}

fn foreign(kind: &str, whose: &str) -> Error {
    let message = format!("`{kind}` is understood by {whose} models only; leave it out or choose such a model");
    Error::unsupported(kind, message)
}

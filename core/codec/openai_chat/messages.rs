//! The conversation as an upstream of this format wants it. Content is never dropped silently: what a place cannot hold
//! moves to one that can, or the request is refused with the feature's name.

use std::collections::VecDeque;

use base64::Engine;
use serde_json::{Map, Value, json};

use super::{
    assistant, details,
    request::vendor,
    wire::{
        BASE64, F, FIELD, HOLLOW, INNER, LEGACY, TYPE, data_url_of, made_id, mark, marked, marks_cache, plain,
        prefixed, short_id, sniff,
    },
};
use crate::{
    codec::{Dialect, mime, signature},
    error::{Error, Result},
    model::{
        CacheHint, Extra, Format, Media, MediaKind, MediaSource, Message, Part, Reasoning, Role, Text, ToolCall,
        ToolResult,
    },
};

/// The messages, and the names of knobs that were dropped in them.
pub fn encode(messages: &[Message], dialect: &Dialect) -> Result<(Vec<Value>, Vec<&'static str>)> {
    let mut w =
        Writer { dialect, out: Vec::new(), held: Vec::new(), dropped: Vec::new(), made: VecDeque::new(), at: 0 };
    for (at, message) in messages.iter().enumerate() {
        w.at = at;
        w.message(message)?;
    }
    w.release();
    Ok((w.out, w.dropped))
}

struct Writer<'a> {
    dialect: &'a Dialect,
    out: Vec<Value>,
    /// User parts that must wait until the run of tool messages is over.
    held: Vec<Value>,
    dropped: Vec<&'static str>,
    /// Ids made for calls that had none: (name, id), for results that have none either.
    made: VecDeque<(String, String)>,
    at: usize,
}

impl Writer<'_> {
    fn note(&mut self, name: &'static str) {
        if !self.dropped.contains(&name) {
            self.dropped.push(name);
        }
    }

    fn message(&mut self, message: &Message) -> Result<()> {
        let Message { role, parts, name: _, extra: _ } = message;
        match role {
            Role::System => self.system("system", message),
            Role::Developer => self.system(if self.dialect.developer_role { "developer" } else { "system" }, message),
            Role::Assistant => self.assistant(message),
            Role::User | Role::Tool => {
                let mut rest = Vec::new();
                for part in parts {
                    match part {
                        Part::ToolResult(result) => self.tool_result(result, message)?,
                        other => rest.push(other),
                    }
                }
                if rest.is_empty() { Ok(()) } else { self.user(&rest, message) }
            }
        }
    }

    fn push(&mut self, role: &str, content: Value, message: &Message) {
        self.release();
        let mut out = Map::new();
        out.insert("role".into(), role.into());
        out.insert("content".into(), content);
        self.finish(out, message);
    }

    fn finish(&mut self, mut out: Map<String, Value>, message: &Message) {
        if let Some(name) = &message.name {
            out.insert("name".into(), name.as_str().into());
        }
        plain(&message.extra, &mut out);
        if self.dialect.reasoning_field.is_none() && out.shift_remove("reasoning_details").is_some() {
            self.note("reasoning");
        }
        self.out.push(Value::Object(out));
    }

    /// Media of tool results, now that no tool message follows.
    fn release(&mut self) {
        if !self.held.is_empty() {
            let content = std::mem::take(&mut self.held);
            self.out.push(json!({"role": "user", "content": content}));
        }
    }

    fn system(&mut self, role: &str, message: &Message) -> Result<()> {
        let mut content = Vec::new();
        for part in &message.parts {
            match part {
                Part::Text(text) => content.push(self.text(text)),
                Part::Native { format: F, kind: _, value } => content.push(value.clone()),
                Part::Native { format: _, kind, value: _ } => return Err(foreign(kind)),
                _ => {
                    return Err(Error::unsupported(
                        "system_media",
                        "system prompts of this target are text only; move media into a user message",
                    ));
                }
            }
        }
        self.push(role, flat(content), message);
        Ok(())
    }

    fn user(&mut self, parts: &[&Part], message: &Message) -> Result<()> {
        // Both belong to the user, and some servers want roles to alternate.
        let mut content = std::mem::take(&mut self.held);
        for part in parts {
            self.user_part(part, &mut content)?;
        }
        self.push("user", flat(content), message);
        Ok(())
    }

    fn user_part(&mut self, part: &Part, content: &mut Vec<Value>) -> Result<()> {
        match part {
            Part::Text(text) => content.push(self.text(text)),
            Part::Refusal(text) => content.push(json!({"type": "text", "text": text})),
            Part::Media(media) => self.media(media, content)?,
            Part::Native { format: F, kind: _, value } => content.push(value.clone()),
            Part::Native { format: _, kind, value: _ } => return Err(foreign(kind)),
            Part::Reasoning(_) => self.note("reasoning"),
            Part::ToolCall(_) => {
                return Err(Error::invalid(
                    self.path(),
                    "a tool call stands in a user message; only assistants call tools",
                ));
            }
            Part::ToolResult(_) => {}
        }
        Ok(())
    }

    fn path(&self) -> String {
        format!("messages[{}]", self.at)
    }

    fn text(&mut self, text: &Text) -> Value {
        let mut out = Map::new();
        out.insert("type".into(), "text".into());
        out.insert("text".into(), text.text.as_str().into());
        if !text.citations.is_empty() {
            self.note("citations");
        }
        self.cache(text.cache.as_ref(), &text.extra, &mut out);
        plain(&text.extra, &mut out);
        Value::Object(out)
    }

    /// A hint from another format in the words this provider knows; the caller's own words go with the unknown fields.
    fn cache(&mut self, hint: Option<&CacheHint>, extra: &Extra, out: &mut Map<String, Value>) {
        let Some(hint) = hint.filter(|_| !says_cache(extra)) else { return };
        if cache_control(self.dialect) {
            out.insert("cache_control".into(), ephemeral(hint));
        } else if marks_cache(extra, self.dialect) {
            let mut point = Map::new();
            point.insert("mode".into(), "explicit".into());
            if let Some(ttl) = hint.ttl.as_deref().and_then(breakpoint_ttl) {
                point.insert("ttl".into(), ttl.into());
            }
            out.insert("prompt_cache_breakpoint".into(), Value::Object(point));
        } else {
            self.note("cache_control");
        }
    }

    fn assistant(&mut self, message: &Message) -> Result<()> {
        let (mut content, mut refusal, mut calls) = (Vec::new(), String::new(), Vec::new());
        let mut legacy_call = None;
        let mut audio = None;
        let mut chunks = Vec::new();
        for part in &message.parts {
            match part {
                Part::Text(text) => content.push(self.text(text)),
                Part::Refusal(text) => refusal.push_str(text),
                Part::Reasoning(r) if self.dialect.provider == "mistral" && is_chunk(r) => chunks.push(chunk(r)),
                Part::Reasoning(_) => {}
                Part::ToolCall(call) if marked(&call.extra, LEGACY) => legacy_call = Some(call),
                Part::ToolCall(call) => calls.push(self.call(call, calls.len())),
                Part::Media(Media { kind: MediaKind::Audio, source: MediaSource::File { format: F, id }, .. }) => {
                    audio = Some(id)
                }
                Part::Media(media) => self.media(media, &mut content)?,
                Part::Native { format: F, kind: _, value } if value.get("id").is_some() => calls.push(value.clone()),
                Part::Native { format: F, kind: _, value } => content.push(value.clone()),
                Part::Native { format: _, kind, value: _ } => return Err(foreign(kind)),
                Part::ToolResult(_) => {
                    return Err(Error::invalid(
                        self.path(),
                        "a tool result stands in an assistant message; it belongs to the turn after",
                    ));
                }
            }
        }
        self.release();
        let mut out = Map::new();
        out.insert("role".into(), "assistant".into());
        let bare = content.is_empty() && chunks.is_empty();
        let null = bare
            && !marked(&message.extra, HOLLOW[0].1)
            && !(calls.is_empty() && legacy_call.is_none() && refusal.is_empty() && audio.is_none());
        chunks.append(&mut content);
        out.insert("content".into(), if null { Value::Null } else { flat(chunks) });
        if !refusal.is_empty() {
            out.insert("refusal".into(), refusal.into());
        }
        self.reasoning(&message.parts, &message.extra, &mut out);
        if let Some(id) = audio {
            out.insert("audio".into(), json!({ "id": id }));
        }
        if let Some(call) = legacy_call {
            out.insert("function_call".into(), json!({"name": call.name, "arguments": assistant::arguments(call)}));
        }
        if !calls.is_empty() {
            out.insert("tool_calls".into(), Value::Array(calls));
        }
        self.finish(out, message);
        Ok(())
    }

    /// Own reasoning goes back in the provider's field. What is sealed or signed by another family never becomes text.
    fn reasoning(&mut self, parts: &[Part], extra: &Extra, out: &mut Map<String, Value>) {
        let chunks = self.dialect.provider == "mistral";
        let all = parts.iter().filter_map(|p| if let Part::Reasoning(r) = p { Some(r) } else { None });
        let all: Vec<&Reasoning> = all.filter(|r| !(chunks && is_chunk(r))).collect();
        if all.is_empty() {
            if let (true, Some(field)) = (marked(extra, HOLLOW[1].1), self.dialect.reasoning_field) {
                out.insert(field.into(), "".into());
            }
            return;
        }
        let Some(field) = self.dialect.reasoning_field else { return self.note("reasoning") };
        // A server in no row gets it where its client had it.
        let said = |r: &&Reasoning| mark(&r.extra, FIELD).is_some_and(|place| place == "reasoning");
        let field = if self.dialect.assumed && all.iter().any(said) { "reasoning" } else { field };
        let verbatim = marked(extra, "reasoning_details");
        if self.dialect.provider == "litellm" {
            let blocks: Vec<Value> = all.iter().filter(|r| anthropic(r)).flat_map(|r| anthropic_blocks(r)).collect();
            if !blocks.is_empty() {
                out.insert("thinking_blocks".into(), Value::Array(blocks));
            }
        } else if (self.dialect.provider == "openrouter"
            || self.dialect.assumed && all.iter().any(|r| details::told(r)))
            && !verbatim
        {
            // A server in no row gave such a list: so it knows it.
            let mut list = Vec::new();
            for r in &all {
                list.extend(details::of(r, list.len()));
            }
            if !list.is_empty() {
                out.insert("reasoning_details".into(), Value::Array(list));
            }
        }
        let carried = verbatim || out.contains_key("thinking_blocks") || out.contains_key("reasoning_details");
        let ours = |r: &Reasoning| r.signature.as_ref().is_none_or(|signature| signature.origin == F);
        let own = |r: &&&Reasoning| r.sealed.is_none() && (ours(r) || carried);
        let text: String = all.iter().filter(own).map(|r| r.text.as_str()).collect();
        let sealed = |r: &&Reasoning| carried && r.sealed.as_ref().is_some_and(|s| s.origin == F);
        if !all.iter().all(|r| own(&r) || sealed(r)) {
            self.note("reasoning");
        }
        if !text.is_empty() {
            out.insert(field.into(), text.into());
        }
    }

    fn call(&mut self, call: &ToolCall, at: usize) -> Value {
        let id = if call.id.is_empty() {
            let id = made_id(&[&self.at.to_string(), &at.to_string(), &call.name, &call.arguments]);
            self.made.push_back((call.name.clone(), id.clone()));
            id
        } else {
            call.id.clone()
        };
        let id = self.id(&id);
        let mut out = assistant::call_value(call, &id, assistant::arguments(call));
        if !self.dialect.assumed {
            // Of another server, or of this gateway.
            ["extra_content", "provider_specific_fields"].iter().for_each(|key| drop(out.shift_remove(*key)));
        }
        if (self.dialect.assumed || self.dialect.provider == "gemini")
            && let Some(s) = call.signature.as_ref().filter(|s| s.origin == Format::Gemini)
        {
            out.insert("extra_content".into(), json!({"google": {"thought_signature": s.data}}));
        }
        Value::Object(out)
    }

    /// An id as this provider takes it: the same one gives the same one, in call and result.
    fn id(&self, id: &str) -> String {
        let id = signature::split_id(id).0;
        if self.dialect.short_tool_ids {
            short_id(id)
        } else if vendor(self.dialect) && id.len() > MAX_ID {
            made_id(&[id])
        } else {
            id.to_owned()
        }
    }

    fn tool_result(&mut self, result: &ToolResult, message: &Message) -> Result<()> {
        let ToolResult { call_id, name, kind: _, parts, object, is_error, cache, extra } = result;
        let id = if call_id.is_empty() { self.made_for(name.as_deref()) } else { call_id.clone() };
        let id = self.id(&id);
        let (mut content, mut media) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Part::Text(text) => content.push(self.text(text)),
                Part::Media(m) if matches!(m.source, MediaSource::Text(_)) => self.media(m, &mut content)?,
                other => self.user_part(other, &mut media)?,
            }
        }
        if content.is_empty()
            && let Some(object) = object
        {
            content.push(json!({"type": "text", "text": Value::Object(object.clone()).to_string()}));
        }
        if *is_error == Some(true) {
            self.note("tool_result.is_error");
        }
        if !media.is_empty() {
            let what = name.as_deref().map_or(String::new(), |n| format!(" ({n})"));
            self.held.push(json!({"type": "text", "text": format!("Attached to the result of tool call {id}{what}:")}));
            self.held.append(&mut media);
            if content.is_empty() {
                content.push(json!({"type": "text", "text": "The result is attached to the next message."}));
            }
        }
        if let Some(last) = content.last_mut().and_then(Value::as_object_mut) {
            self.cache(cache.as_ref(), extra, last);
        }
        let mut out = Map::new();
        let legacy = marked(extra, LEGACY);
        out.insert("role".into(), if legacy { "function" } else { "tool" }.into());
        match name {
            Some(name) if legacy => drop(out.insert("name".into(), name.as_str().into())),
            _ => drop(out.insert("tool_call_id".into(), id.into())),
        }
        out.insert("content".into(), flat(content));
        if message.role == Role::Tool && message.parts.len() == 1 {
            self.finish(out, message);
        } else {
            self.out.push(Value::Object(out));
        }
        Ok(())
    }

    /// The oldest made id of that name that no result has taken yet.
    fn made_for(&mut self, name: Option<&str>) -> String {
        let at = self.made.iter().position(|(n, _)| name.is_none_or(|name| n == name)).unwrap_or(0);
        self.made.remove(at).map_or_else(|| made_id(&[name.unwrap_or_default()]), |(_, id)| id)
    }

    fn media(&mut self, media: &Media, content: &mut Vec<Value>) -> Result<()> {
        if let Some(context) = &media.context {
            content.push(json!({"type": "text", "text": context}));
        }
        if media.cite == Some(true) {
            self.note("citations");
        }
        match &media.source {
            MediaSource::Text(text) => return self.plain_document(media, text, content),
            MediaSource::Parts(parts) => return parts.iter().try_for_each(|p| self.user_part(p, content)),
            MediaSource::Base64(data) if is_text(media) => {
                if let Some(text) = BASE64.decode(data).ok().and_then(|b| String::from_utf8(b).ok()) {
                    return self.plain_document(media, &text, content);
                }
            }
            _ => {}
        }
        let (feature, what) = match media.kind {
            MediaKind::Image => ("images", "images"),
            MediaKind::Document => ("documents", "documents"),
            MediaKind::Audio => ("audio", "audio"),
            MediaKind::Video => ("video", "video"),
        };
        // In its own word a server is sent what its client says that it takes.
        let own = self.dialect.provider == "perplexity" && mark(&media.extra, TYPE).is_some_and(|t| t == "file_url");
        if self.dialect.lacks.contains(&feature) && !own {
            return Err(Error::unsupported(
                feature,
                format!("this target takes no {what}; leave them out or choose another model"),
            )
            .at(self.path()));
        }
        let mut out = self.media_part(media)?;
        self.cache(media.cache.as_ref(), &media.extra, &mut out);
        plain(&media.extra, &mut out);
        content.push(Value::Object(out));
        Ok(())
    }

    /// A document that is text needs no file part, which many servers lack.
    fn plain_document(&mut self, media: &Media, text: &str, content: &mut Vec<Value>) -> Result<()> {
        let text = match &media.name {
            Some(name) => format!("{name}\n\n{text}"),
            None => text.to_owned(),
        };
        let mut out = Map::new();
        out.insert("type".into(), "text".into());
        out.insert("text".into(), text.into());
        self.cache(media.cache.as_ref(), &media.extra, &mut out);
        content.push(Value::Object(out));
        Ok(())
    }

    fn media_part(&self, media: &Media) -> Result<Map<String, Value>> {
        let own = mark(&media.extra, TYPE).and_then(Value::as_str);
        let kind = match (own, media.kind, &media.source) {
            (Some(own), _, _) => own,
            (None, _, MediaSource::File { .. }) => "file",
            (None, MediaKind::Image, _) => "image_url",
            (None, MediaKind::Document, MediaSource::Url(_)) if self.dialect.provider == "perplexity" => "file_url",
            (None, MediaKind::Document, _) => "file",
            (None, MediaKind::Audio, MediaSource::Base64(_)) => "input_audio",
            (None, MediaKind::Video, _) if !vendor(self.dialect) => "video_url",
            (None, MediaKind::Audio, _) if !vendor(self.dialect) => "audio_url",
            (None, MediaKind::Audio, _) => {
                return Err(self.lacking("audio_urls", "this target takes audio as base64 only"));
            }
            (None, MediaKind::Video, _) => return Err(self.lacking("video", "this target takes no video")),
        };
        let mut inner = Map::new();
        match (kind, &media.source) {
            (_, MediaSource::File { format: F, id }) => drop(inner.insert("file_id".into(), id.as_str().into())),
            (_, MediaSource::File { .. }) => {
                return Err(self.lacking("files", "this file lives at another provider; send its bytes"));
            }
            ("input_audio", MediaSource::Base64(data)) => {
                inner.insert("data".into(), data.as_str().into());
                inner.insert("format".into(), audio_format(media.mime.as_deref()).into());
            }
            ("file", source) => {
                let name = media.name.clone().unwrap_or_else(|| default_name(media.mime.as_deref()));
                inner.insert("filename".into(), name.into());
                inner.insert("file_data".into(), self.url(media, source, own.is_some())?.into());
            }
            ("file_url", MediaSource::Base64(data)) => drop(inner.insert("url".into(), data.as_str().into())),
            (_, source) => drop(inner.insert("url".into(), self.url(media, source, own.is_some())?.into())),
        }
        let levels = ["auto", "low", "high", "original"];
        if let Some(detail) = media.detail.as_deref().filter(|d| kind == "image_url" && levels.contains(d)) {
            inner.insert("detail".into(), detail.into());
        }
        prefixed(&media.extra, INNER, &mut inner);
        let mut out = Map::new();
        out.insert("type".into(), kind.into());
        out.insert(kind.into(), Value::Object(inner));
        Ok(out)
    }

    fn url(&self, media: &Media, source: &MediaSource, own: bool) -> Result<String> {
        match source {
            MediaSource::Base64(data) => {
                Ok(data_url_of(media.mime.as_deref().unwrap_or_else(|| sniff(data, media.kind)), data))
            }
            MediaSource::Url(url) => {
                let web = url.starts_with("https://") || url.starts_with("http://");
                let taken = own && media.kind != MediaKind::Image || takes_url(media, self.dialect);
                if web && taken {
                    Ok(url.clone())
                } else {
                    Err(self.lacking("media_urls", "this target takes no media by this URL; send it as base64"))
                }
            }
            MediaSource::File { .. } | MediaSource::Text(_) | MediaSource::Parts(_) => {
                Err(self.lacking("documents", "this target takes no such document; send it as base64"))
            }
        }
    }

    fn lacking(&self, feature: &str, text: &str) -> Error {
        Error::unsupported(feature, text).with_code("unsupported_feature")
    }
}

/// Pictures by URL are common; of the rest each server knows what it knows.
pub fn takes_url(media: &Media, dialect: &Dialect) -> bool {
    match media.kind {
        MediaKind::Image => dialect.media_urls,
        kind => {
            matches!(dialect.provider.as_str(), "perplexity" | "openrouter")
                || !vendor(dialect) && kind != MediaKind::Document
        }
    }
}

fn foreign(kind: &str) -> Error {
    Error::unsupported(
        kind,
        format!("this target does not know `{kind}`; leave it out or choose a model of the provider that made it"),
    )
}

/// One plain text is a string: many servers know no more.
fn flat(mut content: Vec<Value>) -> Value {
    let text = |v: &Value| v.as_object().is_some_and(|m| m.len() == 2 && m.get("type").is_some_and(|t| t == "text"));
    match content.as_mut_slice() {
        [] => "".into(),
        [only] if text(only) => only["text"].take(),
        _ => Value::Array(content),
    }
}

/// Did the caller write the hint in words of this format?
pub fn says_cache(extra: &Extra) -> bool {
    marked(extra, "cache_control") || marked(extra, "prompt_cache_breakpoint")
}

/// Providers that take Anthropic's hint on parts of this format.
pub fn cache_control(dialect: &Dialect) -> bool {
    matches!(dialect.provider.as_str(), "openrouter" | "litellm")
}

pub fn caches(dialect: &Dialect) -> bool {
    dialect.provider == "openai" || cache_control(dialect)
}

pub fn ephemeral(hint: &CacheHint) -> Value {
    match hint.ttl.as_deref() {
        Some(ttl @ ("5m" | "1h")) => json!({"type": "ephemeral", "ttl": ttl}),
        _ => json!({"type": "ephemeral"}),
    }
}

/// OpenAI knows `30m` and `12h`: the nearest one that is not shorter.
fn breakpoint_ttl(ttl: &str) -> Option<&'static str> {
    match ttl {
        "5m" | "30m" => Some("30m"),
        "1h" | "12h" => Some("12h"),
        _ => None,
    }
}

fn is_chunk(r: &Reasoning) -> bool {
    mark(&r.extra, FIELD).and_then(Value::as_str) == Some("chunk")
}

fn chunk(r: &Reasoning) -> Value {
    json!({"type": "thinking", "thinking": [{"type": "text", "text": r.text}]})
}

fn anthropic(r: &Reasoning) -> bool {
    [&r.signature, &r.sealed].into_iter().flatten().any(|s| s.origin == Format::AnthropicMessages)
}

fn anthropic_blocks(r: &Reasoning) -> Vec<Value> {
    assistant::blocks(r)
}

fn is_text(media: &Media) -> bool {
    media.kind == MediaKind::Document && media.mime.as_deref().is_some_and(|m| m.starts_with("text/"))
}

fn audio_format(mime: Option<&str>) -> String {
    match mime.and_then(|m| m.split(';').next()).unwrap_or("audio/wav") {
        "audio/mpeg" | "audio/mp3" => "mp3".to_owned(),
        "audio/wav" | "audio/x-wav" | "audio/wave" => "wav".to_owned(),
        other => other.rsplit('/').next().unwrap_or("wav").to_owned(),
    }
}

fn default_name(mime: Option<&str>) -> String {
    match mime {
        None => "document.pdf".to_owned(),
        Some(mime) => mime::ending(mime).map_or("document".to_owned(), |ending| format!("document.{ending}")),
    }
}

/// OpenAI takes no longer id of a tool call.
const MAX_ID: usize = 40;

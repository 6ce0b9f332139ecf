//! Turns and their pieces: views by place. A view that was read before its list was replaced says so instead of showing
//! another piece.

use std::sync::Arc;

use rhai::{Array, Dynamic};

use super::{
    convert,
    desk::{Desk, Fail, fail},
    reference::Registrar,
    request_view::{stale, string},
    verdict,
};
use crate::{
    codec::Field,
    model::{Extra, Media, MediaKind, MediaSource, Message, Part, Text, ToolKind, ToolResult},
};

/// One turn of the request.
#[derive(Clone)]
pub struct MessageView {
    pub desk: Arc<Desk>,
    pub at: usize,
    pub generation: u32,
}

/// One piece of a turn or of an answer.
#[derive(Clone)]
pub struct PartView {
    pub desk: Arc<Desk>,
    pub home: Home,
    pub at: usize,
    pub generation: u32,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Home {
    Message(usize),
    Choice(usize),
}

pub fn register(r: &mut Registrar<'_>) {
    r.kind::<MessageView>("Message", "One turn: an element of `request.messages`.");
    r.both::<MessageView>(
        "role",
        "system, developer, user, assistant or tool",
        |v| v.read(|m| verdict::role_name(m.role).into()),
        |v, value| {
            let role = verdict::role(&string("role", value)?).map_err(fail)?;
            v.write(|m| m.role = role)
        },
    );
    r.both::<MessageView>(
        "text",
        "its text, parts joined by a newline; setting it replaces the text and keeps other parts",
        |v| v.read(|m| m.joined_text().into()),
        |v, value| {
            let text = string("text", value)?;
            v.write(|m| set_text(&mut m.parts, text))
        },
    );
    r.both::<MessageView>(
        "content",
        "an array of parts; set it to a string, or to an array of parts, strings and maps `#{ type: \"text\", text: \"…\" }`",
        |v| {
            let count = v.read(|m| m.parts.len())?;
            Ok(parts(&v.desk, Home::Message(v.at), count))
        },
        |v, value| v.set_content(value),
    );
    r.get::<MessageView>("name", "the speaker's name, or ()", |v| {
        v.read(|m| m.name.as_deref().map_or(Dynamic::UNIT, convert::str))
    });
    part(r);
}

fn part(r: &mut Registrar<'_>) {
    r.kind::<PartView>("Part", "One piece of a message's `content` or of an answer's `parts` and `tool_calls`.");
    r.get::<PartView>(
        "type",
        "text, refusal, reasoning, image, document, audio, video, tool_call, tool_result, or a provider's own",
        |v| v.read(|p| kind(p).into()),
    );
    r.both::<PartView>(
        "text",
        "its text; () for pieces without",
        |v| v.read(|p| text(p).map_or(Dynamic::UNIT, Dynamic::from)),
        |v, value| {
            let new = string("text", value)?;
            v.write(|p| match p {
                Part::Text(t) => {
                    t.text = new;
                    Ok(())
                }
                Part::Refusal(t) => {
                    *t = new;
                    Ok(())
                }
                Part::ToolResult(result) => {
                    set_text(&mut result.parts, new);
                    result.object = None;
                    Ok(())
                }
                // A changed text would not match its signature any more.
                Part::Reasoning(r) => {
                    r.text = new;
                    r.signature = None;
                    Ok(())
                }
                other => Err(fail(format!("a part of type {} has no text to set", kind(other)))),
            })
        },
    );
    r.get::<PartView>("id", "of a tool call or of the call that a result answers; () for others", |v| {
        v.read(|p| match p {
            Part::ToolCall(call) => call.id.as_str().into(),
            Part::ToolResult(result) => result.call_id.as_str().into(),
            _ => Dynamic::UNIT,
        })
    });
    r.get::<PartView>("name", "of the tool, or of the file; ()", |v| {
        v.read(|p| match p {
            Part::ToolCall(call) => call.name.as_str().into(),
            Part::ToolResult(result) => result.name.as_deref().map_or(Dynamic::UNIT, convert::str),
            Part::Media(media) => media.name.as_deref().map_or(Dynamic::UNIT, convert::str),
            _ => Dynamic::UNIT,
        })
    });
    r.both::<PartView>(
        "arguments",
        "of a tool call, as a map (or as the text it is when the model wrote no JSON); set it to a map or text",
        |v| {
            v.read(|p| match p {
                Part::ToolCall(call) if call.arguments.trim().is_empty() => rhai::Map::new().into(),
                Part::ToolCall(call) => match serde_json::from_str(&call.arguments) {
                    Ok(value) => convert::from_json(&value),
                    Err(_) => call.arguments.as_str().into(),
                },
                _ => Dynamic::UNIT,
            })
        },
        |v, value| {
            let new = match convert::text(&value) {
                Some(text) => text,
                None => super::request_view::json("arguments", &value)?.to_string(),
            };
            v.write(|p| match p {
                Part::ToolCall(call) => {
                    // Read through a map it comes back with other spaces: that is no change.
                    let same = serde_json::from_str::<serde_json::Value>(&call.arguments).ok();
                    if same.is_none() || same != serde_json::from_str(&new).ok() {
                        call.arguments = new;
                    }
                    Ok(())
                }
                other => Err(fail(format!("a part of type {} has no arguments", kind(other)))),
            })
        },
    );
    r.get::<PartView>("mime", "of media: image/png, application/pdf; () when unknown", |v| {
        v.read(|p| match p {
            Part::Media(Media { mime: Some(mime), .. }) => mime.as_str().into(),
            _ => Dynamic::UNIT,
        })
    });
}

impl MessageView {
    fn read<T>(&self, f: impl FnOnce(&Message) -> T) -> Result<T, Fail> {
        self.fresh()?;
        self.desk.request(|request| request.messages.get(self.at).map(f))?.ok_or_else(stale)
    }

    fn write(&self, f: impl FnOnce(&mut Message)) -> Result<(), Fail> {
        self.fresh()?;
        self.desk.edit(Field::Messages, |request| request.messages.get_mut(self.at).map(f).ok_or_else(stale))
    }

    fn fresh(&self) -> Result<(), Fail> {
        if self.desk.with(|lent| lent.generation) == self.generation { Ok(()) } else { Err(stale()) }
    }

    fn set_content(&self, value: Dynamic) -> Result<(), Fail> {
        self.fresh()?;
        let home = Home::Message(self.at);
        let new = content(&value, |view| {
            if view.home == home && view.generation == self.generation { view.read(Part::clone) } else { Err(stale()) }
        })?;
        if self.read(|m| m.parts == new)? {
            return Ok(());
        }
        self.write(|m| m.parts = new)?;
        Ok(())
    }
}

impl PartView {
    pub fn read<T>(&self, f: impl FnOnce(&Part) -> T) -> Result<T, Fail> {
        self.fresh()?;
        match self.home {
            Home::Message(m) => {
                self.desk.request(|request| request.messages.get(m)?.parts.get(self.at).map(f))?.ok_or_else(stale)
            }
            Home::Choice(c) => self.desk.response(|response| {
                response.choices.get(c).and_then(|c| c.parts.get(self.at)).map(f).ok_or_else(stale)
            }),
        }
    }

    fn write(&self, f: impl FnOnce(&mut Part) -> Result<(), Fail>) -> Result<(), Fail> {
        self.fresh()?;
        match self.home {
            Home::Message(m) => self.desk.edit(Field::Messages, |request| {
                let part = request.messages.get_mut(m).and_then(|m| m.parts.get_mut(self.at));
                f(part.ok_or_else(stale)?)
            }),
            Home::Choice(c) => self.desk.response(|response| {
                let part = response.choices.get_mut(c).and_then(|c| c.parts.get_mut(self.at));
                f(part.ok_or_else(stale)?)
            }),
        }
    }

    fn fresh(&self) -> Result<(), Fail> {
        if self.desk.with(|lent| lent.generation) == self.generation { Ok(()) } else { Err(stale()) }
    }
}

/// Views of `count` pieces.
pub fn parts(desk: &Arc<Desk>, home: Home, count: usize) -> Dynamic {
    let generation = desk.with(|lent| lent.generation);
    let view = |at| Dynamic::from(PartView { desk: desk.clone(), home, at, generation });
    (0..count).map(view).collect::<Array>().into()
}

/// A new turn from a map, or a copy of an older view's turn.
pub fn message(value: &Dynamic, desk: &Arc<Desk>) -> Result<Message, Fail> {
    let map = value
        .as_map_ref()
        .map_err(|kind| fail(format!("a message must be a map with role and content, not {kind}")))?;
    for key in map.keys() {
        if !matches!(key.as_str(), "role" | "content" | "text" | "name") {
            return Err(fail("a message has role, content and name, and nothing else"));
        }
    }
    let role = map.get("role").and_then(convert::text).ok_or_else(|| fail("a message needs a role"))?;
    let body = map.get("content").or(map.get("text")).ok_or_else(|| fail("a message needs content"))?;
    let own = |view: &PartView| if Arc::ptr_eq(&view.desk, desk) { view.read(Part::clone) } else { Err(stale()) };
    let mut message = Message::new(verdict::role(&role).map_err(fail)?, content(body, own)?);
    message.name = map.get("name").and_then(convert::text);
    Ok(message)
}

fn content(value: &Dynamic, own: impl Fn(&PartView) -> Result<Part, Fail>) -> Result<Vec<Part>, Fail> {
    if let Some(text) = convert::text(value) {
        return Ok(vec![Part::text(text)]);
    }
    let list =
        value.as_array_ref().map_err(|kind| fail(format!("content must be a string or an array, not {kind}")))?;
    let mut out = Vec::with_capacity(list.len());
    for item in list.iter() {
        if let Some(view) = item.read_lock::<PartView>() {
            out.push(own(&view)?);
        } else if let Some(text) = convert::text(item) {
            out.push(Part::text(text));
        } else {
            out.push(part_of(item)?);
        }
    }
    Ok(out)
}

fn part_of(value: &Dynamic) -> Result<Part, Fail> {
    let wrong = || fail("content holds parts, strings and maps such as #{ type: \"text\", text: \"…\" }");
    let map = value.as_map_ref().map_err(|_| wrong())?;
    match map.get("type").and_then(convert::text).as_deref() {
        Some("text") | None => map.get("text").and_then(convert::text).map(Part::text).ok_or_else(wrong),
        Some("tool_call") => verdict::tool_call(value).map_err(fail),
        Some("tool_result") => tool_result(&map),
        Some("image") => image(&map),
        Some(_) => Err(wrong()),
    }
}

/// `#{ type: "tool_result", id: "…", text: "…" }`
fn tool_result(map: &rhai::Map) -> Result<Part, Fail> {
    let word = |key: &str| map.get(key).and_then(convert::text);
    let wrong = || fail("a tool_result has the id of its call, a text, and may have name and is_error");
    if map.keys().any(|key| !matches!(key.as_str(), "type" | "id" | "text" | "name" | "is_error")) {
        return Err(wrong());
    }
    let (Some(call_id), Some(text)) = (word("id"), word("text")) else { return Err(wrong()) };
    Ok(Part::ToolResult(ToolResult {
        call_id,
        name: word("name"),
        parts: vec![Part::text(text)],
        is_error: map.get("is_error").and_then(|v| v.as_bool().ok()),
        kind: ToolKind::Function,
        object: None,
        cache: None,
        extra: Extra::default(),
    }))
}

/// `#{ type: "image", url: "https://…" }`, or `data` (base64) and `mime` in its place.
fn image(map: &rhai::Map) -> Result<Part, Fail> {
    let word = |key: &str| map.get(key).and_then(convert::text);
    let source = match (word("url"), word("data")) {
        (Some(url), None) => MediaSource::Url(url),
        (None, Some(data)) => MediaSource::Base64(data),
        _ => return Err(fail("an image has a url, or data (base64) with its mime type")),
    };
    Ok(Part::Media(Media::new(MediaKind::Image, word("mime"), source)))
}

/// Replaces the text of a turn: the first text part gets it, other text parts go, the rest stays in its place.
pub fn set_text(parts: &mut Vec<Part>, new: String) {
    let mut new = Some(new);
    parts.retain_mut(|part| match part {
        Part::Text(text) => match new.take() {
            Some(new) => {
                // Citations point into the old text.
                *text = Text { text: new, cache: text.cache.take(), ..Text::default() };
                true
            }
            None => false,
        },
        _ => true,
    });
    if let Some(new) = new {
        parts.push(Part::text(new));
    }
}

pub fn kind(part: &Part) -> &str {
    match part {
        Part::Text(_) => "text",
        Part::Refusal(_) => "refusal",
        Part::Reasoning(_) => "reasoning",
        Part::Media(media) => match media.kind {
            MediaKind::Image => "image",
            MediaKind::Document => "document",
            MediaKind::Audio => "audio",
            MediaKind::Video => "video",
        },
        Part::ToolCall(_) => "tool_call",
        Part::ToolResult(_) => "tool_result",
        Part::Native { kind, .. } => kind,
    }
}

fn text(part: &Part) -> Option<String> {
    match part {
        Part::Text(t) => Some(t.text.clone()),
        Part::Refusal(t) => Some(t.clone()),
        Part::Reasoning(r) => Some(r.text.clone()),
        Part::ToolResult(r) => Some(r.parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")),
        Part::Media(_) | Part::ToolCall(_) | Part::Native { .. } => None,
    }
}

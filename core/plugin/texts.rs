//! Every string of a request or an answer, wherever it stands, as one numbered list, and the way back: a number and a
//! new text. One walk does both, so that the numbers of a reading and of a writing are the same.
//!
//! What cannot be read as text is told too: a guard must be able to say what it has not seen.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    bind::types::{self, TextKind, Unread},
    to_guest::role,
};
use crate::{
    codec::{Field, document::Document},
    error::Error,
    model::{
        Citation, EmbeddingInput, Extra, Media, MediaKind, MediaSource, Message, Operation, Output, Part, Request,
        Response, Role, Tool, ToolKind, tool::Function,
    },
};

/// The strings of a request, and what is not one.
pub fn of_request(doc: &mut Document, operation: Operation) -> Result<(Vec<types::Text>, Vec<Unread>), Error> {
    let mut walk = Walk::reading();
    let request = doc.request()?;
    for (at, message) in request.messages.iter().enumerate() {
        walk.turn(at, message.role);
        let Message { role: _, parts, name, extra } = message;
        walk.turn_head(&mut name.clone(), &mut extra.clone());
        for (n, part) in parts.iter().enumerate() {
            walk.at(&format!("parts[{n}]"), |walk| walk.part(&mut light(part)));
        }
    }
    walk.role = None;
    if operation == Operation::Embeddings {
        if request.user.is_some() {
            walk.miss("user");
        }
        walk.path = "input".to_owned();
        if doc.embeddings()?.inputs.iter().any(|input| !matches!(input, EmbeddingInput::Text(_))) {
            walk.miss("tokens");
        }
    } else {
        let mut rest = without_turns(request);
        for (_, visit) in &REST {
            visit(&mut walk, &mut rest);
        }
    }
    Ok((walk.texts, walk.unread))
}

/// Writes new texts by their numbers. `Err(Ok(message))`: a number that was not given out.
pub fn to_request(
    doc: &mut Document,
    operation: Operation,
    edits: BTreeMap<u32, String>,
) -> Result<(), Result<String, Error>> {
    let mut walk = Walk::writing(edits);
    // Which fields change is known only after the walk: a copy of what is small, the turns in place.
    let mut turns = doc.request().map_err(Err)?.messages.clone();
    let mut changed = false;
    for (at, message) in turns.iter_mut().enumerate() {
        walk.turn(at, message.role);
        let Message { role: _, parts, name, extra } = message;
        changed |= walk.turn_head(name, extra);
        for (n, part) in parts.iter_mut().enumerate() {
            changed |= walk.at(&format!("parts[{n}]"), |walk| walk.part(part));
        }
    }
    if changed {
        doc.edit(Field::Messages).map_err(Err)?.messages = turns;
    }
    walk.role = None;
    if operation != Operation::Embeddings {
        let mut rest = without_turns(doc.request().map_err(Err)?);
        let dirty: Vec<Field> =
            REST.iter().filter_map(|(field, visit)| visit(&mut walk, &mut rest).then_some(*field)).collect();
        for field in dirty {
            let request = doc.edit(field).map_err(Err)?;
            let turns = std::mem::take(&mut request.messages);
            *request = Request { messages: turns, ..rest.clone() };
        }
    }
    walk.finish().map_err(Ok)
}

pub fn of_response(response: &Response) -> (Vec<types::Text>, Vec<Unread>) {
    let mut walk = Walk::reading();
    walk.role = Some(Role::Assistant);
    for (at, choice) in response.choices.iter().enumerate() {
        walk.path = format!("choices[{at}]");
        for (n, part) in choice.parts.iter().enumerate() {
            walk.at(&format!("parts[{n}]"), |walk| walk.part(&mut light(part)));
        }
        walk.extra(&mut choice.extra.clone());
        if choice.logprobs.is_some() {
            walk.at("logprobs", |walk| walk.miss("logprobs"));
        }
    }
    walk.path.clear();
    walk.extra(&mut response.extra.clone());
    (walk.texts, walk.unread)
}

pub fn to_response(response: &mut Response, edits: BTreeMap<u32, String>) -> Result<(), String> {
    let mut walk = Walk::writing(edits);
    for (at, choice) in response.choices.iter_mut().enumerate() {
        walk.path = format!("choices[{at}]");
        let mut changed = false;
        for (n, part) in choice.parts.iter_mut().enumerate() {
            changed |= walk.at(&format!("parts[{n}]"), |walk| walk.part(part));
        }
        changed |= walk.extra(&mut choice.extra);
        if changed {
            // They spell the old text.
            choice.logprobs = None;
        }
    }
    walk.path.clear();
    walk.extra(&mut response.extra);
    walk.finish()
}

type Visit = fn(&mut Walk, &mut Request) -> bool;

/// What a request holds beside its turns, in the order of the walk, by the field that an edit touches.
const REST: [(Field, Visit); 6] = [
    (Field::Tools, |walk, request| walk.tools(&mut request.tools)),
    (Field::Output, |walk, request| match &mut request.output {
        Some(Output::Schema { name: _, description, schema, strict: _ }) => walk.at("output", |walk| {
            let mut changed = walk.optional(TextKind::Tool, "description", description);
            changed |= walk.at("schema", |walk| walk.json(TextKind::Tool, schema, false));
            changed
        }),
        Some(Output::Text | Output::Json) | None => false,
    }),
    (Field::Sampling, |walk, request| {
        let each = |walk: &mut Walk, (n, stop): (usize, &mut String)| {
            walk.at(&format!("stop[{n}]"), |walk| walk.text(TextKind::Extra, stop))
        };
        request.sampling.stop.iter_mut().enumerate().fold(false, |changed, one| each(walk, one) | changed)
    }),
    (Field::User, |walk, request| walk.optional(TextKind::Metadata, "user", &mut request.user)),
    (Field::Metadata, |walk, request| {
        walk.at("metadata", |walk| walk.object(TextKind::Metadata, &mut request.metadata, true))
    }),
    // Its own names are the format's fields: they are not for changing.
    (Field::Extra, |walk, request| match request.extra.any_mut() {
        Some(fields) => walk.object(TextKind::Extra, fields, false),
        None => false,
    }),
];

/// A copy of all but the turns.
fn without_turns(request: &Request) -> Request {
    Request {
        model: request.model.clone(),
        stream: request.stream,
        messages: Vec::new(),
        tools: request.tools.clone(),
        tool_choice: request.tool_choice.clone(),
        parallel_tool_calls: request.parallel_tool_calls,
        output: request.output.clone(),
        sampling: request.sampling.clone(),
        max_tokens: request.max_tokens,
        n: request.n,
        logprobs: request.logprobs.clone(),
        reasoning: request.reasoning.clone(),
        user: request.user.clone(),
        metadata: request.metadata.clone(),
        service_tier: request.service_tier.clone(),
        verbosity: request.verbosity.clone(),
        include_usage: request.include_usage,
        extra: request.extra.clone(),
    }
}

/// A copy without the bytes of media: nobody reads them here.
fn light(part: &Part) -> Part {
    match part {
        Part::Media(Media { source: MediaSource::Base64(_), kind, mime, name, context, extra, .. }) => {
            let light = Media::new(*kind, mime.clone(), MediaSource::Base64(String::new()));
            Part::Media(Media { name: name.clone(), context: context.clone(), extra: extra.clone(), ..light })
        }
        other => other.clone(),
    }
}

/// One walk over everything. Reading takes the strings out of the copy it is given; writing puts new ones in.
#[derive(Default)]
struct Walk {
    path: String,
    role: Option<Role>,
    next: u32,
    texts: Vec<types::Text>,
    unread: Vec<Unread>,
    /// `Some`: writing.
    edits: Option<BTreeMap<u32, String>>,
}

impl Walk {
    fn reading() -> Self {
        Walk::default()
    }

    fn writing(edits: BTreeMap<u32, String>) -> Self {
        Walk { edits: Some(edits), ..Walk::default() }
    }

    fn finish(self) -> Result<(), String> {
        match self.edits.and_then(|edits| edits.into_keys().next()) {
            Some(id) => Err(format!("it changed the text {id}, which there is not")),
            None => Ok(()),
        }
    }

    fn turn(&mut self, at: usize, role: Role) {
        self.path = format!("messages[{at}]");
        self.role = Some(role);
    }

    fn turn_head(&mut self, name: &mut Option<String>, extra: &mut Extra) -> bool {
        let named = self.optional(TextKind::Metadata, "name", name);
        self.extra(extra) | named
    }

    /// Steps into a field and back.
    fn at<T>(&mut self, step: &str, f: impl FnOnce(&mut Walk) -> T) -> T {
        let mark = self.path.len();
        if mark > 0 && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        let value = f(self);
        self.path.truncate(mark);
        value
    }

    fn text(&mut self, kind: TextKind, text: &mut String) -> bool {
        if text.is_empty() {
            return false;
        }
        let id = self.next;
        self.next += 1;
        match &mut self.edits {
            None => {
                let (path, role) = (self.path.clone(), self.role.map(role));
                self.texts.push(types::Text { id, kind, role, path, text: std::mem::take(text) });
                false
            }
            Some(edits) => match edits.remove(&id) {
                Some(new) if new != *text => {
                    *text = new;
                    true
                }
                _ => false,
            },
        }
    }

    fn optional(&mut self, kind: TextKind, step: &str, text: &mut Option<String>) -> bool {
        match text {
            Some(text) => self.at(step, |walk| walk.text(kind, text)),
            None => false,
        }
    }

    fn miss(&mut self, kind: &str) {
        if self.edits.is_none() {
            self.unread.push(Unread { kind: kind.to_owned(), path: self.path.clone() });
        }
    }

    fn json(&mut self, kind: TextKind, value: &mut Value, keys: bool) -> bool {
        match value {
            Value::String(text) => self.text(kind, text),
            Value::Number(number) => {
                let mut text = number.to_string();
                if text.bytes().filter(u8::is_ascii_digit).count() < LONG_NUMBER {
                    return false;
                }
                let changed = self.text(TextKind::Number, &mut text);
                if changed {
                    *value = Value::String(text);
                }
                changed
            }
            Value::Array(items) => items.iter_mut().enumerate().fold(false, |changed, (n, item)| {
                self.at(&format!("[{n}]"), |walk| walk.json(kind.clone(), item, keys)) | changed
            }),
            Value::Object(fields) => self.object(kind, fields, keys),
            Value::Null | Value::Bool(_) => false,
        }
    }

    fn object(&mut self, kind: TextKind, fields: &mut Map<String, Value>, keys: bool) -> bool {
        let mut changed = false;
        let mut renamed = Vec::new();
        for (key, value) in fields.iter_mut() {
            if keys {
                let mut name = key.clone();
                if self.at(key, |walk| walk.text(TextKind::Key, &mut name)) {
                    renamed.push((key.clone(), name));
                }
            }
            changed |= self.at(key, |walk| walk.json(kind.clone(), value, keys));
        }
        if renamed.is_empty() {
            return changed;
        }
        let new_name = |key: String| {
            let found = renamed.iter().find(|(old, _)| *old == key).map(|(_, new)| new.clone());
            found.unwrap_or(key)
        };
        *fields = std::mem::take(fields).into_iter().map(|(key, value)| (new_name(key), value)).collect();
        true
    }

    fn extra(&mut self, extra: &mut Extra) -> bool {
        match extra.any_mut() {
            Some(fields) => self.object(TextKind::Extra, fields, true),
            None => false,
        }
    }

    /// JSON in a string, or any other text.
    fn arguments(&mut self, arguments: &mut String) -> bool {
        let parsed = if arguments.trim_start().starts_with(['{', '[', '"']) {
            serde_json::from_str::<Value>(arguments).ok()
        } else {
            None
        };
        let Some(mut value) = parsed else { return self.text(TextKind::Arguments, arguments) };
        let changed = self.json(TextKind::Arguments, &mut value, true);
        if changed {
            *arguments = value.to_string();
        }
        changed
    }

    fn part(&mut self, part: &mut Part) -> bool {
        match part {
            Part::Text(text) => {
                let changed = self.text(TextKind::Message, &mut text.text);
                let cited = text.citations.iter_mut().fold(false, |changed, one| self.citation(one) | changed);
                self.extra(&mut text.extra) | cited | changed
            }
            Part::Refusal(text) => self.text(TextKind::Refusal, text),
            Part::Reasoning(reasoning) => {
                if reasoning.sealed.is_some() {
                    self.miss("sealed_reasoning");
                }
                // Told apart, because a change keeps the signature: it is for stages that put back what was signed.
                let kind = match reasoning.signature {
                    Some(_) => TextKind::Other("signed_reasoning".to_owned()),
                    None => TextKind::Reasoning,
                };
                let changed = self.text(kind, &mut reasoning.text);
                self.extra(&mut reasoning.extra) | changed
            }
            Part::Media(media) => self.media(media),
            Part::ToolCall(call) => {
                let changed = self.at("arguments", |walk| match call.kind {
                    ToolKind::Function => walk.arguments(&mut call.arguments),
                    ToolKind::Custom => walk.text(TextKind::Arguments, &mut call.arguments),
                });
                self.extra(&mut call.extra) | changed
            }
            Part::ToolResult(result) => {
                let mut changed = false;
                for (n, part) in result.parts.iter_mut().enumerate() {
                    changed |= self.at(&format!("parts[{n}]"), |walk| match part {
                        Part::Text(text) => {
                            let changed = walk.text(TextKind::Result, &mut text.text);
                            walk.extra(&mut text.extra) | changed
                        }
                        other => walk.part(other),
                    });
                }
                // The same in the shape that the wire had: whoever changes one is shown the other.
                if let Some(object) = &mut result.object {
                    changed |= self.at("object", |walk| walk.object(TextKind::Result, object, true));
                }
                self.extra(&mut result.extra) | changed
            }
            Part::Native { kind: _, value, format: _ } => self.json(TextKind::Extra, value, true),
        }
    }

    fn citation(&mut self, citation: &mut Citation) -> bool {
        let Citation { url, title, file, cited_text, start: _, end: _, native } = citation;
        let mut changed = self.optional(TextKind::Extra, "citation.url", url);
        changed |= self.optional(TextKind::Extra, "citation.title", title);
        changed |= self.optional(TextKind::Extra, "citation.file", file);
        changed |= self.optional(TextKind::Extra, "citation.text", cited_text);
        if let Some((_, value)) = native {
            changed |= self.at("citation", |walk| walk.json(TextKind::Extra, value, false));
        }
        changed
    }

    fn media(&mut self, media: &mut Media) -> bool {
        let mut changed = self.optional(TextKind::Document, "name", &mut media.name);
        changed |= self.optional(TextKind::Document, "context", &mut media.context);
        match &mut media.source {
            MediaSource::Text(text) => changed |= self.at("text", |walk| walk.text(TextKind::Document, text)),
            MediaSource::Parts(parts) => {
                for (n, part) in parts.iter_mut().enumerate() {
                    changed |= self.at(&format!("parts[{n}]"), |walk| walk.part(part));
                }
            }
            MediaSource::Base64(_) | MediaSource::Url(_) | MediaSource::File { .. } => self.miss(match media.kind {
                MediaKind::Image => "image",
                MediaKind::Document => "document",
                MediaKind::Audio => "audio",
                MediaKind::Video => "video",
            }),
        }
        self.extra(&mut media.extra) | changed
    }

    fn tools(&mut self, tools: &mut [Tool]) -> bool {
        let mut changed = false;
        for (n, tool) in tools.iter_mut().enumerate() {
            changed |= self.at(&format!("tools[{n}]"), |walk| match tool {
                Tool::Function(Function { description, parameters, extra, .. }) => {
                    let mut changed = walk.optional(TextKind::Tool, "description", description);
                    if let Some(schema) = parameters {
                        changed |= walk.at("parameters", |walk| walk.json(TextKind::Tool, schema, false));
                    }
                    walk.extra(extra) | changed
                }
                Tool::Hosted { value, .. } => walk.json(TextKind::Tool, value, false),
            });
        }
        changed
    }
}

/// Digits of a number that is worth a look: an account, a card, a telephone.
const LONG_NUMBER: usize = 7;

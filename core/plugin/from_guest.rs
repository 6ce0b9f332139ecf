//! What a guest gave back, as changes to what the gateway holds. Every value is doubted: what makes no sense is an error
//! in words that hold no text of the request.

use std::collections::BTreeMap;

use http::HeaderMap;
use serde_json::Value;

use super::{
    bind::types::{self, AnswerEdit, Edit, NewEvent, PartKind},
    texts, to_guest,
};
use crate::{
    codec::{Field, document::Document},
    error::Error,
    model::{
        Choice, Extra, Finish, FinishReason, Message, Operation, Part, Reasoning, Request, Response, Role, Text, Tool,
        ToolCall, ToolKind, ToolResult, Usage,
    },
    pipeline::{effects::set_header, parts::New},
};

/// What went wrong with a guest's changes.
#[derive(Debug)]
pub enum Wrong {
    /// The guest's fault.
    Guest(String),
    /// The caller's body cannot be read.
    Caller(Error),
}

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        Wrong::Guest(message)
    }
}

impl From<&str> for Wrong {
    fn from(message: &str) -> Self {
        Wrong::Guest(message.to_owned())
    }
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Self {
        Wrong::Caller(error)
    }
}

/// Changes to the request, in the guest's order; texts first, because their numbers are those of the request it saw. All
/// of them or none. `headers`: in the phase `attempt`.
pub fn edit_request(
    edits: Vec<Edit>,
    operation: Operation,
    doc: &mut Document,
    headers: Option<&mut HeaderMap>,
) -> Result<(), Wrong> {
    if edits.len() > MAX_EDITS {
        return Err(format!("it made {} changes; {MAX_EDITS} are allowed", edits.len()).into());
    }
    let (mut new_doc, mut new_headers) = (doc.clone(), headers.as_deref().cloned());
    edit_copy(edits, operation, &mut new_doc, new_headers.as_mut())?;
    *doc = new_doc;
    if let (Some(headers), Some(new)) = (headers, new_headers) {
        *headers = new;
    }
    Ok(())
}

fn edit_copy(
    edits: Vec<Edit>,
    operation: Operation,
    doc: &mut Document,
    mut headers: Option<&mut HeaderMap>,
) -> Result<(), Wrong> {
    let mut new_texts = BTreeMap::new();
    let mut others = Vec::new();
    for edit in edits {
        match edit {
            Edit::Text((id, text)) => drop(new_texts.insert(id, text)),
            other => others.push(other),
        }
    }
    if !new_texts.is_empty() {
        texts::to_request(doc, operation, new_texts).map_err(|wrong| match wrong {
            Ok(message) => Wrong::Guest(message),
            Err(error) => Wrong::Caller(error),
        })?;
    }
    for edit in others {
        one_edit(edit, doc, headers.as_deref_mut())?;
    }
    Ok(())
}

fn one_edit(edit: Edit, doc: &mut Document, headers: Option<&mut HeaderMap>) -> Result<(), Wrong> {
    match edit {
        Edit::Model(name) if name.is_empty() || name.len() > MAX_NAME => {
            return Err("it set a model without a usable name".into());
        }
        Edit::Model(name) => doc.set_model(&name),
        Edit::Temperature(value) => doc.edit(Field::Sampling)?.sampling.temperature = finite(value)?,
        Edit::TopP(value) => doc.edit(Field::Sampling)?.sampling.top_p = finite(value)?,
        Edit::MaxTokens(value) => doc.edit(Field::MaxTokens)?.max_tokens = value,
        Edit::System(text) => {
            let request = doc.edit(Field::Messages)?;
            let leading = |m: &&Message| matches!(m.role, Role::System | Role::Developer);
            let count = request.messages.iter().take_while(leading).count();
            let role = request.messages.first().filter(|_| count > 0).map_or(Role::System, |m| m.role);
            request.messages.splice(..count, text.map(|text| Message::text(role, text)));
        }
        Edit::Messages(list) => {
            let new = messages(list, doc.request()?)?;
            doc.edit(Field::Messages)?.messages = new;
        }
        Edit::KeepTools(names) => {
            let named = |tool: &Tool| match tool {
                Tool::Function(function) => names.contains(&function.name),
                Tool::Hosted { kind, .. } => names.contains(kind),
            };
            if !doc.request()?.tools.iter().all(named) {
                doc.edit(Field::Tools)?.tools.retain(named);
            }
        }
        Edit::Metadata((name, value)) => {
            let metadata = &mut doc.edit(Field::Metadata)?.metadata;
            match value {
                Some(value) => drop(metadata.insert(name, Value::String(value))),
                None => drop(metadata.shift_remove(&name)),
            }
        }
        Edit::Header((name, value)) => {
            let headers = headers.ok_or("headers can be set in the phase attempt, for the target at hand")?;
            set_header(headers, &name, value.as_deref())?;
        }
        // Done before.
        Edit::Text(_) => {}
        Edit::Other(_) => return Err("it made a change that this gateway does not know".into()),
    }
    Ok(())
}

fn finite(value: Option<f64>) -> Result<Option<f64>, Wrong> {
    if value.is_some_and(|v| !v.is_finite()) {
        return Err("it set a parameter that is no number".into());
    }
    Ok(value)
}

/// All turns anew: what a turn or piece was made from is kept where its record shows no change.
fn messages(list: Vec<types::Message>, request: &Request) -> Result<Vec<Message>, Wrong> {
    let pieces: Vec<&Part> = request.messages.iter().flat_map(|m| &m.parts).collect();
    let mut out = Vec::with_capacity(list.len());
    for types::Message { origin, role, name, parts: new } in list {
        let mut message = match origin {
            Some(at) => {
                let old = request.messages.get(at as usize).ok_or("it kept a message that there is not")?;
                Message { parts: Vec::new(), extra: old.extra.clone(), ..Message::new(old.role, Vec::new()) }
            }
            None => Message::new(Role::User, Vec::new()),
        };
        message.role = self::role(&role)?;
        message.name = name;
        message.parts = parts(new, &pieces)?;
        out.push(message);
    }
    Ok(out)
}

fn role(role: &types::Role) -> Result<Role, Wrong> {
    Ok(match role {
        types::Role::System => Role::System,
        types::Role::Developer => Role::Developer,
        types::Role::User => Role::User,
        types::Role::Assistant => Role::Assistant,
        types::Role::Tool => Role::Tool,
        types::Role::Other(_) => return Err("it made a message of an unknown role".into()),
    })
}

fn parts(list: Vec<types::Part>, old: &[&Part]) -> Result<Vec<Part>, Wrong> {
    list.into_iter()
        .map(|new| match new.origin {
            Some(at) => {
                let old = old.get(at as usize).ok_or("it kept a part that there is not")?;
                changed((*old).clone(), new)
            }
            None => made(new),
        })
        .collect()
}

/// A known piece with what the record changed of it.
fn changed(mut part: Part, new: types::Part) -> Result<Part, Wrong> {
    let shown = to_guest::part(&part);
    if new.kind != shown.kind {
        return Err("it gave a part another kind than it has".into());
    }
    if let Some(text) = new.text.filter(|text| shown.text.as_ref() != Some(text)) {
        match &mut part {
            // Citations point into the old text.
            Part::Text(old) => *old = Text { text, cache: old.cache.take(), ..Text::default() },
            Part::Refusal(old) => *old = text,
            Part::Reasoning(old) => {
                old.text = text;
                old.signature = None;
            }
            Part::ToolResult(old) => {
                old.parts.retain(|part| !matches!(part, Part::Text(_)));
                old.parts.insert(0, Part::text(text));
                old.object = None;
            }
            Part::Media(_) | Part::ToolCall(_) | Part::Native { .. } => {
                return Err("it set the text of a part that has none to set (use edit.text)".into());
            }
        }
    }
    if let Part::ToolCall(call) = &mut part {
        if let Some(name) = new.name {
            call.name = name;
        }
        if let Some(arguments) = new.arguments {
            call.arguments = arguments;
        }
    }
    Ok(part)
}

fn made(new: types::Part) -> Result<Part, Wrong> {
    let types::Part { origin: _, kind, text, call_id, name, arguments, mime: _ } = new;
    let text = |what: &str| text.ok_or_else(|| Wrong::Guest(format!("it made a part of kind {what} without text")));
    Ok(match kind {
        PartKind::Text => Part::text(text("text")?),
        PartKind::Refusal => Part::Refusal(text("refusal")?),
        PartKind::Reasoning => Part::Reasoning(Reasoning { text: text("reasoning")?, ..Reasoning::default() }),
        PartKind::ToolCall => Part::ToolCall(ToolCall {
            id: call_id.unwrap_or_default(),
            name: name.filter(|name| !name.is_empty()).ok_or("it made a tool call without a name")?,
            kind: ToolKind::Function,
            arguments: arguments.unwrap_or_default(),
            signature: None,
            cache: None,
            extra: Extra::default(),
        }),
        PartKind::ToolResult => Part::ToolResult(ToolResult {
            call_id: call_id.ok_or("it made a tool result without a call id")?,
            name,
            kind: ToolKind::Function,
            parts: vec![Part::text(text("tool-result")?)],
            object: None,
            is_error: None,
            cache: None,
            extra: Extra::default(),
        }),
        PartKind::Image | PartKind::Document | PartKind::Audio | PartKind::Video | PartKind::Other(_) => {
            return Err("it made a part of a kind that can only be kept".into());
        }
    })
}

pub fn edit_response(edits: Vec<AnswerEdit>, response: &mut Response) -> Result<(), Wrong> {
    if edits.len() > MAX_EDITS {
        return Err(format!("it made {} changes; {MAX_EDITS} are allowed", edits.len()).into());
    }
    let old = response.clone();
    let pieces: Vec<&Part> = old.choices.iter().flat_map(|c| &c.parts).collect();
    let mut new_texts = BTreeMap::new();
    let mut others = Vec::new();
    for edit in edits {
        match edit {
            AnswerEdit::Text((id, text)) => drop(new_texts.insert(id, text)),
            other => others.push(other),
        }
    }
    if !new_texts.is_empty() {
        texts::to_response(response, new_texts)?;
    }
    for edit in others {
        let (index, edit) = match edit {
            AnswerEdit::Parts((index, list)) => (index, Ok(parts(list, &pieces)?)),
            AnswerEdit::FinishReason((index, reason)) => (index, Err(finish(reason)?)),
            AnswerEdit::Text(_) => continue,
            AnswerEdit::Other(_) => return Err("it made a change that this gateway does not know".into()),
        };
        let choice = response.choices.iter_mut().find(|c| c.index == index);
        let choice = choice.ok_or("it changed a choice that there is not")?;
        match edit {
            Ok(parts) => choice.parts = parts,
            Err(finish) => choice.finish = Some(finish),
        }
    }
    Ok(())
}

/// An answer of the guest's own.
pub fn reply(reply: types::Reply) -> Result<Box<Response>, Wrong> {
    let types::Reply { model, parts: list, finish_reason, usage } = reply;
    let parts = parts(list, &[])?;
    let calls = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    let plain = if calls { FinishReason::ToolCalls } else { FinishReason::Stop };
    let finish = match finish_reason {
        Some(reason) => finish(reason)?,
        None => Finish::new(plain, plain.name()),
    };
    let usage = usage.map(|u| Usage {
        input_tokens: u.input_tokens,
        output_tokens: u.output_tokens,
        cache_read_tokens: u.cache_read_tokens,
        cache_write_tokens: u.cache_write_tokens,
        reasoning_tokens: u.reasoning_tokens,
        ..Usage::default()
    });
    let choice = Choice { index: 0, parts, finish: Some(finish), ..Choice::default() };
    Ok(Box::new(Response { model: model.unwrap_or_default(), choices: vec![choice], usage, ..Response::default() }))
}

fn finish(reason: types::FinishReason) -> Result<Finish, Wrong> {
    let reason = match reason {
        types::FinishReason::Stop => FinishReason::Stop,
        types::FinishReason::Length => FinishReason::Length,
        types::FinishReason::ToolCalls => FinishReason::ToolCalls,
        types::FinishReason::ContentFilter => FinishReason::ContentFilter,
        types::FinishReason::Malformed => FinishReason::Malformed,
        types::FinishReason::Other(_) => return Err("it gave a finish reason that there is not".into()),
    };
    Ok(Finish::new(reason, reason.name()))
}

/// `None`: the event itself.
pub fn new_event(event: NewEvent) -> Result<Option<New>, Wrong> {
    let text = |kind: &str, text: String| Ok(Some(New::Text(kind.to_owned(), Some(text))));
    match event {
        NewEvent::Same => Ok(None),
        NewEvent::Text(body) => text("text", body),
        NewEvent::Reasoning(body) => text("reasoning", body),
        NewEvent::Refusal(body) => text("refusal", body),
        NewEvent::ToolArguments(body) => text("tool_arguments", body),
        NewEvent::ToolCall(types::NewCall { call_id, name, arguments }) if !name.is_empty() => {
            Ok(Some(New::Call { id: call_id.unwrap_or_default(), name, arguments }))
        }
        NewEvent::ToolCall(_) => Err("it made a tool call without a name".into()),
        NewEvent::Other(_) => Err("it made an event that this gateway does not know".into()),
    }
}

/// A refusal's status and text.
pub fn refusal(refusal: types::Refusal) -> Result<(u16, String), Wrong> {
    Ok((status(refusal.status)?, refusal.message))
}

pub fn edit_error(edit: types::FailureEdit, error: &mut Error) -> Result<(), Wrong> {
    if let Some(new) = edit.status {
        error.status = Some(status(new)?);
    }
    if let Some(message) = edit.message {
        error.message = message;
        forget_upstream(error);
    }
    Ok(())
}

/// The caller reads the new words, not the upstream's own.
fn forget_upstream(error: &mut Error) {
    if let Some(upstream) = &mut error.upstream {
        upstream.body = None;
    }
}

fn status(status: u16) -> Result<u16, Wrong> {
    match status {
        400..=599 => Ok(status),
        _ => Err(format!("it gave the status {status}; 400 to 599 are errors").into()),
    }
}

pub fn tags(new: Vec<(String, String)>, tags: &mut Vec<(String, String)>) -> Result<(), Wrong> {
    let long = |(name, value): &(String, String)| name.is_empty() || name.len() > 64 || value.len() > 256;
    if new.iter().any(long) {
        return Err("it made a tag without a name, or longer than 64 and 256 characters".into());
    }
    for (name, value) in new {
        match tags.iter().position(|(known, _)| *known == name) {
            Some(at) => tags[at].1 = value,
            None if tags.len() < MAX_TAGS => tags.push((name, value)),
            None => return Err(format!("a record may have {MAX_TAGS} tags").into()),
        }
    }
    Ok(())
}

const MAX_EDITS: usize = 100_000;
const MAX_NAME: usize = 256;
const MAX_TAGS: usize = 64;

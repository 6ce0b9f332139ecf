//! `request`: a view of the caller's request. Reading decodes no more than it must; writing goes through
//! `Document::edit`, so that an upstream of the same format gets the caller's bytes with just that field patched.

use std::sync::Arc;

use rhai::{Array, Dynamic, EvalAltResult, ImmutableString, Map, Position};

use super::{
    convert,
    desk::{Desk, Fail, fail},
    part_view::{MessageView, message},
    reference::Registrar,
};
use crate::{
    codec::Field,
    model::{Extra, Message, Part, Role, Tool, tool::Function},
    pipeline::{Phase, effects},
};

#[derive(Clone)]
pub struct RequestView(pub Arc<Desk>);

#[derive(Clone)]
pub struct HeadersView(Arc<Desk>);

/// `request.fields`
#[derive(Clone)]
struct FieldsView(Arc<Desk>);

pub fn register(r: &mut Registrar<'_>) {
    r.kind::<RequestView>(
        "Request",
        "The caller's request. It can be changed in `fn request` (for good) and in `fn attempt` (for this target).",
    );
    facts(r);
    super::knob_view::register(r);
    contents(r);
    fields(r);
    super::search_view::register(r);
    headers(r);
}

fn facts(r: &mut Registrar<'_>) {
    r.both::<RequestView>(
        "model",
        "the name the caller asked for; setting it in fn request routes by the new name",
        |v| v.0.doc(|doc| Ok(doc.model().into())),
        |v, value| {
            let name = string("model", value)?;
            if name.is_empty() {
                return Err(fail("request.model cannot be empty"));
            }
            if v.0.with(|lent| lent.phase) != Some(Phase::Request) {
                return Err(fail("request.model can be set in fn request; in fn route return the name"));
            }
            v.0.doc(|doc| {
                doc.set_model(&name);
                Ok(())
            })?;
            v.0.with(|lent| lent.changed = true);
            Ok(())
        },
    );
    r.get::<RequestView>("operation", "chat, embeddings or count_tokens", |v| v.0.cx(|cx| cx.operation.name().into()));
    r.get::<RequestView>(
        "format",
        "the caller's wire format: openai_chat, anthropic_messages, gemini, bedrock_converse, cohere or ollama",
        |v| v.0.doc(|doc| Ok(doc.format().name().into())),
    );
    r.get::<RequestView>("stream", "true: the answer is to be streamed", |v| v.0.doc(|doc| Ok(doc.stream().into())));
    r.get::<RequestView>(
        "session",
        "what ties requests together: the caller's tag `session`, its prompt cache key, its session or user id; or ()",
        |v| {
            let tagged = v.0.cx(|cx| cx.tags.iter().find(|(name, _)| name == "session").map(|(_, id)| id.clone()))?;
            let said = v.0.request(|request| {
                let text = |map: &serde_json::Map<String, serde_json::Value>, key: &str| {
                    map.get(key).and_then(|v| v.as_str()).filter(|s| !s.is_empty()).map(str::to_owned)
                };
                let extra = request.extra.any().and_then(|(_, fields)| text(fields, "prompt_cache_key"));
                let own = ["session_id", "conversation_id"].iter().find_map(|key| text(&request.metadata, key));
                extra.or(own).or_else(|| request.user.clone())
            })?;
            Ok(tagged.or(said).map_or(Dynamic::UNIT, Dynamic::from))
        },
    );
    r.get::<RequestView>("input_tokens", "an estimate from the length of the text", |v| {
        v.0.doc(|doc| Ok(convert::int(tokens(doc.text_bytes(), doc))))
    });
    r.get::<RequestView>("has_images", "true: there is an image in a message", |v| {
        if !v.0.doc(|doc| Ok(doc.has_media() || doc.is_decoded()))? {
            return Ok(false.into());
        }
        v.0.request(|request| request.messages.iter().any(|m| m.parts.iter().any(is_image)).into())
    });
}

/// Four bytes a token; for requests made here, from the text itself.
fn tokens(bytes: u64, doc: &mut crate::codec::document::Document) -> u64 {
    if bytes > 0 || !doc.bytes().is_empty() {
        return bytes.div_ceil(4);
    }
    let text =
        |m: &Message| m.parts.iter().map(|p| if let Part::Text(t) = p { t.text.len() as u64 } else { 0 }).sum::<u64>();
    doc.request().map_or(0, |request| request.messages.iter().map(text).sum::<u64>()).div_ceil(4)
}

fn is_image(part: &Part) -> bool {
    match part {
        Part::Media(media) => media.kind == crate::model::MediaKind::Image,
        Part::ToolResult(result) => result.parts.iter().any(is_image),
        _ => false,
    }
}

fn contents(r: &mut Registrar<'_>) {
    r.both::<RequestView>(
        "system",
        "the system prompt: the leading system turns, joined; () when there is none",
        |v| {
            v.0.request(|request| {
                let texts: Vec<String> = leading_system(&request.messages).iter().map(Message::joined_text).collect();
                if texts.is_empty() { Dynamic::UNIT } else { texts.join("\n").into() }
            })
        },
        |v, value| {
            let text = optional(&value, "system", convert::text)?;
            v.0.edit(Field::Messages, |request| {
                let count = leading_system(&request.messages).len();
                let role = request.messages.first().filter(|_| count > 0).map_or(Role::System, |m| m.role);
                let new = text.map(|text| Message::text(role, text));
                request.messages.splice(..count, new);
                Ok(())
            })?;
            v.0.with(|lent| lent.generation += 1);
            Ok(())
        },
    );
    r.both::<RequestView>(
        "messages",
        "all turns as an array of messages; set it to an array of messages and maps such as `#{ role: \"user\", content: \"hi\" }`",
        |v| {
            let generation = v.0.with(|lent| lent.generation);
            let count = v.0.request(|request| request.messages.len())?;
            let view = |at| Dynamic::from(MessageView { desk: v.0.clone(), at, generation });
            Ok((0..count).map(view).collect::<Array>().into())
        },
        |v, value| set_messages(&v.0, value),
    );
    r.get::<RequestView>("last_user_text", "the text of the last user turn that has one", |v| {
        Ok(last_user_text(&v.0)?.into())
    });
    r.both::<RequestView>(
        "tools",
        "the tools on offer as maps with name, description and parameters; set it to an array: tools can be left out, changed and added (`request.tools.push(#{ name: \"clock\", description: \"…\", parameters: #{…} })`)",
        |v| v.0.request(|request| request.tools.iter().map(tool).collect::<Array>().into()),
        |v, value| set_tools(&v.0, &value),
    );
}

/// Top-level fields that have no name of their own here.
fn fields(r: &mut Registrar<'_>) {
    r.object(
        "Request (other fields)",
        "`request.fields[\"modalities\"]`: a field of the caller's own format that has no name of its own above, as plain values. It goes to targets of that format only.",
    );
    r.engine.register_type_with_name::<FieldsView>("Fields");
    r.part("Request", "fields", |v: &RequestView| FieldsView(v.0.clone()));
    r.tell("fields[name]", "its value, () when absent; can be set, and taken out with ()");
    r.engine.register_indexer_get(|v: &mut FieldsView, name: &str| -> Result<Dynamic, Fail> {
        v.0.request(|request| {
            let found = request.extra.any().and_then(|(_, fields)| fields.get(name));
            found.map_or(Dynamic::UNIT, convert::from_json)
        })
    });
    r.engine.register_indexer_set(|v: &mut FieldsView, name: &str, value: Dynamic| -> Result<(), Fail> {
        let value = json("request.fields", &value)?;
        let same = |request: &crate::model::Request| {
            request.extra.any().and_then(|(_, fields)| fields.get(name)).unwrap_or(&serde_json::Value::Null) == &value
        };
        v.0.may_edit()?;
        if v.0.request(same)? {
            return Ok(());
        }
        let done = v.0.doc(|doc| doc.set_field(name, value.clone()))?;
        v.0.with(|lent| lent.changed = true);
        done.map_err(fail)
    });
}

fn leading_system(messages: &[Message]) -> &[Message] {
    let count = messages.iter().take_while(|m| matches!(m.role, Role::System | Role::Developer)).count();
    &messages[..count]
}

fn set_messages(desk: &Arc<Desk>, value: Dynamic) -> Result<(), Fail> {
    let list = value.into_array().map_err(|kind| fail(format!("request.messages must be an array, not {kind}")))?;
    let generation = desk.with(|lent| lent.generation);
    let mut plan: Vec<Result<usize, Message>> = Vec::with_capacity(list.len());
    for item in list {
        match item.read_lock::<MessageView>() {
            Some(view) if view.generation == generation => plan.push(Ok(view.at)),
            Some(_) => return Err(stale()),
            None => plan.push(Err(message(&item, desk)?)),
        }
    }
    let unchanged = plan.iter().enumerate().all(|(at, item)| matches!(item, Ok(from) if *from == at));
    // Reading an array through a method sets it back unchanged: that is no edit.
    if unchanged && desk.request(|request| request.messages.len())? == plan.len() {
        return Ok(());
    }
    desk.edit(Field::Messages, |request| {
        let old = std::mem::take(&mut request.messages);
        let kept = |at: usize| old.get(at).cloned().ok_or_else(stale);
        request.messages = plan.into_iter().map(|item| item.map_or_else(Ok, kept)).collect::<Result<_, _>>()?;
        Ok(())
    })?;
    desk.with(|lent| lent.generation += 1);
    Ok(())
}

pub fn stale() -> Fail {
    fail("this message was read before request.messages was changed: read it again")
}

fn tool(tool: &Tool) -> Dynamic {
    let mut map = Map::new();
    match tool {
        Tool::Function(function) => {
            map.insert("name".into(), function.name.as_str().into());
            map.insert("description".into(), function.description.as_deref().map_or(Dynamic::UNIT, convert::str));
            map.insert("parameters".into(), function.parameters.as_ref().map_or(Dynamic::UNIT, convert::from_json));
            map.insert("hosted".into(), false.into());
        }
        Tool::Hosted { kind, .. } => {
            map.insert("name".into(), kind.as_str().into());
            map.insert("hosted".into(), true.into());
        }
    }
    map.into()
}

/// Tools that the caller wrote are kept as they are but for what is set on them; others are new.
fn set_tools(desk: &Arc<Desk>, value: &Dynamic) -> Result<(), Fail> {
    let list = value.as_array_ref().map_err(|kind| fail(format!("request.tools must be an array, not {kind}")))?;
    let old = desk.request(|request| request.tools.clone())?;
    let mut new: Vec<Tool> = Vec::with_capacity(list.len());
    for item in list.iter() {
        let map = item.as_map_ref().map_err(|_| fail("request.tools holds maps with name, description, parameters"))?;
        let name = map.get("name").and_then(convert::text).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| fail("a tool needs a name"))?;
        if new.iter().any(|t| tool_name(t) == name) {
            return Err(fail("request.tools has two tools of one name"));
        }
        let found = old.iter().find(|t| tool_name(t) == name).cloned();
        new.push(written_tool(found, name, &map)?);
    }
    if new == old {
        return Ok(());
    }
    desk.edit(Field::Tools, |request| {
        request.tools = new;
        Ok(())
    })
}

fn written_tool(old: Option<Tool>, name: String, map: &Map) -> Result<Tool, Fail> {
    let mut function = match old {
        Some(Tool::Function(function)) => function,
        // What a provider runs itself stays in its words.
        Some(hosted) => return Ok(hosted),
        None => {
            let known = |key: &str| matches!(key, "name" | "description" | "parameters" | "strict" | "hosted");
            if map.keys().any(|key| !known(key)) || map.get("hosted").is_some_and(|v| v.as_bool() == Ok(true)) {
                return Err(fail("a new tool has name, description, parameters and strict, and nothing else"));
            }
            Function {
                name,
                description: None,
                parameters: None,
                strict: map.get("strict").and_then(|v| v.as_bool().ok()),
                custom: false,
                cache: None,
                extra: Extra::default(),
            }
        }
    };
    if let Some(text) = map.get("description") {
        function.description = optional(text, "tools: description", convert::text)?;
    }
    if let Some(value) = map.get("parameters") {
        let new = json("request.tools: parameters", value)?;
        match new {
            serde_json::Value::Null => function.parameters = None,
            serde_json::Value::Object(_) => {
                // Read and written back it is the same schema: the caller's own numbers stay.
                if function
                    .parameters
                    .as_ref()
                    .is_none_or(|old| convert::from_json(old).to_string() != value.to_string())
                {
                    function.parameters = Some(new);
                }
            }
            _ => return Err(fail("a tool's parameters are a JSON Schema: a map, or ()")),
        }
    }
    Ok(Tool::Function(function))
}

fn tool_name(tool: &Tool) -> &str {
    match tool {
        Tool::Function(function) => &function.name,
        Tool::Hosted { kind, .. } => kind,
    }
}

/// Kept on the desk: a script asks for it many times.
fn last_user_text(desk: &Desk) -> Result<ImmutableString, Fail> {
    if let Some(text) = desk.with(|lent| lent.text.clone()) {
        return Ok(text);
    }
    let text: ImmutableString = desk.doc(|doc| Ok(doc.last_user_text()?.as_ref().into()))?;
    desk.with(|lent| lent.text = Some(text.clone()));
    Ok(text)
}

fn headers(r: &mut Registrar<'_>) {
    r.object("Request (headers)", "`request.headers[\"x-team\"]`, or () when absent. Never credentials or cookies.");
    r.engine.register_type_with_name::<HeadersView>("Headers");
    r.part("Request", "headers", |v: &RequestView| HeadersView(v.0.clone()));
    r.tell(
        "headers[name]",
        "the caller's header; in fn attempt the header as it goes to the target, which can be set (() takes it out)",
    );
    r.engine.register_indexer_get(|v: &mut HeadersView, name: &str| -> Result<Dynamic, Fail> {
        if v.0.with(|lent| lent.phase) == Some(Phase::Attempt) {
            let found = |lent: &mut super::desk::Lent| {
                let headers = lent.headers.as_ref()?;
                if effects::is_private(name) { None } else { headers.get(name)?.to_str().ok().map(convert::str) }
            };
            return Ok(v.0.with(found).unwrap_or(Dynamic::UNIT));
        }
        v.0.cx(|cx| {
            let found = cx.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map_or(Dynamic::UNIT, |(_, value)| value.as_str().into())
        })
    });
    r.engine.register_indexer_set(|v: &mut HeadersView, name: &str, value: Dynamic| set_header(&v.0, name, &value));
    r.tell("headers.keys()", "their names");
    r.engine.register_fn("keys", |v: &mut HeadersView| -> Result<Array, Fail> {
        v.0.cx(|cx| cx.headers.iter().map(|(name, _)| name.as_str().into()).collect())
    });
    r.tell("headers.contains(name)", "is it there?");
    r.engine.register_fn("contains", |v: &mut HeadersView, name: &str| -> Result<bool, Fail> {
        v.0.cx(|cx| cx.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)))
    });
}

fn set_header(desk: &Desk, name: &str, value: &Dynamic) -> Result<(), Fail> {
    let text = convert::text(value);
    if text.is_none() && !value.is_unit() {
        return Err(fail("a header's value must be a string, or () to take it out"));
    }
    desk.with(|lent| {
        let Some(headers) = lent.headers.as_mut().filter(|_| lent.phase == Some(Phase::Attempt)) else {
            return Err(fail("headers can be set in fn attempt, for the target at hand"));
        };
        effects::set_header(headers, name, text.as_deref()).map_err(fail)
    })
}

pub fn string(what: &str, value: Dynamic) -> Result<String, Fail> {
    convert::text(&value).ok_or_else(|| fail(format!("{what} must be a string, not {}", value.type_name())))
}

/// A value, or () for none.
pub fn optional<T>(value: &Dynamic, what: &str, read: impl Fn(&Dynamic) -> Option<T>) -> Result<Option<T>, Fail> {
    if value.is_unit() {
        return Ok(None);
    }
    read(value).map(Some).ok_or_else(|| {
        Box::new(EvalAltResult::ErrorMismatchDataType(
            format!("a value for request.{what}"),
            value.type_name().into(),
            Position::NONE,
        ))
    })
}

pub fn json(what: &str, value: &Dynamic) -> Result<serde_json::Value, Fail> {
    convert::to_json(value).map_err(|kind| fail(format!("{what} cannot hold {kind}")))
}

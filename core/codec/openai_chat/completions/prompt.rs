//! Requests of the legacy completions: the texts of a prompt, and the suffix, are the parts of one user turn, where stages
//! see and change them, and go back into their places for upstreams with that endpoint. Where only a chat is to be had, what
//! a chat cannot do is refused by name, never left out. Answers are elsewhere.

use serde_json::{Map, Value, json};

use crate::{
    codec::{
        Dialect, Encoded, OutputBound,
        json::{Fields, as_u64, missing, parse, wrong_type},
        openai_chat::wire::{F, mark, marked},
    },
    error::{Error, Result},
    model::{Extra, Message, Part, Request, Role},
};

/// `knobs` reads what completions and chats share.
pub fn decode(body: &[u8], knobs: impl Fn(&[u8]) -> Result<Request>) -> Result<Request> {
    let mut f = Fields::new(parse(body)?, "")?;
    let mut texts = Vec::new();
    let slots = f.take("prompt").map(|prompt| emptied(prompt, &mut texts)).transpose()?;
    let suffix = f.string("suffix")?.filter(|text| !text.is_empty());
    // A number here, a switch in a chat.
    let logprobs = f.take("logprobs").filter(|asked| *asked != false);
    let mut map = f.rest_map();
    // Stands for the prompt until it is put there.
    map.insert("messages".to_owned(), json!([{"role": "user", "content": ""}]));
    let mut request = knobs(Value::Object(map).to_string().as_bytes())?;
    for (key, value) in [(SLOTS, slots), (SUFFIX, suffix.as_ref().map(|_| true.into())), ("logprobs", logprobs)] {
        if let Some(value) = value {
            request.extra.insert(F, key, value);
        }
    }
    texts.extend(suffix);
    request.messages = vec![Message::new(Role::User, texts.into_iter().map(Part::text).collect())];
    Ok(request)
}

/// The prompt with null where a text stood; the texts in their order.
fn emptied(prompt: Value, texts: &mut Vec<String>) -> Result<Value> {
    let wrong = |other: &Value| Err(wrong_type("prompt", "a string, a list of them, or tokens", other));
    match prompt {
        Value::String(text) => {
            texts.push(text);
            Ok(Value::Null)
        }
        Value::Array(list) if list.is_empty() => Err(Error::invalid("prompt", "`prompt` is empty; give it a text")),
        Value::Array(list) => {
            let one = |item| match item {
                Value::String(text) => {
                    texts.push(text);
                    Ok(Value::Null)
                }
                tokens @ (Value::Number(_) | Value::Array(_)) => Ok(tokens),
                other => wrong(&other),
            };
            list.into_iter().map(one).collect::<Result<_>>().map(Value::Array)
        }
        other => wrong(&other),
    }
}

/// For an upstream with this endpoint. `knobs` writes what completions and chats share.
pub fn encode(
    request: &Request,
    dialect: &Dialect,
    knobs: impl Fn(&Request, &Dialect) -> Result<Encoded>,
) -> Result<Encoded> {
    let mut texts = texts(request)?;
    let bare = Request { messages: Vec::new(), ..request.clone() };
    let mut encoded = knobs(&bare, dialect)?;
    encoded.body.shift_remove("messages");
    let suffix = if marked(&request.extra, SUFFIX) { texts.pop() } else { None };
    let prompt = match mark(&request.extra, SLOTS) {
        None if texts.is_empty() => None,
        // One text: what stages put beside it belongs to it.
        None | Some(Value::Null) => Some(Value::from(texts.join("\n"))),
        Some(slots) => Some(filled(slots, texts)?),
    };
    for (key, value) in [("prompt", prompt), ("suffix", suffix.map(Value::from))] {
        if let Some(value) = value {
            encoded.body.insert(key.to_owned(), value);
        }
    }
    Ok(encoded)
}

fn texts(request: &Request) -> Result<Vec<String>> {
    let Request { messages, .. } = request;
    let mut texts = Vec::new();
    for message in messages {
        for part in &message.parts {
            match part {
                Part::Text(text) if message.role == Role::User => texts.push(text.text.clone()),
                _ => {
                    let text = "a completion has room for a prompt's text only, not for other turns or media; choose a \
                                chat model";
                    return Err(Error::unsupported("messages", text));
                }
            }
        }
    }
    Ok(texts)
}

fn filled(slots: &Value, texts: Vec<String>) -> Result<Value> {
    let changed = || Error::unsupported("messages", "a stage changed how many prompts there are; leave their number");
    let mut texts = texts.into_iter();
    let mut filled = slots.clone();
    for slot in filled.as_array_mut().into_iter().flatten().filter(|slot| slot.is_null()) {
        *slot = texts.next().ok_or_else(changed)?.into();
    }
    if texts.next().is_some() { Err(changed()) } else { Ok(filled) }
}

/// The chat that asks the same.
pub fn as_chat(request: &Request) -> Result<Request> {
    let said = |key: &str| mark(&request.extra, key);
    let most = |key: &str| said(key).and_then(Value::as_number).and_then(as_u64);
    for (feature, asked) in [
        ("suffix", said(SUFFIX).is_some()),
        ("echo", said("echo").is_some_and(|v| *v != false)),
        ("logprobs", said("logprobs").is_some()),
        ("best_of", most("best_of").is_some_and(|n| n > 1)),
    ] {
        if asked {
            let text = format!(
                "this completion would be answered by a chat, which has no `{feature}`; leave it out, or choose a provider \
                 with that endpoint"
            );
            return Err(Error::unsupported(feature, text));
        }
    }
    match said(SLOTS) {
        None => return Err(missing("prompt")),
        Some(Value::Array(list)) if !list.iter().all(Value::is_null) => {
            let text = "a prompt of tokens means another model's alphabet; send its text";
            return Err(Error::unsupported("prompt_tokens", text));
        }
        Some(Value::Array(list)) if list.len() > 1 => {
            return Err(Error::unsupported("prompt_list", "a chat answers one prompt a request; send them one by one"));
        }
        Some(_) => {}
    }
    let mut fields: Map<String, Value> = request.extra.of(F).cloned().unwrap_or_default();
    for key in [SLOTS, "echo", "best_of"] {
        fields.shift_remove(key);
    }
    Ok(Request { extra: Extra::new(F, fields), ..request.clone() })
}

/// A completion makes an answer for each of its prompts, and may make more of which it shows some.
pub fn output_bound(field: &dyn Fn(&str) -> Option<Value>) -> OutputBound {
    let number = |name: &str| field(name).as_ref().and_then(Value::as_u64);
    // Who sends both is bound by one of them: servers differ in which.
    let tokens = number("max_completion_tokens").into_iter().chain(number("max_tokens")).max();
    let each = number("n").unwrap_or(1).max(number("best_of").unwrap_or(1));
    let prompts = match field("prompt") {
        Some(Value::Array(list)) if !list.iter().any(Value::is_number) => list.len() as u64,
        _ => 1,
    };
    OutputBound { tokens, choices: each.saturating_mul(prompts.max(1)) }
}

/// What the prompt was but for its texts.
const SLOTS: &str = "$prompt";
/// The last text is the suffix.
const SUFFIX: &str = "$suffix";

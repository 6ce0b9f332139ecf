//! The legacy completions of this vendor, for clients only: a prompt is one user turn, the answer's text comes back under
//! `text`. What a chat cannot do (a suffix, an echo, tokens for a prompt) is refused by name, never left out.

use serde_json::{Map, Value, json};

use super::{
    response::write_finish,
    wire::{plain, usage_value},
};
use crate::{
    codec::{
        ClientView, StreamEncoder,
        json::{Fields, as_u64, missing, wrong_type},
        sse, written,
    },
    error::{Error, Result},
    model::{Choice, Delta, Event, Finish, Message, Part, PartStart, Request, Response, Role, Start, Usage},
};

/// The body as a chat. `knobs` reads what completions and chats share.
pub fn decode(body: &[u8], knobs: impl Fn(&[u8]) -> Result<Request>) -> Result<Request> {
    let mut f = Fields::new(crate::codec::json::parse(body)?, "")?;
    let text = prompt(f.take("prompt"))?;
    for (feature, said) in [
        ("suffix", f.take("suffix").is_some_and(|v| v != "")),
        ("echo", f.take("echo").is_some_and(|v| v != false)),
        ("logprobs", f.take("logprobs").is_some_and(|v| v != false)),
        ("best_of", f.take("best_of").as_ref().and_then(Value::as_number).and_then(as_u64).is_some_and(|n| n > 1)),
    ] {
        if said {
            let text = format!("completions are answered by chat models here, which have no `{feature}`; leave it out");
            return Err(Error::unsupported(feature, text));
        }
    }
    let mut map = f.rest_map();
    map.insert("messages".to_owned(), json!([{"role": "user", "content": text}]));
    let mut request = knobs(Value::Object(map).to_string().as_bytes())?;
    request.messages = vec![Message::text(Role::User, text)];
    Ok(request)
}

fn prompt(value: Option<Value>) -> Result<String> {
    let tokens = || {
        let text = "a prompt of tokens means another model's alphabet; send its text";
        Err(Error::unsupported("prompt_tokens", text))
    };
    match value {
        None => Err(missing("prompt")),
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(list)) => match list.as_slice() {
            [Value::String(text)] => Ok(text.clone()),
            [Value::Number(_) | Value::Array(_), ..] => tokens(),
            [] => Err(Error::invalid("prompt", "`prompt` is empty; give it a text")),
            _ => Err(Error::unsupported("prompt_list", "one prompt a request is answered here; send them one by one")),
        },
        Some(other) => Err(wrong_type("prompt", "a string", &other)),
    }
}

pub fn encode(response: &Response, view: &ClientView) -> Result<Vec<u8>> {
    let Response { id, model, created, choices, usage, service_tier: _, extra } = response;
    let mut out = head(id, model, *created, view);
    out.insert("choices".into(), choices.iter().map(choice).collect());
    if let Some(usage) = usage.as_ref().and_then(usage_value) {
        out.insert("usage".into(), usage);
    }
    plain(extra, &mut out);
    Ok(written::object(&out))
}

fn head(id: &str, model: &str, created: Option<i64>, view: &ClientView) -> Map<String, Value> {
    let mut out = Map::new();
    let id = if id.is_empty() { view.request_id.as_str() } else { id };
    let id = id.strip_prefix("chatcmpl-").unwrap_or(id);
    out.insert("id".into(), if id.starts_with("cmpl-") { id.to_owned() } else { format!("cmpl-{id}") }.into());
    out.insert("object".into(), "text_completion".into());
    out.insert("created".into(), created.unwrap_or(view.now).into());
    out.insert("model".into(), if model.is_empty() { view.model.as_str() } else { model }.into());
    out
}

fn choice(choice: &Choice) -> Value {
    let text: String = choice.parts.iter().filter_map(visible).collect();
    piece(choice.index, &text, choice.finish.as_ref())
}

fn visible(part: &Part) -> Option<&str> {
    match part {
        Part::Text(text) => Some(text.text.as_str()),
        Part::Refusal(text) => Some(text.as_str()),
        _ => None,
    }
}

fn piece(index: u32, text: &str, finish: Option<&Finish>) -> Value {
    let mut out = Map::new();
    out.insert("text".into(), text.into());
    out.insert("index".into(), index.into());
    out.insert("logprobs".into(), Value::Null);
    write_finish(finish, false, &mut out);
    Value::Object(out)
}

/// Events to the stream of such a client.
pub struct Encoder {
    view: ClientView,
    start: Start,
    /// Parts whose text is the answer's.
    texts: Vec<(u32, u32)>,
    usage: Option<Usage>,
    over: bool,
}

impl Encoder {
    pub fn new(view: &ClientView) -> Self {
        Encoder { view: view.clone(), start: Start::default(), texts: Vec::new(), usage: None, over: false }
    }

    fn chunk(&self, choices: Vec<Value>, usage: Option<Value>, out: &mut Vec<u8>) {
        let mut chunk = head(&self.start.id, &self.start.model, self.start.created, &self.view);
        chunk.insert("choices".into(), Value::Array(choices));
        if self.view.include_usage {
            chunk.insert("usage".into(), usage.unwrap_or_default());
        }
        sse::write(None, &written::object(&chunk), out);
    }
}

impl StreamEncoder for Encoder {
    fn push(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        match event {
            Event::Start(start) => self.start = start.clone(),
            Event::PartStart { choice, index, part } => match part {
                PartStart::Text { .. } | PartStart::Refusal => self.texts.push((*choice, *index)),
                PartStart::Whole(part) => {
                    if let Some(text) = visible(part) {
                        self.chunk(vec![piece(*choice, text, None)], None, out);
                    }
                }
                PartStart::Reasoning { .. } | PartStart::ToolCall { .. } => {}
            },
            Event::Delta { choice, index, delta: Delta::Text(text) } if self.texts.contains(&(*choice, *index)) => {
                self.chunk(vec![piece(*choice, text, None)], None, out);
            }
            Event::Finish { choice, finish } => self.chunk(vec![piece(*choice, "", Some(finish))], None, out),
            Event::Usage(usage) => match &mut self.usage {
                Some(mine) => mine.merge(usage),
                none => *none = Some(usage.clone()),
            },
            Event::Ping => self.keep_alive(out),
            _ => {}
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let usage = self.usage.as_ref().filter(|_| self.view.include_usage).and_then(usage_value);
        if usage.is_some() {
            self.chunk(Vec::new(), usage, out);
        }
        sse::write(None, b"[DONE]", out);
    }

    fn error(&mut self, error: &Error, _request_id: &str, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.over, true) {
            sse::write(None, &super::error::encode(error), out);
        }
    }
}

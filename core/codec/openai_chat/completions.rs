//! The legacy completions of this vendor, as its clients read them: an answer's text stands under `text`. Upstreams' answers
//! are read by the chat decoders, which know that field too; requests lie in `prompt`.

pub mod prompt;

use serde_json::{Map, Value};

use super::{
    response::write_finish,
    wire::{F, plain, usage_value},
};
use crate::{
    codec::{ClientView, StreamEncoder, sse, written},
    error::{Error, Result},
    model::{Choice, Delta, Event, Extra, Finish, Part, PartStart, Response, Start, Usage},
};

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
    piece(choice.index, &text, choice.finish.as_ref(), choice.logprobs.clone(), &choice.extra)
}

fn visible(part: &Part) -> Option<&str> {
    match part {
        Part::Text(text) => Some(text.text.as_str()),
        Part::Refusal(text) => Some(text.as_str()),
        _ => None,
    }
}

fn piece(index: u32, text: &str, finish: Option<&Finish>, logprobs: Option<Value>, extra: &Extra) -> Value {
    let mut out = Map::new();
    out.insert("text".into(), text.into());
    out.insert("index".into(), index.into());
    out.insert("logprobs".into(), logprobs.unwrap_or_default());
    write_finish(finish, false, &mut out);
    plain(extra, &mut out);
    Value::Object(out)
}

/// Events to the stream of such a client.
pub struct Encoder {
    view: ClientView,
    start: Start,
    /// Parts whose text is the answer's.
    texts: Vec<(u32, u32)>,
    usage: Option<Usage>,
    /// Logprobs and unknown fields by choice, told just before the text that they belong to.
    besides: Vec<(u32, Option<Value>, Extra)>,
    over: bool,
}

impl Encoder {
    pub fn new(view: &ClientView) -> Self {
        Encoder {
            view: view.clone(),
            start: Start::default(),
            texts: Vec::new(),
            usage: None,
            besides: Vec::new(),
            over: false,
        }
    }

    fn piece(&mut self, choice: u32, text: &str, finish: Option<&Finish>, out: &mut Vec<u8>) {
        let at = self.besides.iter().position(|(index, ..)| *index == choice);
        let (_, logprobs, extra) = at.map(|at| self.besides.swap_remove(at)).unwrap_or_default();
        self.chunk(vec![piece(choice, text, finish, logprobs, &extra)], None, out);
    }

    /// More of what stands beside the text.
    fn beside(&mut self, choice: u32, more: &Option<Value>, extra: &Extra, out: &mut Vec<u8>) {
        if self.besides.iter().any(|(index, ..)| *index == choice) {
            self.piece(choice, "", None, out);
        }
        let extra = extra.of(F).cloned().map(|fields| Extra::new(F, fields)).unwrap_or_default();
        self.besides.push((choice, more.clone(), extra));
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
                        self.piece(*choice, text, None, out);
                    }
                }
                PartStart::Reasoning { .. } | PartStart::ToolCall { .. } => {}
            },
            Event::Delta { choice, index, delta: Delta::Text(text) } if self.texts.contains(&(*choice, *index)) => {
                self.piece(*choice, text, None, out);
            }
            Event::ChoiceExtra { choice, logprobs, extra } => self.beside(*choice, logprobs, extra, out),
            Event::Finish { choice, finish } => self.piece(*choice, "", Some(finish), out),
            Event::Usage(usage) => Usage::hear(&mut self.usage, usage, F),
            Event::Ping => self.keep_alive(out),
            _ => {}
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        while let Some((choice, ..)) = self.besides.first() {
            self.piece(*choice, "", None, out);
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

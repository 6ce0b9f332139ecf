//! Answers, both ways, whole and as lines: a message that grows, and a last one with the figures. No client of the gateway
//! speaks this format; answers in it are what the built-in upstream gives.

use serde_json::Value;

use super::{
    ClientView, error, forced,
    json::{self, Fields},
    logprobs,
    wire::{self, FORMAT},
};
use crate::{
    codec::{
        StreamDecoder, StreamEncoder,
        alike::{Alike, Mould},
        calls,
        draft::{Draft, Said},
        ndjson,
        serial::Serial,
    },
    error::{Error, Kind, Result},
    model::{Choice, Delta, Event, Extra, Finish, Part, PartStart, Response, Start, ToolKind, Usage},
};

pub fn decode(body: &[u8]) -> Result<Response> {
    let mut body = json::tape_upstream(body)?;
    whole(body.item()).map_err(wire::upstream_fault)
}

fn whole(body: json::Item) -> Result<Response> {
    let mut f = Fields::new(body, "")?;
    if f.peek("error").is_some() {
        return Err(error::decode_line(&Value::Object(f.rest_map())));
    }
    let Some(mut message) = f.object("message")? else {
        return Err(Error::new(Kind::Upstream, "the upstream's answer holds no message"));
    };
    message.skip("role");
    let mut parts = wire::read_parts(&mut message, 0)?;
    for part in &mut parts {
        if let Part::Text(text) = part
            && let Some(call) = forced::read(&text.text, 0)
        {
            *part = Part::ToolCall(call);
        }
    }
    let called = parts.iter().any(|p| matches!(p, Part::ToolCall(_)));
    f.skip("done");
    let raw = f.string("done_reason")?.unwrap_or_else(|| "stop".to_owned());
    let (finish, logprobs) = (Some(wire::read_finish(&raw, called)), logprobs::take(&mut f)?);
    let choice = Choice { parts, finish, logprobs, ..Choice::default() };
    let usage = wire::take_usage(&mut f);
    let created = f.string("created_at")?.and_then(|text| wire::seconds(&text));
    let model = f.string("model")?.unwrap_or_default();
    Ok(Response { model, created, choices: vec![choice], usage, extra: f.rest(FORMAT), ..Response::default() })
}

pub fn encode(response: &Response, view: &ClientView) -> Result<Vec<u8>> {
    let Response { id: _, model, created, choices, usage, service_tier: _, extra } = response;
    let choice = choices.first();
    let parts = choice.map(|c| c.parts.as_slice()).unwrap_or_default();
    let (mut text, mut thinking, mut images, mut calls) = (String::new(), String::new(), Vec::new(), Vec::new());
    for (index, part) in parts.iter().enumerate() {
        match part {
            Part::Text(t) => text.push_str(&t.text),
            Part::Refusal(t) => text.push_str(t),
            Part::Reasoning(r) => thinking.push_str(&r.text),
            Part::ToolCall(call) => {
                let id = call_id(&call.id, index).into();
                calls.push(wire::told_call(id, &call.name, &call.arguments, call.kind).into());
            }
            Part::Media(media) => images.extend(wire::image(media).map(Said::from)),
            Part::ToolResult(_) | Part::Native { .. } => {}
        }
    }
    let mut message = Draft::new();
    message.put("role", "assistant");
    message.put("content", text);
    message.put_list("images", images);
    message.put_list("tool_calls", calls);
    if !thinking.is_empty() {
        message.put("thinking", thinking);
    }
    let mut out = wire::head(model, *created, view);
    out.put("message", message);
    if let Some(logprobs) = choice.and_then(|c| c.logprobs.as_ref()).and_then(logprobs::write) {
        out.put("logprobs", logprobs);
    }
    let refused = parts.iter().any(|p| matches!(p, Part::Refusal(_)));
    let reason = wire::done_reason(choice.and_then(|c| c.finish.as_ref()), refused);
    wire::end(reason, usage.as_ref(), extra, &mut out);
    Ok(out.bytes())
}

fn call_id(id: &str, index: usize) -> String {
    if id.is_empty() { calls::made_id("call_", &[&index.to_string()]) } else { id.to_owned() }
}

/// An upstream's lines to events.
pub struct Decoder {
    lines: ndjson::Decoder,
    state: State,
}

impl Decoder {
    /// `limit`: the most bytes of a line.
    pub fn new(limit: usize) -> Self {
        Decoder { lines: ndjson::Decoder::new(limit), state: State { limit, ..State::default() } }
    }
}

impl StreamDecoder for Decoder {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<()> {
        let Decoder { lines, state } = self;
        lines.push(bytes, |line| state.line(line, out))
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<()> {
        let Decoder { lines, state } = self;
        lines.finish(|line| state.line(line, out))?;
        if self.state.ended {
            return Ok(());
        }
        Err(Error::new(Kind::Upstream, "the upstream's stream ended before it was complete"))
    }
}

#[derive(Default)]
struct State {
    started: bool,
    parts: u32,
    calls: usize,
    /// The open part, and whether it is reasoning.
    open: Option<(u32, bool)>,
    /// Text that may be a forced call: as long as that is not known, or it is one.
    held: String,
    limit: usize,
    ended: bool,
    alike: Alike,
}

impl State {
    fn line(&mut self, line: &[u8], out: &mut Vec<Event>) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        if let Some((choice, index, text)) = self.alike.read("", line) {
            out.push(Event::Delta { choice, index, delta: Delta::Text(text) });
            return Ok(());
        }
        let from = out.len();
        self.long(line, out)?;
        self.alike.learn("", line, &["content", "thinking"], &["created_at"], &out[from..]);
        Ok(())
    }

    fn long(&mut self, line: &[u8], out: &mut Vec<Event>) -> Result<()> {
        let value = json::parse_upstream(line)?;
        if value.get("error").is_some_and(|e| !e.is_null()) {
            return Err(error::decode_line(&value));
        }
        self.read(Fields::new(value, "").map_err(wire::upstream_fault)?, out).map_err(wire::upstream_fault)
    }

    fn read(&mut self, mut f: Fields, out: &mut Vec<Event>) -> Result<()> {
        let model = f.string("model")?.unwrap_or_default();
        let created = f.string("created_at")?.and_then(|text| wire::seconds(&text));
        if !std::mem::replace(&mut self.started, true) {
            out.push(Event::Start(Start { model, created, ..Start::default() }));
        }
        if let Some(logprobs) = logprobs::take(&mut f)? {
            out.push(Event::ChoiceExtra { choice: 0, logprobs: Some(logprobs), extra: Extra::default() });
        }
        if let Some(mut message) = f.object("message")? {
            for part in wire::read_parts(&mut message, self.calls)? {
                self.part(part, out);
            }
        }
        if f.bool("done")? != Some(true) {
            return Ok(());
        }
        self.release(out);
        self.close(out);
        let raw = f.string("done_reason")?.unwrap_or_else(|| "stop".to_owned());
        out.push(Event::Finish { choice: 0, finish: wire::read_finish(&raw, self.calls > 0) });
        out.extend(wire::take_usage(&mut f).map(Event::Usage));
        let extra = f.rest(FORMAT);
        if !extra.is_empty() {
            out.push(Event::Extra(extra));
        }
        self.ended = true;
        out.push(Event::End);
        Ok(())
    }

    fn part(&mut self, part: Part, out: &mut Vec<Event>) {
        match part {
            Part::Text(text) => return self.said(text.text, out),
            _ => self.release(out),
        }
        match part {
            Part::Text(_) => {}
            Part::Reasoning(reasoning) => self.text(true, reasoning.text, out),
            Part::ToolCall(call) => {
                self.close(out);
                self.calls += 1;
                let index = self.next();
                let (id, name, kind, extra) = (call.id, call.name, call.kind, call.extra);
                let part = PartStart::ToolCall { id, name, kind, signature: None, extra };
                out.push(Event::PartStart { choice: 0, index, part });
                out.push(Event::Delta { choice: 0, index, delta: Delta::Text(call.arguments) });
                out.push(Event::PartEnd { choice: 0, index });
            }
            whole => {
                self.close(out);
                let index = self.next();
                out.push(Event::PartStart { choice: 0, index, part: PartStart::Whole(whole) });
                out.push(Event::PartEnd { choice: 0, index });
            }
        }
    }

    fn said(&mut self, text: String, out: &mut Vec<Event>) {
        if matches!(self.open, Some((_, false))) {
            return self.text(false, text, out);
        }
        self.held.push_str(&text);
        if forced::begins(&self.held) == Some(false) || self.held.len() > self.limit {
            let held = std::mem::take(&mut self.held);
            self.text(false, held, out);
        }
    }

    /// What was held is a call, or text after all.
    fn release(&mut self, out: &mut Vec<Event>) {
        if self.held.is_empty() {
            return;
        }
        let held = std::mem::take(&mut self.held);
        match forced::read(&held, self.calls) {
            Some(call) => self.part(Part::ToolCall(call), out),
            None => self.text(false, held, out),
        }
    }

    fn next(&mut self) -> u32 {
        self.parts += 1;
        self.parts - 1
    }

    fn text(&mut self, reasoning: bool, text: String, out: &mut Vec<Event>) {
        let index = match self.open {
            Some((index, kind)) if kind == reasoning => index,
            _ => {
                self.close(out);
                let (index, extra) = (self.next(), Extra::default());
                let part = if reasoning { PartStart::Reasoning { extra } } else { PartStart::Text { extra } };
                out.push(Event::PartStart { choice: 0, index, part });
                self.open = Some((index, reasoning));
                index
            }
        };
        out.push(Event::Delta { choice: 0, index, delta: Delta::Text(text) });
    }

    fn close(&mut self, out: &mut Vec<Event>) {
        if let Some((index, _)) = self.open.take() {
            out.push(Event::PartEnd { choice: 0, index });
        }
    }
}

/// Events to lines. Parts follow one another; calls are held until they are whole.
pub struct Encoder {
    serial: Serial,
    writer: Writer,
}

impl Encoder {
    pub fn new(view: ClientView) -> Self {
        Encoder { serial: Serial::default(), writer: Writer { view, ..Writer::default() } }
    }
}

impl StreamEncoder for Encoder {
    fn push(&mut self, event: &Event, out: &mut Vec<u8>) {
        let Encoder { serial, writer } = self;
        if !writer.done {
            serial.push(event, &mut |event| writer.event(event, out));
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let Encoder { serial, writer } = self;
        if !writer.done {
            serial.finish(&mut |event| writer.event(event, out));
            writer.end(out);
        }
    }

    fn error(&mut self, error: &Error, _request_id: &str, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.writer.done, true) {
            out.extend_from_slice(&super::error::encode(error));
            out.push(b'\n');
        }
    }

    /// The framing has nothing that readers pass over.
    fn keep_alive(&mut self, _out: &mut Vec<u8>) {}
}

#[derive(Default)]
struct Writer {
    view: ClientView,
    start: Start,
    open: Option<Open>,
    finish: Option<Finish>,
    refused: bool,
    usage: Option<Usage>,
    extra: Extra,
    /// Of the output that follows.
    logprobs: Option<Value>,
    done: bool,
    mould: Mould,
}

enum Open {
    Text,
    Reasoning,
    Call { id: String, name: String, kind: ToolKind, arguments: String },
}

impl Writer {
    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        if !matches!(event, Event::Delta { delta: Delta::Text(_), .. }) {
            self.mould.forget();
        }
        match event {
            Event::Start(start) => self.start = start.clone(),
            Event::PartStart { index, part, .. } => self.begin(*index, part, out),
            Event::Delta { choice, index, delta: Delta::Text(text) } => {
                if self.mould.pour(*choice, *index, text, out) {
                    return;
                }
                let from = out.len();
                self.piece(text, out);
                if matches!(self.open, Some(Open::Text | Open::Reasoning)) {
                    let key = if matches!(self.open, Some(Open::Text)) { "content" } else { "thinking" };
                    self.mould.learn(*choice, *index, key, text, &out[from..]);
                }
            }
            Event::PartEnd { .. } => self.close(out),
            Event::Finish { choice: 0, finish } => self.finish = Some(finish.clone()),
            Event::Usage(usage) => Usage::hear(&mut self.usage, usage, FORMAT),
            Event::Extra(extra) => {
                for (key, value) in extra.of(FORMAT).into_iter().flatten() {
                    self.extra.insert(FORMAT, key, value.clone());
                }
            }
            Event::ChoiceExtra { choice: 0, logprobs: Some(logprobs), .. } => {
                self.logprobs = logprobs::write(logprobs);
            }
            _ => {}
        }
    }

    /// `more`: what the message says beside its text.
    fn line<'a>(&mut self, text: &'a str, more: Option<(&'static str, Said<'a>)>, out: &mut Vec<u8>) {
        let logprobs = self.logprobs.take();
        let mut line = wire::head(&self.start.model, self.start.created, &self.view);
        let mut message = said(text);
        if let Some((key, more)) = more {
            message.put(key, more);
        }
        line.put("message", message);
        if let Some(logprobs) = logprobs {
            line.put("logprobs", logprobs);
        }
        line.put("done", Value::Bool(false));
        write(&line, out);
    }

    fn begin(&mut self, index: u32, part: &PartStart, out: &mut Vec<u8>) {
        self.refused |= matches!(part, PartStart::Refusal);
        self.open = match part {
            PartStart::Text { .. } | PartStart::Refusal => Some(Open::Text),
            PartStart::Reasoning { .. } => Some(Open::Reasoning),
            PartStart::ToolCall { id, name, kind, .. } => {
                let (id, name) = (call_id(id, index as usize), name.clone());
                Some(Open::Call { id, name, kind: *kind, arguments: String::new() })
            }
            PartStart::Whole(whole) => {
                if let Part::Media(media) = whole
                    && let Some(image) = wire::image(media)
                {
                    self.line("", Some(("images", vec![image.into()].into())), out);
                }
                None
            }
        };
    }

    fn piece(&mut self, text: &str, out: &mut Vec<u8>) {
        match &mut self.open {
            Some(Open::Text) => self.line(text, None, out),
            Some(Open::Reasoning) => self.line("", Some(("thinking", text.into())), out),
            Some(Open::Call { arguments, .. }) => arguments.push_str(text),
            None => {}
        }
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if let Some(Open::Call { id, name, kind, arguments }) = self.open.take() {
            let call = wire::told_call(id.into(), &name, &arguments, kind);
            self.line("", Some(("tool_calls", vec![call.into()].into())), out);
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.done = true;
        let mut line = wire::head(&self.start.model, self.start.created, &self.view);
        line.put("message", said(""));
        let reason = wire::done_reason(self.finish.as_ref(), self.refused);
        wire::end(reason, self.usage.as_ref(), &self.extra, &mut line);
        write(&line, out);
    }
}

fn said(text: &str) -> Draft<'_> {
    let mut message = Draft::new();
    message.put("role", "assistant");
    message.put("content", text);
    message
}

fn write(line: &Draft<'_>, out: &mut Vec<u8>) {
    line.write(out);
    out.push(b'\n');
}

//! An upstream's stream to events. The plan comes first and has no borders of its own; content and calls count each for
//! themselves; citations come while their text is open or after it.

use serde_json::Value;

use super::super::{
    error,
    json::{self, Fields},
    logprobs,
    wire::{self, FORMAT},
};
use crate::{
    codec::{StreamDecoder, alike::Alike, figures, is_error_event, sse, surrogate::Half},
    error::{Error, Kind, Result},
    model::{Delta, Event, Extra, Part, PartStart, Start},
};

pub struct Decoder {
    sse: sse::Decoder,
    state: State,
}

impl Decoder {
    /// `limit`: the most bytes of an event.
    pub fn new(limit: usize) -> Self {
        Decoder { sse: sse::Decoder::new(limit), state: State::default() }
    }
}

impl StreamDecoder for Decoder {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<()> {
        let Decoder { sse, state } = self;
        sse.push(bytes, |frame| state.frame(frame, out))
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<()> {
        let Decoder { sse, state } = self;
        let told = sse.finish(|frame| state.frame(frame, out));
        if is_error_event(&told) {
            return told;
        }
        if state.ended {
            return Ok(());
        }
        Err(Error::new(Kind::Upstream, "the upstream's stream ended before it was complete"))
    }
}

#[derive(Default)]
struct State {
    parts: u32,
    plan: Option<u32>,
    plan_open: bool,
    /// Parts by the wire's index of content; which of them hold text.
    content: Vec<(u64, u32, bool)>,
    /// Those that are open: the wire's index, the part, whether anything was said.
    open: Vec<(u64, u32)>,
    calls: Vec<(u64, u32, bool)>,
    called: bool,
    ended: bool,
    alike: Alike,
    half: Half,
}

impl State {
    fn frame(&mut self, frame: &sse::Frame, out: &mut Vec<Event>) -> Result<()> {
        if self.ended || frame.data == "[DONE]" || frame.data.is_empty() {
            return Ok(());
        }
        if let Some((choice, index, text)) = self.alike.read(&frame.event, frame.data.as_bytes()) {
            out.push(Event::Delta { choice, index, delta: Delta::Text(text) });
            return Ok(());
        }
        let from = out.len();
        self.long(frame, out)?;
        let keys = ["text", "thinking", "tool_plan", "arguments"];
        self.alike.learn(&frame.event, frame.data.as_bytes(), &keys, &[], &out[from..]);
        Ok(())
    }

    fn long(&mut self, frame: &sse::Frame, out: &mut Vec<Event>) -> Result<()> {
        let data = json::parse_event(&frame.data, &mut self.half)?;
        let kind = data.get("type").and_then(Value::as_str).unwrap_or(&frame.event).to_owned();
        let fields = Fields::new(data, "").map_err(wire::upstream_fault)?;
        self.event(&kind, fields, out).map_err(wire::upstream_fault)
    }

    fn event(&mut self, kind: &str, mut f: Fields, out: &mut Vec<Event>) -> Result<()> {
        let id = f.string("id")?;
        let index = f.u64("index")?;
        let mut delta = f.object("delta")?;
        let mut message = match &mut delta {
            Some(delta) => delta.object("message")?,
            None => None,
        };
        let at =
            || index.ok_or_else(|| Error::new(Kind::Upstream, "the upstream sent a stream event without an index"));
        match kind {
            "message-start" => {
                out.push(Event::Start(Start { id: id.unwrap_or_default(), ..Start::default() }));
                Ok(())
            }
            "tool-plan-delta" => {
                let text = message.as_mut().map(|m| m.string("tool_plan")).transpose()?.flatten();
                self.plan_piece(text.unwrap_or_default(), out);
                Ok(())
            }
            "content-start" => self.begin_content(at()?, inner(message, "content")?, out),
            "content-delta" => {
                let pieces =
                    f.take("logprobs").map(|item| if let Value::Array(list) = item { list } else { vec![item] });
                let logprobs = logprobs::read(&pieces.unwrap_or_default());
                if logprobs.is_some() {
                    out.push(Event::ChoiceExtra { choice: 0, logprobs, extra: Extra::default() });
                }
                self.content_piece(at()?, inner(message, "content")?, out)
            }
            "content-end" => {
                self.close_content(at()?, out);
                Ok(())
            }
            "tool-call-start" => self.begin_call(at()?, message.and_then(|mut m| m.take("tool_calls")), out),
            "tool-call-delta" => self.call_piece(at()?, inner(message, "tool_calls")?, out),
            "tool-call-end" => {
                self.close_call(at()?, out);
                Ok(())
            }
            "citation-start" => {
                if let Some(citation) = message.and_then(|mut m| m.take("citations")) {
                    self.cite(citation, out);
                }
                Ok(())
            }
            "message-end" => self.end(delta, out),
            _ => Ok(()),
        }
    }

    fn next(&mut self) -> u32 {
        self.parts += 1;
        self.parts - 1
    }

    fn plan_piece(&mut self, text: String, out: &mut Vec<Event>) {
        if text.is_empty() {
            return;
        }
        let index = match self.plan {
            Some(index) => index,
            None => {
                let index = self.next();
                self.plan = Some(index);
                self.plan_open = true;
                let Part::Text(plan) = wire::plan(String::new()) else { return };
                out.push(Event::PartStart { choice: 0, index, part: PartStart::Text { extra: plan.extra } });
                index
            }
        };
        out.push(Event::Delta { choice: 0, index, delta: Delta::Text(text) });
    }

    fn close_plan(&mut self, out: &mut Vec<Event>) {
        if let Some(index) = self.plan.filter(|_| std::mem::take(&mut self.plan_open)) {
            out.push(Event::PartEnd { choice: 0, index });
        }
    }

    fn begin_content(&mut self, at: u64, item: Option<Fields>, out: &mut Vec<Event>) -> Result<()> {
        self.close_plan(out);
        self.close_content(at, out);
        let mut item = match item {
            Some(item) => item,
            None => return Ok(()),
        };
        let thinking = item.peek_str("type") == Some("thinking") || item.peek("thinking").is_some();
        item.take("type");
        let key = if thinking { "thinking" } else { "text" };
        let text = item.string(key)?.unwrap_or_default();
        let index = self.next();
        let extra = item.rest(FORMAT);
        let part = if thinking { PartStart::Reasoning { extra } } else { PartStart::Text { extra } };
        out.push(Event::PartStart { choice: 0, index, part });
        self.content.push((at, index, !thinking));
        self.open.push((at, index));
        if !text.is_empty() {
            out.push(Event::Delta { choice: 0, index, delta: Delta::Text(text) });
        }
        Ok(())
    }

    fn content_piece(&mut self, at: u64, item: Option<Fields>, out: &mut Vec<Event>) -> Result<()> {
        let Some(mut item) = item else { return Ok(()) };
        let Some((_, index)) = self.open.iter().find(|(open, _)| *open == at).copied() else {
            return Err(Error::new(Kind::Upstream, "the upstream sent content that it never began"));
        };
        let mut tell = |delta| out.push(Event::Delta { choice: 0, index, delta });
        for key in ["text", "thinking"] {
            if let Some(text) = item.string(key)?.filter(|text| !text.is_empty()) {
                tell(Delta::Text(text));
            }
        }
        // The vendor signs nothing: a gateway before this one handed on another family's.
        if let Some(signature) = wire::read_signature(item.string("signature")?) {
            tell(Delta::Signature(signature));
        }
        if let Some(sealed) = wire::read_signature(item.string("data")?) {
            tell(Delta::Sealed(sealed));
        }
        Ok(())
    }

    fn close_content(&mut self, at: u64, out: &mut Vec<Event>) {
        if let Some(place) = self.open.iter().position(|(open, _)| *open == at) {
            let (_, index) = self.open.remove(place);
            out.push(Event::PartEnd { choice: 0, index });
        }
    }

    fn begin_call(&mut self, at: u64, call: Option<Value>, out: &mut Vec<Event>) -> Result<()> {
        self.close_plan(out);
        self.close_call(at, out);
        let Some(call) = call else { return Ok(()) };
        let call = wire::read_call(call, "tool_calls")?;
        self.called = true;
        let index = self.next();
        let part = PartStart::ToolCall {
            id: call.id,
            name: call.name,
            kind: call.kind,
            signature: call.signature,
            extra: call.extra,
        };
        out.push(Event::PartStart { choice: 0, index, part });
        let said = !call.arguments.is_empty();
        if said {
            out.push(Event::Delta { choice: 0, index, delta: Delta::Text(call.arguments) });
        }
        self.calls.push((at, index, said));
        Ok(())
    }

    fn call_piece(&mut self, at: u64, call: Option<Fields>, out: &mut Vec<Event>) -> Result<()> {
        let Some(function) = call.map(|mut call| call.object("function")).transpose()?.flatten() else { return Ok(()) };
        let mut function = function;
        let text = function.string("arguments")?.unwrap_or_default();
        let Some((_, index, said)) = self.calls.iter_mut().find(|(open, ..)| *open == at) else {
            return Err(Error::new(Kind::Upstream, "the upstream sent arguments of a tool call that it never began"));
        };
        if !text.is_empty() {
            *said = true;
            out.push(Event::Delta { choice: 0, index: *index, delta: Delta::Text(text) });
        }
        Ok(())
    }

    fn close_call(&mut self, at: u64, out: &mut Vec<Event>) {
        if let Some(place) = self.calls.iter().position(|(open, ..)| *open == at) {
            let (_, index, said) = self.calls.remove(place);
            if !said {
                out.push(Event::Delta { choice: 0, index, delta: Delta::Text("{}".to_owned()) });
            }
            out.push(Event::PartEnd { choice: 0, index });
        }
    }

    /// As `wire::place_citations` does it for whole answers.
    fn cite(&self, value: Value, out: &mut Vec<Event>) {
        let said = value.get("content_index").and_then(Value::as_u64);
        let on_plan = value.get("type").is_some_and(|kind| kind == "PLAN");
        let named = said.and_then(|at| self.content.iter().find(|(i, _, text)| *i == at && *text));
        let text = named.or_else(|| self.content.iter().find(|(_, _, text)| *text)).map(|(_, index, _)| *index);
        if let Some(index) = if on_plan { self.plan } else { text } {
            out.push(Event::Delta { choice: 0, index, delta: Delta::Citation(wire::read_citation(value)) });
        }
    }

    fn end(&mut self, delta: Option<Fields>, out: &mut Vec<Event>) -> Result<()> {
        let Some(mut delta) = delta else { return Err(json::missing("delta")) };
        let raw = delta.string("finish_reason")?;
        let failed = delta.take("error").filter(|error| *error != Value::Bool(false));
        if let Some(error) = failed {
            return Err(error::decode_end(error.as_str().or_else(|| error.get("message").and_then(Value::as_str))));
        }
        self.close_plan(out);
        while let Some((at, _)) = self.open.first().copied() {
            self.close_content(at, out);
        }
        while let Some((at, ..)) = self.calls.first().copied() {
            self.close_call(at, out);
        }
        if let Some(raw) = raw {
            out.push(Event::Finish { choice: 0, finish: wire::read_finish(&raw, self.called) });
        }
        if let Some(usage) = delta.written("usage")? {
            out.push(Event::Usage(figures::usage(FORMAT, usage, wire::read_usage)));
        }
        let extra = delta.rest(FORMAT);
        if !extra.is_empty() {
            out.push(Event::Extra(extra));
        }
        self.ended = true;
        out.push(Event::End);
        Ok(())
    }
}

/// A delta's object; lists and nothing are no pieces.
fn inner<'t>(message: Option<Fields<'t>>, key: &str) -> Result<Option<Fields<'t>>> {
    let Some(mut message) = message else { return Ok(None) };
    if message.peek(key).is_some_and(Value::is_object) { message.object(key) } else { Ok(None) }
}

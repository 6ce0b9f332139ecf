//! One choice of an upstream's stream: which parts are open, and where the next fragment goes. Part indices are given in
//! order of first appearance. A text or reasoning part ends where another kind begins, a call where the next one begins
//! and its arguments are complete, so that a client's format with one open block at a time need not wait.

use serde_json::{Map, Value};

use super::super::{
    assistant::{self, legacy_tool_call},
    content, details, error,
    response::{empty, tells},
    wire::{F, FIELD, FUNCTION, MESSAGE, citation, finish, keep},
};
use crate::{
    codec::{json::Fields, signature},
    error::{Error, Kind, Result},
    model::{Citation, Delta, Event, Extra, Finish, Part, PartStart, Reasoning, Signature, ToolKind},
};

pub struct Choice {
    pub index: u32,
    parts: u32,
    text: Option<u32>,
    /// Text parts seen so far: the border number of the newest is one less.
    texts: u64,
    refusal: Option<u32>,
    reasoning: Option<OpenReasoning>,
    calls: Vec<Call>,
    /// Sources that wait for a text to stand at.
    sources: Vec<Citation>,
    audio: Map<String, Value>,
    /// OpenRouter's list, its fragments joined.
    details: Vec<Value>,
    pub finish: Option<String>,
    ended: bool,
    /// Where events go: somebody else's, as long as `writing` lasts.
    out: Vec<Event>,
    /// Bytes kept in this state.
    pub held: usize,
}

struct OpenReasoning {
    part: u32,
    text: String,
    signature: Option<String>,
    /// Its whole block was seen.
    complete: bool,
    open: bool,
    /// Its text came in a plain field: a list of details repeats it.
    plain: bool,
}

impl OpenReasoning {
    /// More text is another part.
    fn done(&self) -> bool {
        self.complete || self.signature.is_some()
    }
}

struct Call {
    /// As the wire numbers it.
    wire: Option<u64>,
    id: String,
    name: String,
    kind: ToolKind,
    /// Arguments so far: to know whether they are complete.
    arguments: String,
    signature: Option<Signature>,
    extra: Extra,
    /// Its part, once its name is known.
    part: Option<u32>,
    ended: bool,
}

impl Choice {
    pub fn new(index: u32) -> Self {
        Choice {
            index,
            parts: 0,
            text: None,
            texts: 0,
            refusal: None,
            reasoning: None,
            calls: Vec::new(),
            sources: Vec::new(),
            audio: Map::new(),
            details: Vec::new(),
            finish: None,
            ended: false,
            out: Vec::new(),
            held: 0,
        }
    }

    /// What it does goes behind what is in `out`.
    pub fn writing<T>(&mut self, out: &mut Vec<Event>, act: impl FnOnce(&mut Choice) -> T) -> T {
        std::mem::swap(&mut self.out, out);
        let done = act(self);
        std::mem::swap(&mut self.out, out);
        done
    }

    /// One entry of a chunk's `choices`.
    pub fn chunk(&mut self, mut f: Fields) -> Result<()> {
        f.take("index");
        let logprobs = f.take("logprobs").filter(tells);
        let raw = f.string("finish_reason")?.filter(|r| !r.is_empty());
        // Some servers repeat the whole message so far beside each delta.
        let whole = f.object("message")?;
        let mut delta = match (f.object("delta")?, whole) {
            (Some(delta), _) => delta,
            (None, Some(message)) => message,
            (None, None) => {
                // Of a legacy completion the text stands in the choice itself.
                let text = f.take("text").map(|text| ("content".to_owned(), text));
                Fields::new(Value::Object(text.into_iter().collect()), f.path("delta"))?
            }
        };
        let mut known = Known::take(&mut delta)?;
        let mut extra = f.rest(F);
        keep(&mut extra, MESSAGE, delta.rest_map());
        if logprobs.is_some() || !extra.is_empty() {
            self.out.push(Event::ChoiceExtra { choice: self.index, logprobs, extra });
        }
        self.take_reasoning(&mut known);
        self.take_text(&mut known)?;
        for value in known.images {
            if let Some(media) = assistant::image(&value) {
                self.whole(Part::Media(media));
            }
        }
        for value in known.calls {
            self.call(value)?;
        }
        if let Some(value) = known.function_call {
            self.legacy(value);
        }
        if let Some(Value::Object(map)) = known.audio {
            self.audio(map);
        }
        for part in known.natives {
            self.whole(part);
        }
        error::in_finish(raw.as_deref())?;
        if raw.is_some() && self.finish.is_none() {
            self.finish = raw;
        }
        Ok(())
    }

    fn take_reasoning(&mut self, known: &mut Known) {
        let told = known.reasoning.take();
        let has_text = told.is_some();
        if let Some((text, field)) = told {
            self.reasoning_text(&text, field);
        }
        for block in std::mem::take(&mut known.blocks) {
            self.block(block, has_text);
        }
        for detail in std::mem::take(&mut known.details) {
            let repeated = has_text || self.reasoning.as_ref().is_some_and(|r| r.plain);
            if !repeated
                && let Some(text) = detail.get("text").or_else(|| detail.get("summary")).and_then(Value::as_str)
            {
                self.reasoning_text(text, Some("details"));
            }
            if let Some(signature) = details::signature(&detail) {
                self.sign_reasoning(signature, Some("details"));
            }
            if let Some(Reasoning { sealed: Some(sealed), extra, .. }) = details::sealed(&detail) {
                self.end_reasoning();
                let part = self.new_part(PartStart::Reasoning { extra });
                self.delta(part, Delta::Sealed(sealed));
                self.end(part);
            }
            self.detail(detail);
        }
    }

    fn take_text(&mut self, known: &mut Known) -> Result<()> {
        if known.text_block.is_some_and(|block| block >= self.texts) {
            self.end_text();
        }
        let pieces = match known.content.take() {
            Some(Value::String(text)) => vec![Part::text(text)],
            Some(value) => content::decode(value, "choices[].delta.content")?,
            None => Vec::new(),
        };
        for piece in pieces {
            match piece {
                Part::Text(text) => self.text(&text.text),
                Part::Reasoning(Reasoning { text, signature, .. }) => {
                    self.reasoning_text(&text, Some("chunk"));
                    if let Some(signature) = signature {
                        self.sign_reasoning(signature, Some("chunk"));
                    }
                }
                Part::Refusal(text) => self.refusal(&text),
                other => self.whole(other),
            }
        }
        if let Some(signature) = known.text_signature.take() {
            let part = self.open_text();
            self.delta(part, Delta::Signature(signature));
        }
        for citation in std::mem::take(&mut known.citations) {
            let part = self.open_text();
            self.delta(part, Delta::Citation(citation));
        }
        if let Some(text) = known.refusal.take() {
            self.refusal(&text);
        }
        Ok(())
    }

    fn new_part(&mut self, start: PartStart) -> u32 {
        self.begin_waiting();
        self.numbered(start)
    }

    fn numbered(&mut self, start: PartStart) -> u32 {
        let index = self.parts;
        self.parts += 1;
        self.out.push(Event::PartStart { choice: self.index, index, part: start });
        index
    }

    fn delta(&mut self, index: u32, delta: Delta) {
        self.out.push(Event::Delta { choice: self.index, index, delta });
    }

    fn end(&mut self, index: u32) {
        self.out.push(Event::PartEnd { choice: self.index, index });
    }

    fn whole(&mut self, part: Part) {
        self.close_flow();
        let index = self.new_part(PartStart::Whole(part));
        self.end(index);
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            let part = self.open_text();
            self.delta(part, Delta::Text(text.to_owned()));
        }
    }

    fn open_text(&mut self) -> u32 {
        if let Some(part) = self.text {
            return part;
        }
        self.end_reasoning();
        self.end_refusal();
        let part = self.new_part(PartStart::Text { extra: Extra::default() });
        self.text = Some(part);
        self.texts += 1;
        for source in std::mem::take(&mut self.sources) {
            self.delta(part, Delta::Citation(source));
        }
        part
    }

    /// Sources of the whole answer: at the first text.
    pub fn source(&mut self, citation: Citation) {
        match self.text {
            Some(part) => self.delta(part, Delta::Citation(citation)),
            None => self.sources.push(citation),
        }
    }

    fn refusal(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let part = match self.refusal {
            Some(part) => part,
            None => {
                self.end_text();
                self.end_reasoning();
                let part = self.new_part(PartStart::Refusal);
                self.refusal = Some(part);
                part
            }
        };
        self.delta(part, Delta::Text(text.to_owned()));
    }

    fn reasoning_text(&mut self, text: &str, field: Option<&'static str>) {
        if text.is_empty() {
            return;
        }
        if self.reasoning.as_ref().is_some_and(|r| r.open && r.done()) {
            self.end_reasoning();
        }
        let part = self.open_reasoning(field);
        if let Some(open) = &mut self.reasoning {
            open.text.push_str(text);
            open.plain |= !matches!(field, Some("details" | "chunk"));
            self.held += text.len();
        }
        self.delta(part, Delta::Text(text.to_owned()));
    }

    fn open_reasoning(&mut self, field: Option<&'static str>) -> u32 {
        if let Some(open) = self.reasoning.as_ref().filter(|r| r.open) {
            return open.part;
        }
        self.end_text();
        self.end_refusal();
        let mut extra = Extra::default();
        if let Some(field) = field {
            extra.insert(F, FIELD, field.into());
        }
        let part = self.new_part(PartStart::Reasoning { extra });
        self.reasoning = Some(OpenReasoning {
            part,
            text: String::new(),
            signature: None,
            complete: false,
            open: true,
            plain: false,
        });
        part
    }

    fn sign_reasoning(&mut self, signature: Signature, field: Option<&'static str>) {
        if self.reasoning.as_ref().is_some_and(|r| r.signature.as_ref() == Some(&signature.data)) {
            return;
        }
        // It may come after the next part has begun: it belongs to the reasoning that was.
        let part = match &self.reasoning {
            Some(last) if last.signature.is_none() => last.part,
            _ => {
                self.end_reasoning();
                self.open_reasoning(field)
            }
        };
        if let Some(last) = &mut self.reasoning {
            last.signature = Some(signature.data.clone());
        }
        self.delta(part, Delta::Signature(signature));
    }

    /// A thinking block: a fragment of one (LiteLLM), or the whole one after its text went by as `reasoning_content`.
    fn block(&mut self, block: Reasoning, has_text: bool) {
        let Reasoning { text, signature, sealed, extra: _ } = block;
        // It may be told when something else has begun already: the whole text again is no second thought.
        let last = self.reasoning.as_ref().filter(|r| !r.done());
        let complete = !has_text && !text.is_empty() && last.is_some_and(|r| r.text == text);
        if !has_text && !complete {
            self.reasoning_text(&text, None);
        }
        if let Some(signature) = signature {
            self.sign_reasoning(signature, None);
        }
        if complete && let Some(open) = &mut self.reasoning {
            open.complete = true;
        }
        if let Some(sealed) = sealed {
            self.close_flow();
            let part = self.new_part(PartStart::Reasoning { extra: Extra::default() });
            self.delta(part, Delta::Sealed(sealed));
            self.end(part);
        }
    }

    /// Joins fragments as the list's `index` says; entries without one stand alone.
    fn detail(&mut self, detail: Value) {
        self.held += 64 + detail.get("text").and_then(Value::as_str).map_or(0, str::len);
        let same = |a: &Value, b: &Value| {
            a.get("index").is_some() && a.get("index") == b.get("index") && a.get("type") == b.get("type")
        };
        let Some(mine) = self.details.iter_mut().rev().find(|d| same(d, &detail)) else {
            self.details.push(detail);
            return;
        };
        let (Some(mine), Value::Object(more)) = (mine.as_object_mut(), detail) else { return };
        for (key, value) in more {
            match (mine.get_mut(&key), value) {
                (Some(Value::String(old)), Value::String(new))
                    if matches!(key.as_str(), "text" | "summary" | "data") =>
                {
                    old.push_str(&new);
                }
                (Some(old), value) if old.is_null() || (key == "signature" && !empty(&value)) => *old = value,
                (Some(_), _) => {}
                (None, value) => drop(mine.insert(key, value)),
            }
        }
    }

    fn call(&mut self, value: Value) -> Result<()> {
        let Value::Object(mut entry) = value else { return Ok(()) };
        let wire = entry.get("index").and_then(Value::as_u64);
        let id = entry.get("id").and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
        let kind = if entry.get("custom").is_some_and(|v| !empty(v)) { ToolKind::Custom } else { ToolKind::Function };
        let (key, input) = if kind == ToolKind::Custom { ("custom", "input") } else { ("function", "arguments") };
        let mut inner = match entry.shift_remove(key) {
            Some(Value::Object(inner)) => inner,
            _ => Map::new(),
        };
        let name = match inner.shift_remove("name") {
            Some(Value::String(name)) if !name.is_empty() => Some(name),
            _ => None,
        };
        let arguments = content::arguments(inner.shift_remove(input).filter(|v| !v.is_null()));
        let at = self.call_at(wire, id.as_deref(), name.is_some(), kind)?;
        let call = &mut self.calls[at];
        let mut fields = Fields::new(Value::Object(entry), "")?;
        let signed = super::super::wire::take_thought_signature(&mut fields);
        let mut entry = fields.rest_map();
        ["index", "id", "type"].iter().for_each(|k| drop(entry.shift_remove(*k)));
        keep(&mut call.extra, "", entry);
        inner.retain(|_, v| !v.is_null());
        keep(&mut call.extra, FUNCTION, inner);
        if let (true, Some(id)) = (call.id.is_empty(), id) {
            let (id, in_id) = signature::split_id(&id);
            call.id = id.to_owned();
            call.signature = call.signature.take().or(in_id);
        }
        // A name may come in pieces, before the arguments; what repeats it is none.
        if let Some(more) = name.filter(|more| call.part.is_none() && *more != call.name) {
            call.name.push_str(&more);
        }
        match (call.part, signed) {
            (None, Some(signed)) => drop(call.signature.insert(signed)),
            (Some(part), Some(signed)) if call.signature.is_none() => {
                call.signature = Some(signed.clone());
                self.delta(part, Delta::Signature(signed));
            }
            _ => {}
        }
        self.arguments(at, &arguments);
        Ok(())
    }

    /// The call that a fragment belongs to. Servers number all calls 0, leave the number out, or repeat the id.
    fn call_at(&mut self, wire: Option<u64>, id: Option<&str>, named: bool, kind: ToolKind) -> Result<usize> {
        let known = match (wire, id) {
            (Some(wire), _) => self.calls.iter().rposition(|c| c.wire == Some(wire)),
            (None, Some(id)) => self.calls.iter().rposition(|c| c.id == signature::split_id(id).0),
            (None, None) if named => None,
            (None, None) => self.calls.len().checked_sub(1),
        };
        let other = |at: &usize| {
            let call = &self.calls[*at];
            named && !call.id.is_empty() && id.is_some_and(|id| signature::split_id(id).0 != call.id)
        };
        if let Some(at) = known.filter(|at| !other(at)) {
            return Ok(at);
        }
        if self.calls.len() >= MAX_CALLS {
            return Err(Error::new(Kind::Upstream, format!("the upstream's answer calls more than {MAX_CALLS} tools")));
        }
        self.close_flow();
        self.begin_waiting();
        self.calls.push(Call {
            wire,
            id: String::new(),
            name: String::new(),
            kind,
            arguments: String::new(),
            signature: None,
            extra: Extra::default(),
            part: None,
            ended: false,
        });
        Ok(self.calls.len() - 1)
    }

    /// A part was told more, in the usual frame: of a call all is kept.
    pub fn grew(&mut self, part: u32, more: &str) {
        if let Some(call) = self.calls.iter_mut().find(|call| call.part == Some(part)) {
            self.held += more.len();
            call.arguments.push_str(more);
        }
    }

    fn arguments(&mut self, at: usize, more: &str) {
        self.held += more.len();
        let call = &mut self.calls[at];
        call.arguments.push_str(more);
        let (part, ended, named) = (call.part, call.ended, !call.name.is_empty());
        match part {
            Some(_) if ended || more.is_empty() => {}
            Some(part) => self.delta(part, Delta::Text(more.to_owned())),
            None if named && !more.is_empty() => self.begin_call(at),
            None => {}
        }
    }

    /// Calls whose names are whole because something else begins.
    fn begin_waiting(&mut self) {
        for at in 0..self.calls.len() {
            if self.calls[at].part.is_none() && !self.calls[at].name.is_empty() {
                self.begin_call(at);
            }
        }
    }

    /// Its name is known: the part begins, with the arguments that came before.
    fn begin_call(&mut self, at: usize) {
        self.end_complete_calls(at);
        let call = &self.calls[at];
        let start = PartStart::ToolCall {
            id: call.id.clone(),
            name: call.name.clone(),
            kind: call.kind,
            signature: call.signature.clone(),
            extra: call.extra.clone(),
        };
        let arguments = call.arguments.clone();
        let part = self.numbered(start);
        self.calls[at].part = Some(part);
        if !arguments.is_empty() {
            self.delta(part, Delta::Text(arguments));
        }
    }

    fn end_complete_calls(&mut self, before: usize) {
        for at in 0..before {
            let call = &mut self.calls[at];
            let complete = || serde_json::from_str::<serde::de::IgnoredAny>(&call.arguments).is_ok();
            if let (Some(part), false) = (call.part, call.ended)
                && call.kind == ToolKind::Function
                && complete()
            {
                call.ended = true;
                self.end(part);
            }
        }
    }

    fn legacy(&mut self, value: Value) {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (name, arguments) = (text("name"), text("arguments"));
        if self.calls.is_empty() {
            if name.is_empty() {
                return;
            }
            self.close_flow();
            let call = legacy_tool_call(name, String::new());
            self.calls.push(Call {
                wire: None,
                id: String::new(),
                name: call.name,
                kind: call.kind,
                arguments: String::new(),
                signature: None,
                extra: call.extra,
                part: None,
                ended: false,
            });
        }
        self.arguments(self.calls.len() - 1, &arguments);
    }

    /// Audio comes in fragments and is one part at the end.
    fn audio(&mut self, more: Map<String, Value>) {
        for (key, value) in more {
            self.held += value.as_str().map_or(0, str::len);
            match (self.audio.get_mut(&key), value) {
                (Some(Value::String(old)), Value::String(new)) if matches!(key.as_str(), "data" | "transcript") => {
                    old.push_str(&new);
                }
                (_, Value::Null) => {}
                (_, value) => drop(self.audio.insert(key, value)),
            }
        }
    }

    fn end_text(&mut self) {
        if let Some(part) = self.text.take() {
            self.end(part);
        }
    }

    fn end_refusal(&mut self) {
        if let Some(part) = self.refusal.take() {
            self.end(part);
        }
    }

    fn end_reasoning(&mut self) {
        let Some(open) = self.reasoning.as_mut().filter(|r| r.open) else { return };
        open.open = false;
        let part = open.part;
        self.end(part);
    }

    fn close_flow(&mut self) {
        self.end_text();
        self.end_refusal();
        self.end_reasoning();
    }

    /// The stream is over for this choice: everything still open ends, then the finish.
    pub fn close(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        if !self.sources.is_empty() && self.texts == 0 {
            self.sources.clear();
        }
        self.close_flow();
        for at in 0..self.calls.len() {
            if self.calls[at].part.is_none() {
                self.begin_call(at);
            }
        }
        for at in 0..self.calls.len() {
            if let (Some(part), false) = (self.calls[at].part, self.calls[at].ended) {
                self.calls[at].ended = true;
                self.end(part);
            }
        }
        if !self.audio.values().all(empty)
            && let Some(part) = assistant::audio_part(Value::Object(std::mem::take(&mut self.audio)))
        {
            self.whole(part);
        }
        if !self.details.is_empty() {
            let mut extra = Extra::default();
            extra.insert(F, "$message.reasoning_details", Value::Array(std::mem::take(&mut self.details)));
            self.out.push(Event::ChoiceExtra { choice: self.index, logprobs: None, extra });
        }
        if let Some(finish) = self.finished() {
            self.out.push(Event::Finish { choice: self.index, finish });
        }
    }

    fn finished(&self) -> Option<Finish> {
        self.finish.as_deref().map(|raw| finish(raw, !self.calls.is_empty()))
    }
}

/// The fields of a delta that mean something here; what is left in it is unknown.
struct Known {
    reasoning: Option<(String, Option<&'static str>)>,
    blocks: Vec<Reasoning>,
    details: Vec<Value>,
    content: Option<Value>,
    text_block: Option<u64>,
    text_signature: Option<Signature>,
    citations: Vec<Citation>,
    refusal: Option<String>,
    images: Vec<Value>,
    calls: Vec<Value>,
    function_call: Option<Value>,
    audio: Option<Value>,
    natives: Vec<Part>,
}

impl Known {
    fn take(delta: &mut Fields) -> Result<Self> {
        delta.take("role");
        let plain = text(delta, "reasoning_content");
        let other = text(delta, "reasoning");
        let reasoning = match (plain, other) {
            (Some(text), Some(_)) => Some((text, Some("both"))),
            (Some(text), None) => Some((text, None)),
            (None, Some(text)) => Some((text, Some("reasoning"))),
            (None, None) => None,
        };
        let mut specific = match delta.take("provider_specific_fields") {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let list = |value: Option<Value>| if let Some(Value::Array(items)) = value { items } else { Vec::new() };
        let thought = super::super::wire::thought_signature(delta);
        let ours = specific.shift_remove("text_signature");
        let text_signature = ours.as_ref().and_then(Value::as_str).map(|s| signature::read(s, F)).or(thought);
        let citations = citations(list(delta.take("annotations")), list(specific.shift_remove("citations")));
        let natives = list(specific.shift_remove("native")).iter().filter_map(assistant::native).collect();
        let text_block = specific.shift_remove("text_block").as_ref().and_then(Value::as_u64);
        ["text_blocks", "order"].iter().for_each(|k| drop(specific.shift_remove(*k)));
        let known = Known {
            reasoning,
            blocks: list(delta.take("thinking_blocks")).iter().filter_map(assistant::thinking_block).collect(),
            details: list(delta.take("reasoning_details")),
            content: delta.take("content"),
            text_block,
            text_signature,
            citations,
            refusal: text(delta, "refusal"),
            images: list(delta.take("images")),
            calls: list(delta.take("tool_calls")),
            function_call: delta.take("function_call").filter(|v| !empty(v)),
            audio: delta.take("audio").filter(|v| !empty(v)),
            natives,
        };
        if !specific.is_empty() {
            delta.put("provider_specific_fields", Value::Object(specific));
        }
        Ok(known)
    }
}

fn text(delta: &mut Fields, key: &str) -> Option<String> {
    delta.peek_str(key)?;
    match delta.take(key) {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// Annotations of one delta, completed by what ours says of them.
fn citations(annotations: Vec<Value>, ours: Vec<Value>) -> Vec<Citation> {
    let mut found: Vec<Citation> = annotations.into_iter().filter(Value::is_object).map(citation).collect();
    for entry in &ours {
        let Some((_, at, mine)) = assistant::specific_citation(entry) else { continue };
        match at.and_then(|at| found.get_mut(at)) {
            Some(known) => known.native = mine.native,
            None => found.push(mine),
        }
    }
    found
}

const MAX_CALLS: usize = 1024;

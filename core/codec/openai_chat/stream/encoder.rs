//! Events to a client's stream. Chunks are written as bytes around a head that is made once: a text delta costs one
//! escape of its text.

use serde_json::{Map, Value, json};

use super::super::{
    assistant::{self, Around, Place, call_id, citation_rest, media_value, native_value, told_call},
    details,
    response::{reasoning_field, write_finish},
    wire::{F, LEGACY, MESSAGE, annotation, code_points, marked, plain, tier_word, usage_value},
};
use crate::{
    codec::{ClientView, StreamEncoder, alike::Mould, signature, sse, written},
    error::Error,
    model::{
        Citation, Delta, Event, Extra, Finish, Part, PartStart, Reasoning, Signature, Start, ToolCall, ToolKind, Usage,
    },
};

pub struct Encoder {
    view: ClientView,
    /// `{"id":…,"choices":[`
    head: Vec<u8>,
    id: String,
    created: i64,
    /// Unknown fields of the whole answer that wait for the next chunk.
    late: Map<String, Value>,
    usage: Option<Usage>,
    choices: Vec<Choice>,
    over: bool,
    mould: Mould,
}

#[derive(Default)]
struct Choice {
    index: u32,
    begun: bool,
    parts: Vec<(u32, Open)>,
    kinds: Vec<&'static str>,
    texts: Vec<u64>,
    calls: usize,
    legacy: bool,
    /// The reasoning part before, if it was told without a block: (text).
    unproven: Option<String>,
    logprobs: Option<Value>,
    extra: Map<String, Value>,
    has_extra_content: bool,
    finished: bool,
}

/// A part that has begun.
enum Open {
    Text {
        block: usize,
        length: u64,
        told: bool,
        held: Vec<Citation>,
    },
    Refusal,
    Reasoning {
        field: &'static str,
        reasoning: Reasoning,
    },
    Call {
        wire: usize,
        kind: ToolKind,
        legacy: bool,
        told: bool,
    },
    /// A call that this client reads only whole.
    Held {
        entry: Map<String, Value>,
        kind: ToolKind,
        arguments: String,
    },
}

impl Encoder {
    pub fn new(view: &ClientView) -> Self {
        let mut encoder = Encoder {
            view: view.clone(),
            head: Vec::new(),
            id: format!("chatcmpl-{}", view.request_id),
            created: view.now,
            late: Map::new(),
            usage: None,
            choices: Vec::new(),
            over: false,
            mould: Mould::default(),
        };
        encoder.start(&Start::default());
        encoder
    }

    fn start(&mut self, start: &Start) {
        let Start { id, model, created, service_tier, extra } = start;
        if !id.is_empty() {
            self.id.clone_from(id);
        }
        self.created = created.unwrap_or(self.view.now);
        let model = if model.is_empty() { &self.view.model } else { model };
        let mut head =
            json!({"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": model});
        if let Some(tier) = service_tier {
            head["service_tier"] = tier_word(tier).into();
        }
        plain(extra, &mut self.late);
        // Of the unknown ones these are told in every chunk.
        for key in ["system_fingerprint", "provider"] {
            if let Some(value) = self.late.shift_remove(key) {
                head[key] = value;
            }
        }
        let mut text = head.to_string();
        text.pop();
        text.push_str(",\"choices\":[");
        self.head = text.into_bytes();
    }

    fn choice(&mut self, index: u32) -> usize {
        match self.choices.iter().position(|c| c.index == index) {
            Some(at) => at,
            None => {
                self.choices.push(Choice { index, ..Choice::default() });
                self.choices.len() - 1
            }
        }
    }

    /// One chunk with one choice. `finish` holds the finish reason and what goes with it.
    fn chunk(&mut self, at: usize, delta: &[u8], finish: Option<Map<String, Value>>, out: &mut Vec<u8>) {
        let choice = &mut self.choices[at];
        out.reserve(self.head.len() + delta.len() + AROUND);
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"{\"index\":");
        written::number(choice.index.into(), out);
        out.extend_from_slice(b",\"delta\":");
        let mut fields = std::mem::take(&mut choice.extra);
        // Nearly all chunks have none.
        let inner: Vec<String> = fields.keys().filter(|k| k.starts_with(MESSAGE)).cloned().collect();
        out.extend_from_slice(delta);
        for key in inner {
            let value = fields.shift_remove(&key).unwrap_or_default();
            out.pop();
            if out.last() != Some(&b'{') {
                out.push(b',');
            }
            member(&key[MESSAGE.len()..], &value, out);
            out.push(b'}');
        }
        out.extend_from_slice(b",\"logprobs\":");
        written::value(&choice.logprobs.take().unwrap_or_default(), out);
        if finish.is_none() {
            out.extend_from_slice(b",\"finish_reason\":null");
            fields.shift_remove("finish_reason");
        }
        for (key, value) in finish.into_iter().flatten() {
            out.push(b',');
            member(&key, &value, out);
            fields.shift_remove(&key);
        }
        for (key, value) in fields {
            out.push(b',');
            member(&key, &value, out);
        }
        out.extend_from_slice(b"}]");
        self.tail(out);
    }

    fn tail(&mut self, out: &mut Vec<u8>) {
        for (key, value) in std::mem::take(&mut self.late) {
            out.push(b',');
            member(&key, &value, out);
        }
        if self.view.include_usage {
            out.extend_from_slice(b",\"usage\":null");
        }
        out.extend_from_slice(b"}\n\n");
    }

    fn delta(&mut self, at: usize, delta: Value, out: &mut Vec<u8>) {
        self.chunk(at, delta.to_string().as_bytes(), None, out);
    }

    /// The first delta of a choice says who speaks.
    fn role(&mut self, at: usize, content: bool, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.choices[at].begun, true) {
            let content = if content { Value::from("") } else { Value::Null };
            // Unknown fields and logprobs belong to the output that follows.
            let choice = &mut self.choices[at];
            let kept = (choice.logprobs.take(), std::mem::take(&mut choice.extra));
            self.delta(at, json!({"role": "assistant", "content": content}), out);
            let choice = &mut self.choices[at];
            (choice.logprobs, choice.extra) = kept;
        }
    }

    fn part_start(&mut self, choice: u32, index: u32, part: &PartStart, out: &mut Vec<u8>) {
        let at = self.choice(choice);
        self.role(at, !matches!(part, PartStart::ToolCall { .. }), out);
        let open = match part {
            PartStart::Text { extra: _ } => self.open_text(at),
            PartStart::Refusal => {
                self.choices[at].kinds.push("refusal");
                Open::Refusal
            }
            PartStart::Reasoning { extra } => self.open_reasoning(at, extra, out),
            PartStart::ToolCall { id, name, kind, signature, extra } => {
                let call = ToolCall {
                    id: id.clone(),
                    name: name.clone(),
                    kind: *kind,
                    arguments: String::new(),
                    signature: signature.clone(),
                    cache: None,
                    extra: extra.clone(),
                };
                self.open_call(at, &call, out)
            }
            PartStart::Whole(part) => return self.whole(choice, index, part, out),
        };
        self.choices[at].parts.push((index, open));
    }

    fn open_text(&mut self, at: usize) -> Open {
        let choice = &mut self.choices[at];
        choice.kinds.push("text");
        choice.texts.push(0);
        let block = choice.texts.len() - 1;
        Open::Text { block, length: 0, told: false, held: Vec::new() }
    }

    fn open_reasoning(&mut self, at: usize, extra: &Extra, out: &mut Vec<u8>) -> Open {
        self.choices[at].kinds.push("reasoning");
        // A block around the one before marks the border.
        if let Some(text) = self.choices[at].unproven.take() {
            let block = Reasoning { text, ..Reasoning::default() };
            self.delta(at, json!({"thinking_blocks": assistant::blocks(&block)}), out);
        }
        Open::Reasoning { field: reasoning_field(extra), reasoning: Reasoning::default() }
    }

    fn open_call(&mut self, at: usize, call: &ToolCall, out: &mut Vec<u8>) -> Open {
        let choice = &mut self.choices[at];
        choice.kinds.push("tool_call");
        if marked(&call.extra, LEGACY) {
            choice.legacy = true;
            self.delta(at, json!({"function_call": {"name": call.name, "arguments": ""}}), out);
            return Open::Call { wire: 0, kind: call.kind, legacy: true, told: false };
        }
        let wire = choice.calls;
        choice.calls += 1;
        let id = call_id(call, &self.id, choice.index, wire);
        let mut entry = Map::new();
        entry.insert("index".into(), wire.into());
        entry.extend(told_call(call, &id, ""));
        if self.view.strict_sdk {
            return Open::Held { entry, kind: call.kind, arguments: String::new() };
        }
        self.delta(at, json!({"tool_calls": [entry]}), out);
        Open::Call { wire, kind: call.kind, legacy: false, told: false }
    }

    /// A part that comes at once: what has deltas is told as one, the rest has fields of its own.
    fn whole(&mut self, choice: u32, index: u32, part: &Part, out: &mut Vec<u8>) {
        let at = self.choice(choice);
        let around = Around { answer: &self.id, choice, now: self.created, extra: &Extra::default() };
        let delta = match part {
            Part::Media(media) => match media_value(media, &around) {
                (Place::Image, value) => json!({"images": [value]}),
                (Place::Audio, value) => json!({"audio": value}),
                (Place::Native, value) => json!({"provider_specific_fields": {"native": [value]}}),
            },
            Part::Native { .. } => json!({"provider_specific_fields": {"native": [native_value(part)]}}),
            Part::ToolResult(_) => return,
            Part::Text(_) | Part::Refusal(_) | Part::Reasoning(_) | Part::ToolCall(_) => {
                return self.unfold(choice, index, part, out);
            }
        };
        self.choices[at].kinds.push(assistant::kind_name(part));
        self.delta(at, delta, out);
    }

    fn unfold(&mut self, choice: u32, index: u32, part: &Part, out: &mut Vec<u8>) {
        let (start, deltas) = match part.clone() {
            Part::Text(t) => {
                let mut deltas = vec![Delta::Text(t.text)];
                deltas.extend(t.citations.into_iter().map(Delta::Citation));
                deltas.extend(t.signature.map(Delta::Signature));
                (PartStart::Text { extra: t.extra }, deltas)
            }
            Part::Refusal(text) => (PartStart::Refusal, vec![Delta::Text(text)]),
            Part::Reasoning(r) => {
                let mut deltas = vec![Delta::Text(r.text)];
                deltas.extend(r.signature.map(Delta::Signature));
                deltas.extend(r.sealed.map(Delta::Sealed));
                (PartStart::Reasoning { extra: r.extra }, deltas)
            }
            Part::ToolCall(c) => {
                let start = PartStart::ToolCall {
                    id: c.id,
                    name: c.name,
                    kind: c.kind,
                    signature: c.signature,
                    extra: c.extra,
                };
                (start, vec![Delta::Text(c.arguments)])
            }
            Part::Media(_) | Part::ToolResult(_) | Part::Native { .. } => return,
        };
        self.part_start(choice, index, &start, out);
        for delta in &deltas {
            self.part_delta(choice, index, delta, out);
        }
        self.part_end(choice, index, out);
    }

    /// A piece of text: the same chunk as the last one, if it was one of this part.
    fn said(&mut self, choice: u32, index: u32, text: &str, out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        let poured = self.mould.pour(choice, index, text, out);
        let at = self.choice(choice);
        let state = &mut self.choices[at];
        // What is told once makes a chunk like no other.
        let plain = self.late.is_empty() && state.extra.is_empty() && state.logprobs.is_none();
        let Some((_, open)) = state.parts.iter_mut().find(|(i, _)| *i == index) else { return };
        let key = match open {
            Open::Text { length, .. } if poured => {
                *length += code_points(text);
                return;
            }
            Open::Reasoning { reasoning, .. } if poured => return reasoning.text.push_str(text),
            _ if poured => return,
            Open::Text { block, told, .. } => (*block == 0 || *told).then_some("content"),
            Open::Refusal => Some("refusal"),
            Open::Reasoning { field, .. } => Some(*field),
            Open::Call { kind, .. } => Some(words(*kind).1),
            Open::Held { .. } => None,
        };
        let from = out.len();
        self.part_delta(choice, index, &Delta::Text(text.to_owned()), out);
        if let Some(key) = key.filter(|_| plain) {
            self.mould.learn(choice, index, key, text, &out[from..]);
        }
    }

    fn part_delta(&mut self, choice: u32, index: u32, delta: &Delta, out: &mut Vec<u8>) {
        let at = self.choice(choice);
        let signed_elsewhere = self.choices[at].has_extra_content;
        let Some((_, open)) = self.choices[at].parts.iter_mut().find(|(i, _)| *i == index) else { return };
        let mut bytes = Vec::with_capacity(DELTA);
        match (open, delta) {
            (_, Delta::Text(text)) if text.is_empty() => return,
            (Open::Text { block, length, told, held: _ }, Delta::Text(text)) => {
                *length += code_points(text);
                let border = (*block > 0 && !std::mem::replace(told, true)).then_some(*block);
                field("content", text, &mut bytes);
                if let Some(block) = border {
                    bytes.pop();
                    bytes.extend_from_slice(
                        format!(",\"provider_specific_fields\":{{\"text_block\":{block}}}}}").as_bytes(),
                    );
                }
            }
            (Open::Text { held, .. }, Delta::Citation(citation)) => {
                if citation.start.is_none() && !matches!(citation.native, Some((F, _))) {
                    // Its span is known when the text is.
                    held.push(citation.clone());
                    return;
                }
                let (block, citation) = (0, citation.clone());
                return self.citations(at, block, (0, 0), &[citation], out);
            }
            (Open::Text { block, .. }, Delta::Signature(s)) => {
                if signed_elsewhere {
                    return;
                }
                let mut specific = json!({"text_signature": signature::write(s, F)});
                if *block > 0 {
                    specific["text_block"] = (*block).into();
                }
                let told = json!({ "provider_specific_fields": specific });
                if let Some((_, Open::Text { told, .. })) = self.choices[at].parts.iter_mut().find(|(i, _)| *i == index)
                {
                    *told = true;
                }
                return self.delta(at, told, out);
            }
            (Open::Refusal, Delta::Text(text)) => field("refusal", text, &mut bytes),
            (Open::Reasoning { field: name, reasoning }, Delta::Text(text)) => {
                reasoning.text.push_str(text);
                field(name, text, &mut bytes);
            }
            (Open::Reasoning { reasoning, .. }, Delta::Signature(s)) => return sign(&mut reasoning.signature, s),
            (Open::Reasoning { reasoning, .. }, Delta::Sealed(s)) => {
                reasoning.sealed = Some(s.clone());
                return;
            }
            (Open::Call { wire, kind, legacy, told }, Delta::Text(text)) => {
                *told = true;
                arguments(*wire, *kind, *legacy, text, &mut bytes);
            }
            (Open::Held { arguments, .. }, Delta::Text(text)) => {
                arguments.push_str(text);
                return;
            }
            (Open::Held { entry, .. }, Delta::Signature(s)) => {
                entry.insert("provider_specific_fields".into(), json!({"thought_signature": s.data}));
                return;
            }
            (Open::Call { wire, .. }, Delta::Signature(s)) => {
                let specific = json!({"thought_signature": s.data});
                let value = json!({"tool_calls": [{"index": *wire, "provider_specific_fields": specific}]});
                return self.delta(at, value, out);
            }
            _ => return,
        }
        self.chunk(at, &bytes, None, out);
    }

    fn citations(&mut self, at: usize, block: usize, span: (u64, u64), list: &[Citation], out: &mut Vec<u8>) {
        let (mut annotations, mut rest) = (Vec::new(), Vec::new());
        for citation in list {
            let place = annotation(citation, span).map(|value| {
                annotations.push(value);
                annotations.len() - 1
            });
            rest.extend(citation_rest(citation, block, place));
        }
        let mut delta = Map::new();
        if !annotations.is_empty() {
            delta.insert("annotations".into(), Value::Array(annotations));
        }
        if !rest.is_empty() {
            delta.insert("provider_specific_fields".into(), json!({ "citations": rest }));
        }
        if !delta.is_empty() {
            self.delta(at, Value::Object(delta), out);
        }
    }

    fn part_end(&mut self, choice: u32, index: u32, out: &mut Vec<u8>) {
        let at = self.choice(choice);
        let Some(place) = self.choices[at].parts.iter().position(|(i, _)| *i == index) else { return };
        let (_, open) = self.choices[at].parts.remove(place);
        match open {
            Open::Text { block, length, told: _, held } => {
                let texts = &mut self.choices[at].texts;
                if let Some(slot) = texts.get_mut(block) {
                    *slot = length;
                }
                // Known only now: a text before it may have been open when it began.
                let start = texts.iter().take(block).sum::<u64>();
                self.citations(at, block, (start, start + length), &held, out);
            }
            Open::Refusal => {}
            Open::Reasoning { reasoning, field: _ } => {
                let proven = reasoning.signature.is_some() || reasoning.sealed.is_some();
                if proven && !details::told(&reasoning) {
                    self.delta(at, json!({"thinking_blocks": assistant::blocks(&reasoning)}), out);
                } else if !reasoning.text.is_empty() {
                    self.choices[at].unproven = Some(reasoning.text);
                }
            }
            Open::Call { wire, kind: ToolKind::Function, legacy, told: false } => {
                let mut bytes = Vec::new();
                arguments(wire, ToolKind::Function, legacy, "{}", &mut bytes);
                self.chunk(at, &bytes, None, out);
            }
            Open::Call { .. } => {}
            Open::Held { mut entry, kind, mut arguments } => {
                let (kind, input) = words(kind);
                if arguments.is_empty() && input == "arguments" {
                    arguments.push_str("{}");
                }
                if let Some(inner) = entry.get_mut(kind).and_then(Value::as_object_mut) {
                    inner.insert(input.into(), arguments.into());
                }
                self.delta(at, json!({"tool_calls": [entry]}), out);
            }
        }
    }

    fn finish_choice(&mut self, choice: u32, finish: &Finish, out: &mut Vec<u8>) {
        let at = self.choice(choice);
        self.role(at, true, out);
        self.close(at, out);
        let choice = &mut self.choices[at];
        if std::mem::replace(&mut choice.finished, true) {
            return;
        }
        let mut specific = Map::new();
        if choice.texts.len() > 1 {
            specific.insert("text_blocks".into(), choice.texts.clone().into());
        }
        if let Some(order) = assistant::order(&choice.kinds) {
            specific.insert("order".into(), order);
        }
        let delta = if specific.is_empty() { json!({}) } else { json!({ "provider_specific_fields": specific }) };
        let mut fields = Map::new();
        write_finish(Some(finish), choice.legacy, &mut fields);
        // What the origin itself told under these names wins.
        fields.retain(|key, _| key == "finish_reason" || !choice.extra.contains_key(key));
        self.chunk(at, delta.to_string().as_bytes(), Some(fields), out);
    }

    fn close(&mut self, at: usize, out: &mut Vec<u8>) {
        let choice = self.choices[at].index;
        while let Some((index, _)) = self.choices[at].parts.first() {
            let index = *index;
            self.part_end(choice, index, out);
        }
    }
}

impl StreamEncoder for Encoder {
    fn push(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        if !matches!(event, Event::Delta { delta: Delta::Text(_), .. }) {
            self.mould.forget();
        }
        match event {
            Event::Start(start) => self.start(start),
            Event::PartStart { choice, index, part } => self.part_start(*choice, *index, part, out),
            Event::Delta { choice, index, delta: Delta::Text(text) } => self.said(*choice, *index, text, out),
            Event::Delta { choice, index, delta } => self.part_delta(*choice, *index, delta, out),
            Event::PartEnd { choice, index } => self.part_end(*choice, *index, out),
            Event::ChoiceExtra { choice, logprobs, extra } => {
                let at = self.choice(*choice);
                let choice = &mut self.choices[at];
                join_logprobs(&mut choice.logprobs, logprobs.clone());
                choice.has_extra_content |= marked(extra, "$message.extra_content");
                // `$message.` keys keep their mark until the chunk is written.
                for (key, value) in extra.of(F).into_iter().flatten() {
                    if key.starts_with(MESSAGE) || !key.starts_with('$') {
                        choice.extra.insert(key.clone(), value.clone());
                    }
                }
            }
            Event::Finish { choice, finish } => self.finish_choice(*choice, finish, out),
            Event::Usage(usage) => Usage::hear(&mut self.usage, usage, F),
            Event::Extra(extra) => {
                let mut news = Map::new();
                plain(extra, &mut news);
                self.late.extend(news);
            }
            Event::Ping => self.keep_alive(out),
            Event::End => {}
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        for at in 0..self.choices.len() {
            self.close(at, out);
            // Logprobs and unknown fields that came after the finish.
            let choice = &self.choices[at];
            if choice.logprobs.is_some() || !choice.extra.is_empty() {
                self.chunk(at, b"{}", None, out);
            }
        }
        let usage = self.usage.as_ref().filter(|_| self.view.include_usage).and_then(usage_value);
        if usage.is_some() || !self.late.is_empty() {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(&self.head);
            out.push(b']');
            for (key, value) in std::mem::take(&mut self.late) {
                out.push(b',');
                member(&key, &value, out);
            }
            if self.view.include_usage {
                out.push(b',');
                member("usage", &usage.unwrap_or_default(), out);
            }
            out.extend_from_slice(b"}\n\n");
        }
        sse::write(None, b"[DONE]", out);
    }

    fn error(&mut self, error: &Error, _request_id: &str, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.over, true) {
            sse::write(None, &super::super::error::encode(error), out);
        }
    }
}

fn sign(mine: &mut Option<Signature>, more: &Signature) {
    match mine {
        Some(mine) if mine.origin == more.origin => mine.data.push_str(&more.data),
        mine => *mine = Some(more.clone()),
    }
}

fn join_logprobs(mine: &mut Option<Value>, more: Option<Value>) {
    let Some(more) = more else { return };
    let (Some(Value::Object(mine)), Value::Object(more)) = (mine.as_mut(), &more) else {
        *mine = Some(more);
        return;
    };
    for (key, value) in more {
        match (mine.get_mut(key), value) {
            (Some(Value::Array(list)), Value::Array(items)) => list.extend(items.iter().cloned()),
            (Some(slot), value) if slot.is_null() => *slot = value.clone(),
            (Some(_), _) => {}
            (None, value) => drop(mine.insert(key.clone(), value.clone())),
        }
    }
}

fn arguments(wire: usize, kind: ToolKind, legacy: bool, text: &str, out: &mut Vec<u8>) {
    if legacy {
        out.extend_from_slice(b"{\"function_call\":");
        field("arguments", text, out);
        out.push(b'}');
        return;
    }
    let (kind, input) = words(kind);
    out.extend_from_slice(format!("{{\"tool_calls\":[{{\"index\":{wire},\"{kind}\":").as_bytes());
    field(input, text, out);
    out.extend_from_slice(b"}]}");
}

/// Where a call of this kind says what it is given.
fn words(kind: ToolKind) -> (&'static str, &'static str) {
    match kind {
        ToolKind::Function => ("function", "arguments"),
        ToolKind::Custom => ("custom", "input"),
    }
}

/// What most deltas need, and a chunk around one.
const DELTA: usize = 64;
const AROUND: usize = 96;

/// `{"name":"text"}`
fn field(name: &str, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    written::text(text, out);
    out.push(b'}');
}

fn member(key: &str, value: &Value, out: &mut Vec<u8>) {
    written::text(key, out);
    out.push(b':');
    written::value(value, out);
}

//! Events to a client's stream. Items are numbered as they begin; a message or a thought stays open until something else
//! begins, since the pieces of one item may be parts of their own. What was told is kept, because the last event repeats
//! the whole answer.

mod frames;
mod parts;
mod whole;

use serde_json::{Value, json};

use self::frames::{Around, CLOSE, Place};
use super::{
    super::{
        error,
        frame::{Frame, SAID},
        response::log_list,
        wire::{F, item_id, response_id},
    },
    told::{Call, Item, Say, State},
};
use crate::{
    codec::{ClientView, StreamEncoder, signature, sse},
    error::Error,
    model::{Delta, Event, Finish, PartStart, Start, ToolCall, ToolKind, Usage},
};

pub struct Encoder {
    view: ClientView,
    start: Start,
    id: String,
    begun: bool,
    sequence: u64,
    around: Around,
    items: Vec<Item>,
    /// Where each part of the answer went: its number, the item, the place in it.
    places: Vec<(u32, usize, usize)>,
    message: Option<usize>,
    thought: Option<usize>,
    /// Log probabilities that wait for their text.
    logprobs: Vec<Value>,
    usage: Option<Usage>,
    finish: Option<Finish>,
    beside: Vec<Value>,
    refused: bool,
    over: bool,
}

impl Encoder {
    pub fn new(view: ClientView) -> Self {
        Encoder {
            id: response_id("", &view.request_id),
            view,
            start: Start::default(),
            begun: false,
            sequence: 0,
            around: Around::default(),
            items: Vec::new(),
            places: Vec::new(),
            message: None,
            thought: None,
            logprobs: Vec::new(),
            usage: None,
            finish: None,
            beside: Vec::new(),
            refused: false,
            over: false,
        }
    }

    fn frame(&self) -> Frame<'_> {
        Frame {
            id: &self.id,
            model: &self.start.model,
            created: self.start.created,
            service_tier: self.start.service_tier.as_deref(),
            extra: &self.start.extra,
            view: &self.view,
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let response = self.frame().running().bytes();
        for name in ["response.created", "response.in_progress"] {
            self.whole_answer(name, &response, out);
        }
    }

    fn add(&mut self, id: String, state: State, out: &mut Vec<u8>) -> usize {
        let item = Item { id, state, detached: false, done: false, written: Vec::new() };
        self.items.push(item);
        let index = self.items.len() - 1;
        self.item_added(index, out);
        index
    }

    fn made_id(&self, kind: &str) -> String {
        item_id(kind, &self.id, self.items.len())
    }

    /// Something else begins: what stayed open ends, or ends with its last part.
    fn let_go(&mut self, message: bool, thought: bool, out: &mut Vec<u8>) {
        let open = [(message, self.message), (thought, self.thought)];
        for item in open.into_iter().filter_map(|(go, item)| item.filter(|_| go)) {
            self.items[item].detached = true;
            self.close_if_over(item, out);
        }
        if message {
            self.message = None;
        }
        if thought {
            self.thought = None;
        }
    }

    fn close_if_over(&mut self, item: usize, out: &mut Vec<u8>) {
        if self.items[item].detached && self.items[item].all_ended() {
            self.close(item, out);
        }
    }

    fn close(&mut self, at: usize, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.items[at].done, true) {
            return;
        }
        if let State::Message { says, .. } = &self.items[at].state {
            for sub in 0..says.len() {
                self.say_done(at, sub, out);
            }
        }
        if let State::Thought(think) = &self.items[at].state {
            for sub in 0..think.pieces.len() {
                self.think_done(at, sub, out);
            }
        }
        if let State::Call(_) = &self.items[at].state {
            self.call_done(at, out);
        }
        self.item_done(at, out);
    }

    fn part_start(&mut self, part: u32, start: &PartStart, out: &mut Vec<u8>) {
        match start {
            PartStart::Text { extra } => self.say(part, Say::text(extra.clone()), Some(extra), out),
            PartStart::Refusal => self.say(part, Say::refusal(), None, out),
            PartStart::Reasoning { extra } => self.think(part, extra, out),
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
                self.call(part, call, out);
            }
            PartStart::Whole(whole) => self.whole(part, whole, out),
        }
    }

    fn delta(&mut self, part: u32, delta: &Delta, out: &mut Vec<u8>) {
        let Some((_, item, sub)) = self.places.iter().rev().find(|(p, ..)| *p == part).copied() else { return };
        self.items[item].written.clear();
        match &mut self.items[item].state {
            State::Message { says, .. } => {
                let say = &mut says[sub];
                match delta {
                    Delta::Text(text) => {
                        say.text.text.push_str(text);
                        let (name, logs) = if say.refusal {
                            ("response.refusal.delta", None)
                        } else {
                            ("response.output_text.delta", Some(std::mem::take(&mut self.logprobs)))
                        };
                        say.logprobs.extend(logs.iter().flatten().cloned());
                        self.piece(name, item, Place::Content(sub), text, logs.as_deref(), out);
                    }
                    Delta::Citation(citation) => {
                        if let Some((at, annotation)) = say.cite(citation) {
                            let id = self.items[item].id.clone();
                            let event = json!({
                                "item_id": id, "output_index": item, "content_index": sub,
                                "annotation_index": at, "annotation": annotation,
                            });
                            self.emit("response.output_text.annotation.added", event, out);
                        }
                    }
                    Delta::Signature(signature) => say.text.signature = Some(signature.clone()),
                    Delta::Sealed(_) => {}
                }
            }
            State::Thought(_) => match delta {
                Delta::Text(text) => {
                    let Some((raw, at)) = self.think_place(item, sub, out) else { return };
                    if let State::Thought(think) = &mut self.items[item].state {
                        think.push(sub, text);
                    }
                    let (name, place) = if raw {
                        ("response.reasoning_text.delta", Place::Content(at))
                    } else {
                        ("response.reasoning_summary_text.delta", Place::Summary(at))
                    };
                    self.piece(name, item, place, text, None, out);
                }
                Delta::Signature(signature) => {
                    if !self.items[item].done {
                        self.think_place(item, sub, out);
                    }
                    if let State::Thought(think) = &mut self.items[item].state {
                        think.sign(signature);
                    }
                }
                Delta::Sealed(sealed) => {
                    if let State::Thought(think) = &mut self.items[item].state {
                        think.sealed = Some(sealed.clone());
                    }
                }
                Delta::Citation(_) => {}
            },
            State::Call(Call { call, ended: false, .. }) => {
                if let Delta::Text(text) = delta {
                    call.arguments.push_str(text);
                    let name = match call.kind {
                        ToolKind::Function => "response.function_call_arguments.delta",
                        ToolKind::Custom => "response.custom_tool_call_input.delta",
                    };
                    self.piece(name, item, Place::Item, text, None, out);
                }
            }
            State::Call(_) | State::Whole(_) => {}
        }
    }

    fn part_end(&mut self, part: u32, out: &mut Vec<u8>) {
        let Some((_, item, sub)) = self.places.iter().rev().find(|(p, ..)| *p == part).copied() else { return };
        match &mut self.items[item].state {
            State::Message { says, .. } => says[sub].ended = true,
            State::Thought(think) => think.pieces[sub].ended = true,
            State::Call(call) => {
                call.ended = true;
                self.items[item].detached = true;
            }
            State::Whole(_) => return,
        }
        if matches!(self.items[item].state, State::Thought(_)) {
            self.think_done(item, sub, out);
        }
        self.close_if_over(item, out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.begin(out);
        self.late_logprobs();
        for item in 0..self.items.len() {
            self.close(item, out);
        }
        let mut output = vec![b'['];
        for at in 0..self.items.len() {
            if at > 0 {
                output.push(b',');
            }
            self.write_item(at);
            output.extend_from_slice(&self.items[at].written);
        }
        output.push(b']');
        let beside = std::mem::take(&mut self.beside);
        let frame = self.frame();
        let response = frame.over(output, self.finish.as_ref(), self.refused, self.usage.as_ref(), beside);
        let name = if response.status == "incomplete" { "response.incomplete" } else { "response.completed" };
        let response = response.bytes();
        self.whole_answer(name, &response, out);
        // Not needed by its own vendor's clients, and taken for the end by all.
        sse::write(None, b"[DONE]", out);
    }

    /// Log probabilities that came behind all text stand on the last one.
    fn late_logprobs(&mut self) {
        let late = std::mem::take(&mut self.logprobs);
        let last = self.items.iter_mut().rev().find_map(|item| match &mut item.state {
            State::Message { says, .. } => says.last_mut().map(|say| (say, &mut item.written)),
            _ => None,
        });
        if let Some((say, written)) = last.filter(|_| !late.is_empty()) {
            say.logprobs.extend(late);
            written.clear();
        }
    }
}

impl StreamEncoder for Encoder {
    fn push(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        if let Some(apart) = signature::apart(event) {
            self.begin(out);
            self.let_go(true, true, out);
            return apart.iter().for_each(|event| self.push(event, out));
        }
        match event {
            Event::Start(start) => {
                self.id = response_id(&start.id, &self.view.request_id);
                self.start = start.clone();
                self.begin(out);
            }
            Event::PartStart { choice: 0, index, part } => {
                self.begin(out);
                self.part_start(*index, part, out);
            }
            Event::Delta { choice: 0, index, delta } => self.delta(*index, delta, out),
            Event::PartEnd { choice: 0, index } => self.part_end(*index, out),
            Event::ChoiceExtra { choice: 0, logprobs, extra: _ } => {
                self.logprobs.extend(log_list(logprobs.as_ref()).into_iter().flatten());
            }
            Event::Finish { choice: 0, finish } => self.finish = Some(finish.clone()),
            Event::Usage(usage) => Usage::hear(&mut self.usage, usage, F),
            Event::Extra(extra) => {
                let late = extra.of(F).into_iter().flatten();
                for (key, value) in late.filter(|(key, _)| !key.starts_with('$') || *key == SAID) {
                    self.start.extra.insert(F, key, value.clone());
                }
            }
            Event::Ping => self.keep_alive(out),
            Event::End => self.end(out),
            Event::PartStart { .. }
            | Event::Delta { .. }
            | Event::PartEnd { .. }
            | Event::ChoiceExtra { .. }
            | Event::Finish { .. } => {}
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.end(out);
    }

    fn went_by(&mut self, next: u64) {
        self.sequence = self.sequence.max(next);
    }

    fn error(&mut self, error: &Error, _request_id: &str, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.over, true) {
            let event = error::event(error, self.sequence);
            sse::write(Some("error"), event.to_string().as_bytes(), out);
        }
    }
}

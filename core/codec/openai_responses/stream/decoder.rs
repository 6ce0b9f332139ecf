//! An upstream's stream to events. Every event names its item; items may be open at the same time, and what a `done` event
//! repeats is told only where no delta told it. The last event carries the whole answer, which fills what is missing still.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    super::{
        error,
        frame::{self, SAID},
        item::Items,
        response::{Head, sound},
        wire::{F, finish, is_call, is_search, searched, take_beside, upstream_shape},
    },
    again::{again, is_running},
    open::{Item, Slots},
};
use crate::{
    codec::{
        StreamDecoder,
        alike::Alike,
        is_error_event,
        json::{Fields, parse_event},
        sse,
        surrogate::Half,
        tape::Tape,
    },
    error::{Error, Kind, Result},
    model::{Delta, Event, Extra, Part, Start},
};

pub struct Decoder {
    sse: sse::Decoder,
    answer: Answer,
}

#[derive(Default)]
struct Answer {
    /// Bytes of open items that may be kept while it runs.
    limit: usize,
    started: bool,
    done: bool,
    dead: bool,
    /// Unknown fields of the whole answer, as told at its start.
    told: Map<String, Value>,
    items: Vec<(u64, Item)>,
    slots: Slots,
    called: bool,
    /// Of each item that looked for something in the web: is it charged?
    searches: BTreeMap<u64, bool>,
    alike: Alike,
    half: Half,
}

impl Decoder {
    /// `limit`: the most bytes of an event; what is kept of an answer while it runs may be four times that.
    pub fn new(limit: usize) -> Self {
        let answer = Answer { limit: limit.saturating_mul(4), ..Answer::default() };
        Decoder { sse: sse::Decoder::new(limit), answer }
    }
}

impl StreamDecoder for Decoder {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<()> {
        let Decoder { sse, answer } = self;
        let result = sse.push(bytes, |frame| answer.frame(frame, out));
        answer.dead |= result.is_err();
        result
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<()> {
        let Decoder { sse, answer } = self;
        if !answer.done && !answer.dead {
            let told = sse.finish(|frame| answer.frame(frame, out));
            answer.dead = is_error_event(&told);
            if answer.dead {
                return told;
            }
        }
        if answer.done || answer.dead {
            return Ok(());
        }
        Err(Error::new(Kind::Upstream, "the upstream's stream broke off before its end; try again"))
    }
}

impl Answer {
    fn frame(&mut self, frame: &sse::Frame, out: &mut Vec<Event>) -> Result<()> {
        let data = frame.data.trim();
        if self.done || self.dead || data.is_empty() {
            return Ok(());
        }
        if data == "[DONE]" {
            return Err(Error::new(Kind::Upstream, "the upstream's stream ended without its last event; try again"));
        }
        if let Some((choice, index, text)) = self.alike.read(&frame.event, data.as_bytes()) {
            for (_, item) in &mut self.items {
                item.grow(index, &text, &mut self.slots);
            }
            out.push(Event::Delta { choice, index, delta: Delta::Text(text) });
            return self.bounded();
        }
        if self.started && is_running(&frame.event, data) {
            return Ok(());
        }
        if let Some((index, said)) = again(&frame.event, data)
            && let Some((_, item)) = self.items.iter_mut().find(|(at, _)| *at == index)
            && item.told_again(&said, &mut self.slots, out)
        {
            // What comes next is no more of a part that has ended.
            self.alike.forget();
            return Ok(());
        }
        if let Some(told) = self.whole_answer(&frame.event, data.as_bytes(), out) {
            self.alike.forget();
            told.map_err(upstream_shape)?;
            return self.bounded();
        }
        let from = out.len();
        let value = parse_event(data, &mut self.half)?;
        let name = value.get("type").and_then(Value::as_str).unwrap_or(&frame.event).to_owned();
        self.event(&name, value, out).map_err(upstream_shape)?;
        self.alike.learn(&frame.event, data.as_bytes(), &["delta"], &["sequence_number", "obfuscation"], &out[from..]);
        self.bounded()
    }

    /// A frame that carries the answer, read without a tree. `None`: it is another one, or unusual.
    fn whole_answer(&mut self, name: &str, frame: &[u8], out: &mut Vec<Event>) -> Option<Result<()>> {
        let last = matches!(name, "response.completed" | "response.incomplete");
        if !last && name != "response.created" {
            return None;
        }
        let tape = Tape::read(frame)?;
        let frame = tape.root();
        // What it is called and what it says it is may differ.
        if frame.member("type")?.text()? != name {
            return None;
        }
        let response = Fields::new(frame.member("response")?, "response").ok()?;
        Some(if last { self.end(response, out) } else { self.begin(response, out) })
    }

    fn bounded(&self) -> Result<()> {
        if self.slots.held > self.limit {
            return Err(Error::new(Kind::Upstream, format!("the upstream's answer is over {} bytes", self.limit)));
        }
        Ok(())
    }

    fn event(&mut self, name: &str, value: Value, out: &mut Vec<Event>) -> Result<()> {
        match name {
            "error" => Err(error::in_event(&value)),
            "response.created" | "response.in_progress" | "response.queued" => self.begin(response(value)?, out),
            "response.completed" | "response.incomplete" => self.end(response(value)?, out),
            "response.failed" | "response.cancelled" => Err(error::in_answer(value.get("response").unwrap_or(&value))),
            _ if value.get("error").is_some_and(|e| e.is_object()) => Err(error::in_answer(&value)),
            _ if value.get("output_index").is_some() => self.item_event(name, value, out),
            // Lifecycle of what no item tells, padding, events of later versions.
            _ => Ok(()),
        }
    }

    fn begin(&mut self, response: Fields, out: &mut Vec<Event>) -> Result<()> {
        if std::mem::replace(&mut self.started, true) {
            return Ok(());
        }
        let mut f = sound(response)?;
        let head = Head::take(&mut f)?;
        self.start(&head, frame::rest(f), out);
        Ok(())
    }

    fn start(&mut self, head: &Head, told: Map<String, Value>, out: &mut Vec<Event>) {
        let (id, model, created) = (head.id.clone(), head.model.clone(), head.created);
        self.told = told;
        // What it will have been is known at the end.
        self.told.shift_remove("service_tier");
        let extra = Extra::new(F, self.told.clone());
        out.push(Event::Start(Start { id, model, created, service_tier: None, extra }));
    }

    fn item_event(&mut self, name: &str, mut value: Value, out: &mut Vec<Event>) -> Result<()> {
        let Some(index) = value.get("output_index").and_then(Value::as_u64) else { return Ok(()) };
        if !self.started {
            self.started = true;
            out.push(Event::Start(Start::default()));
        }
        if name == "response.output_item.added" || name == "response.output_item.done" {
            let item = value.get_mut("item").map(Value::take).unwrap_or_default();
            return self.item(index, item, name == "response.output_item.done", out);
        }
        let at = self.items.iter().position(|(i, _)| *i == index);
        match at {
            Some(at) => self.items[at].1.event(name, value, &mut self.slots, out),
            // A delta of an item that nobody announced: its kind is in its name.
            None => match Item::guess(name, &value) {
                Some(item) => {
                    self.add(index, item)?;
                    let last = self.items.len() - 1;
                    self.items[last].1.event(name, value, &mut self.slots, out)
                }
                None => Ok(()),
            },
        }
    }

    fn add(&mut self, index: u64, item: Item) -> Result<()> {
        if self.items.len() >= MAX_ITEMS {
            return Err(Error::new(Kind::Upstream, format!("the upstream's answer has more than {MAX_ITEMS} items")));
        }
        self.items.push((index, item));
        Ok(())
    }

    fn item(&mut self, index: u64, item: Value, done: bool, out: &mut Vec<Event>) -> Result<()> {
        let kind = super::super::item::kind(&item, "item")?;
        self.called |= is_call(&kind);
        if kind == "web_search_call" {
            // What it did is known when it is done.
            self.searches.insert(index, is_search(&item));
        }
        let at = match self.items.iter().position(|(i, _)| *i == index) {
            Some(at) => at,
            None => {
                self.add(index, Item::open(&kind, &item))?;
                self.items.len() - 1
            }
        };
        let open = &mut self.items[at].1;
        if done { open.done(item, &mut self.slots, out) } else { open.added(item, &mut self.slots, out) }
    }

    fn end(&mut self, response: Fields, out: &mut Vec<Event>) -> Result<()> {
        let mut f = sound(response)?;
        let output = f.item("output");
        let mut head = Head::take(&mut f)?;
        let mut late = frame::rest(f);
        if !std::mem::replace(&mut self.started, true) {
            self.start(&head, late.clone(), out);
        }
        let output = output.and_then(|output| output.items().ok()).unwrap_or_default();
        for (index, item) in output.into_iter().enumerate() {
            let ended = self.items.get(index).is_some_and(|(at, item)| *at == index as u64 && item.done);
            if !ended {
                self.item(index as u64, item.tree(), true, out)?;
            }
        }
        for (_, item) in &mut self.items {
            item.close(&mut self.slots, out);
        }
        searched(&mut head.usage, self.searches.values().filter(|is_search| **is_search).count());
        for part in take_beside(&mut late) {
            let index = self.slots.next();
            out.push(Event::PartStart { choice: 0, index, part: crate::model::PartStart::Whole(part) });
            out.push(Event::PartEnd { choice: 0, index });
        }
        if self.told.contains_key(SAID) && !late.contains_key(SAID) {
            late.insert(SAID.to_owned(), 0.into());
        }
        late.retain(|key, value| self.told.get(key) != Some(value));
        if !late.is_empty() {
            out.push(Event::Extra(Extra::new(F, late)));
        }
        if let Some(usage) = head.usage {
            out.push(Event::Usage(usage));
        }
        if let Some(finish) = finish(&head.status, head.reason.as_deref(), self.called, self.slots.refused) {
            out.push(Event::Finish { choice: 0, finish });
        }
        out.push(Event::End);
        self.done = true;
        Ok(())
    }
}

/// The answer that an event carries.
fn response(mut event: Value) -> Result<Fields<'static>> {
    Fields::new(event.get_mut("response").map(Value::take).unwrap_or_default(), "response")
}

/// The parts of an item that arrives whole.
pub fn whole(item: Value) -> Result<(Vec<Part>, Vec<Value>)> {
    let mut items = Items::default();
    items.read(item, "item")?;
    Ok((items.parts, items.logprobs))
}

const MAX_ITEMS: usize = 4096;

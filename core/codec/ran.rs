//! Code that a provider ran itself, and what came of it, in another family's words. In an answer it becomes the client's own
//! blocks where its format has some; in a past turn of another provider's it becomes text, so that no model is kept from what
//! was found. Knows no format: each reads and writes its own blocks.

use super::{StreamDecoder, codec};
use crate::{
    error::Result,
    model::{Delta, Event, Extra, Format, Part, PartStart, Reasoning, Response, Signature},
};

/// A piece of what a block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ran {
    /// `language`: `python`, `bash`, or what the provider calls it.
    Code {
        id: String,
        language: String,
        code: String,
    },
    Output {
        id: String,
        text: String,
        failed: bool,
    },
}

/// What a part says was run.
fn of(part: &Part) -> Vec<Ran> {
    match part {
        Part::Native { format, kind, value } => codec(*format).ran(kind, value),
        _ => Vec::new(),
    }
}

/// Its provider's proof, which stands before the client's own blocks as sealed reasoning: every client sends that back.
fn proof(part: &Part) -> Option<Signature> {
    match part {
        Part::Native { format, value, .. } => codec(*format).ran_signature(value),
        _ => None,
    }
}

/// For a reader of plain text.
pub fn text(ran: &[Ran]) -> String {
    let pieces = ran.iter().map(|ran| match ran {
        Ran::Code { language, code, id: _ } => format!("```{language}\n{}\n```", code.trim_end()),
        Ran::Output { text, .. } => format!("```output\n{}\n```", text.trim_end()),
    });
    pieces.collect::<Vec<_>>().join("\n")
}

/// The same of another tool than a sandbox.
pub fn called(name: &str, input: &str) -> String {
    format!("```call {name}\n{}\n```", input.trim_end())
}

pub fn answered(text: &str) -> String {
    format!("```output\n{}\n```", text.trim_end())
}

fn native(ran: &[Ran], to: Format) -> Vec<Part> {
    let parts = codec(to).run_parts(ran).into_iter();
    parts.map(|(kind, value)| Part::Native { format: to, kind, value }).collect()
}

/// Can a client of this format be told?
fn tells(to: Format) -> bool {
    let nothing = Ran::Output { id: String::new(), text: String::new(), failed: false };
    !codec(to).run_parts(&[nothing]).is_empty()
}

/// A whole answer for a client of another format.
pub fn translate(response: &mut Response, to: Format) {
    let foreign = |part: &Part| matches!(part, Part::Native { format, .. } if *format != to) && !of(part).is_empty();
    if !response.choices.iter().any(|choice| choice.parts.iter().any(foreign)) || !tells(to) {
        return;
    }
    let mut number = 0;
    for choice in &mut response.choices {
        let (mut parts, mut held) = (Vec::with_capacity(choice.parts.len()), Vec::new());
        for part in choice.parts.drain(..) {
            let ran = if foreign(&part) { of(&part) } else { Vec::new() };
            let goes_on = matches!(ran.first(), Some(Ran::Output { .. }));
            if !goes_on {
                parts.extend(told(&mut held, to));
            }
            if ran.is_empty() {
                parts.push(part);
                continue;
            }
            if let Some(sealed) = proof(&part) {
                parts.push(Part::Reasoning(Reasoning { sealed: Some(sealed), ..Reasoning::default() }));
            }
            hold(&mut held, ran, &mut number);
        }
        parts.extend(told(&mut held, to));
        choice.parts = parts;
    }
}

/// Runs are told apart by ids, and not every provider gives some.
fn hold(held: &mut Vec<Ran>, ran: Vec<Ran>, number: &mut u32) {
    for mut ran in ran {
        match &mut ran {
            Ran::Code { id, .. } if id.is_empty() => {
                *number += 1;
                *id = format!("run_{number}");
            }
            Ran::Output { id, .. } if id.is_empty() => {
                if let Some(Ran::Code { id: before, .. } | Ran::Output { id: before, .. }) = held.last() {
                    id.clone_from(before);
                }
            }
            _ => {}
        }
        held.push(ran);
    }
}

fn told(held: &mut Vec<Ran>, to: Format) -> Vec<Part> {
    if held.is_empty() { Vec::new() } else { native(&std::mem::take(held), to) }
}

/// The same for a stream.
pub fn restored(to: Format, inner: Box<dyn StreamDecoder>) -> Box<dyn StreamDecoder> {
    if !tells(to) {
        return inner;
    }
    Box::new(Restored {
        inner,
        to,
        held: Vec::new(),
        choice: 0,
        moved: Vec::new(),
        next: Vec::new(),
        named: 0,
        events: Vec::new(),
    })
}

struct Restored {
    inner: Box<dyn StreamDecoder>,
    to: Format,
    /// Code that waits for what came of it, and whose it is.
    held: Vec<Ran>,
    choice: u32,
    /// Parts that have another number than the upstream's: (choice, theirs, ours). Empty while all have the same.
    moved: Vec<(u32, u32, Option<u32>)>,
    /// The next part's number of each choice.
    next: Vec<(u32, u32)>,
    /// Runs that got an id here.
    named: u32,
    events: Vec<Event>,
}

impl StreamDecoder for Restored {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<()> {
        let mut events = std::mem::take(&mut self.events);
        let result = self.inner.push(bytes, &mut events);
        events.drain(..).for_each(|event| self.pass(event, out));
        self.events = events;
        result
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<()> {
        let mut events = Vec::new();
        let result = self.inner.finish(&mut events);
        events.into_iter().for_each(|event| self.pass(event, out));
        self.tell(out);
        result
    }
}

impl Restored {
    fn pass(&mut self, event: Event, out: &mut Vec<Event>) {
        match event {
            Event::PartStart { choice, index, part: PartStart::Whole(part) } => {
                let foreign = matches!(&part, Part::Native { format, .. } if *format != self.to);
                let ran = if foreign { of(&part) } else { Vec::new() };
                let goes_on = matches!(ran.first(), Some(Ran::Output { .. })) && self.choice == choice;
                if !goes_on {
                    self.tell(out);
                }
                if ran.is_empty() {
                    return self.start(choice, index, PartStart::Whole(part), out);
                }
                if let Some(sealed) = proof(&part) {
                    self.seal(choice, sealed, out);
                }
                hold(&mut self.held, ran, &mut self.named);
                self.choice = choice;
                self.moved.push((choice, index, None));
            }
            Event::PartStart { choice, index, part } => {
                self.tell(out);
                self.start(choice, index, part, out);
            }
            Event::Delta { choice, index, delta } => {
                if let Some(index) = self.ours(choice, index) {
                    out.push(Event::Delta { choice, index, delta });
                }
            }
            Event::PartEnd { choice, index } => {
                if let Some(index) = self.ours(choice, index) {
                    out.push(Event::PartEnd { choice, index });
                }
            }
            Event::Finish { .. } | Event::End => {
                self.tell(out);
                out.push(event);
            }
            _ => out.push(event),
        }
    }

    fn ours(&self, choice: u32, theirs: u32) -> Option<u32> {
        let moved = self.moved.iter().rev().find(|(c, index, _)| (*c, *index) == (choice, theirs));
        moved.map_or(Some(theirs), |(_, _, ours)| *ours)
    }

    fn start(&mut self, choice: u32, theirs: u32, part: PartStart, out: &mut Vec<Event>) {
        let index = self.number(choice);
        if index != theirs {
            self.moved.push((choice, theirs, Some(index)));
        }
        out.push(Event::PartStart { choice, index, part });
    }

    fn seal(&mut self, choice: u32, sealed: Signature, out: &mut Vec<Event>) {
        let index = self.number(choice);
        out.push(Event::PartStart { choice, index, part: PartStart::Reasoning { extra: Extra::default() } });
        out.push(Event::Delta { choice, index, delta: Delta::Sealed(sealed) });
        out.push(Event::PartEnd { choice, index });
    }

    fn number(&mut self, choice: u32) -> u32 {
        let at = self.next.iter().position(|(c, _)| *c == choice).unwrap_or_else(|| {
            self.next.push((choice, 0));
            self.next.len() - 1
        });
        let next = &mut self.next[at].1;
        *next += 1;
        *next - 1
    }

    fn tell(&mut self, out: &mut Vec<Event>) {
        let choice = self.choice;
        for part in told(&mut self.held, self.to) {
            let index = self.number(choice);
            out.push(Event::PartStart { choice, index, part: PartStart::Whole(part) });
            out.push(Event::PartEnd { choice, index });
        }
    }
}

#[cfg(test)]
#[path = "ran_tests.rs"]
mod tests;

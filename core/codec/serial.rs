//! One part at a time: some wires close a part before the next one begins, so parts that interleave wait for their turn
//! here. Events of the part whose turn it is go through as they are; nothing is reordered within a part.

use std::collections::VecDeque;

use crate::model::{Choice, Event, Part, PartStart, Response, fold::unfold};

#[derive(Debug, Default)]
pub struct Serial {
    /// The first is the open part; the others wait for it to end.
    queue: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    index: u32,
    /// Not told yet.
    events: Vec<Event>,
    ended: bool,
}

impl Serial {
    /// Gives `each` what may be told now. Parts that a stage made whole are taken apart, as if they had been streamed;
    /// of several choices only the first is told.
    pub fn push(&mut self, event: &Event, each: &mut impl FnMut(&Event)) {
        match event {
            Event::PartStart { choice: 0, index, part: PartStart::Whole(whole) } => {
                let mut events = taken_apart(*index, whole);
                // Its end comes by itself.
                events.pop();
                for event in &events {
                    self.push_one(*index, event, each);
                }
            }
            Event::PartStart { choice: 0, index, .. }
            | Event::Delta { choice: 0, index, .. }
            | Event::PartEnd { choice: 0, index } => self.push_one(*index, event, each),
            Event::PartStart { .. } | Event::Delta { .. } | Event::PartEnd { .. } => {}
            other => each(other),
        }
    }

    /// Ends what is open and tells what waits.
    pub fn finish(&mut self, each: &mut impl FnMut(&Event)) {
        for waiting in &mut self.queue {
            if !std::mem::replace(&mut waiting.ended, true) {
                waiting.events.push(Event::PartEnd { choice: 0, index: waiting.index });
            }
        }
        self.advance(each);
    }

    fn push_one(&mut self, index: u32, event: &Event, each: &mut impl FnMut(&Event)) {
        if matches!(event, Event::PartStart { .. }) {
            if self.queue.is_empty() {
                each(event);
                self.queue.push_back(Waiting { index, events: Vec::new(), ended: false });
            } else {
                self.queue.push_back(Waiting { index, events: vec![event.clone()], ended: false });
            }
            return;
        }
        let ends = matches!(event, Event::PartEnd { .. });
        let Some(at) = self.queue.iter().position(|w| w.index == index && !w.ended) else { return };
        let waiting = &mut self.queue[at];
        waiting.ended = ends;
        if at > 0 {
            waiting.events.push(event.clone());
            return;
        }
        each(event);
        if ends {
            self.queue.pop_front();
            self.advance(each);
        }
    }

    fn advance(&mut self, each: &mut impl FnMut(&Event)) {
        while let Some(front) = self.queue.front_mut() {
            front.events.drain(..).for_each(|event| each(&event));
            if !front.ended {
                return;
            }
            self.queue.pop_front();
        }
    }
}

/// A whole part as the events that would have made it, its end last.
fn taken_apart(index: u32, part: &Part) -> Vec<Event> {
    let choice = Choice { parts: vec![part.clone()], ..Choice::default() };
    let mut events = unfold(&Response { choices: vec![choice], ..Response::default() });
    events.retain_mut(|event| match event {
        Event::PartStart { index: at, .. } | Event::Delta { index: at, .. } | Event::PartEnd { index: at, .. } => {
            *at = index;
            true
        }
        _ => false,
    });
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Delta, Extra, ToolKind};

    fn start(index: u32) -> Event {
        let (id, name) = (format!("call{index}"), "f".to_owned());
        let part = PartStart::ToolCall { id, name, kind: ToolKind::Function, signature: None, extra: Extra::default() };
        Event::PartStart { choice: 0, index, part }
    }

    fn text(index: u32, text: &str) -> Event {
        Event::Delta { choice: 0, index, delta: Delta::Text(text.to_owned()) }
    }

    fn end(index: u32) -> Event {
        Event::PartEnd { choice: 0, index }
    }

    fn told(events: &[Event]) -> Vec<Event> {
        let (mut serial, mut out) = (Serial::default(), Vec::new());
        for event in events {
            serial.push(event, &mut |e| out.push(e.clone()));
        }
        serial.finish(&mut |e| out.push(e.clone()));
        out
    }

    #[test]
    fn parts_that_interleave_are_told_one_after_the_other() {
        let mixed =
            [start(0), start(1), text(1, "b"), text(0, "a"), start(2), end(1), text(0, "A"), end(0), text(2, "c")];
        let expected = [
            start(0),
            text(0, "a"),
            text(0, "A"),
            end(0),
            start(1),
            text(1, "b"),
            end(1),
            start(2),
            text(2, "c"),
            end(2),
        ];
        assert_eq!(told(&mixed), expected);
    }

    #[test]
    fn the_open_part_is_told_at_once_and_strays_are_not() {
        let (mut serial, mut out) = (Serial::default(), Vec::new());
        for event in [start(0), text(0, "a"), text(7, "nobody's"), Event::Ping] {
            serial.push(&event, &mut |e| out.push(e.clone()));
        }
        assert_eq!(out, [start(0), text(0, "a"), Event::Ping]);
    }

    #[test]
    fn whole_parts_are_taken_apart() {
        let whole = Event::PartStart { choice: 0, index: 3, part: PartStart::Whole(Part::text("hello")) };
        let begun = Event::PartStart { choice: 0, index: 3, part: PartStart::Text { extra: Extra::default() } };
        assert_eq!(told(&[whole, end(3)]), [begun, text(3, "hello"), end(3)]);
    }
}

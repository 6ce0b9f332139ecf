//! What the host does at a stage's border so that the stage sees a stream as it asked: text held back in a window, or
//! the whole answer. Pure bookkeeping: it calls no stage.

use crate::model::{Delta, Event, Response, fold::Fold};

/// How a seat takes streamed answers, with what it holds of the current attempt.
#[derive(Default)]
pub enum Adapter {
    #[default]
    Direct,
    Window(Window),
    /// The whole answer is held until its end.
    Whole(Held),
    /// The answer goes by; a copy is looked at after the end.
    Observe(Held),
}

impl Adapter {
    /// Drops what was held of an earlier attempt.
    pub fn reset(&mut self) {
        match self {
            Adapter::Direct => {}
            Adapter::Window(window) => window.parts.clear(),
            Adapter::Whole(held) | Adapter::Observe(held) => *held = Held::default(),
        }
    }
}

/// A folded copy of the answer, bounded.
#[derive(Default)]
pub struct Held {
    fold: Fold,
    bytes: usize,
}

impl Held {
    /// `false`: the answer is larger than may be held.
    pub fn push(&mut self, event: Event) -> bool {
        self.bytes += weight(&event);
        if self.bytes > MAX_HELD {
            return false;
        }
        self.fold.push(event);
        true
    }

    pub fn take(&mut self) -> Response {
        std::mem::take(self).fold.finish()
    }
}

/// The most bytes of an answer that one stage may hold back.
pub const MAX_HELD: usize = 32 << 20;

fn weight(event: &Event) -> usize {
    match event {
        Event::Delta { delta: Delta::Text(text), .. } => text.len() + 16,
        Event::Delta { delta: Delta::Signature(s) | Delta::Sealed(s), .. } => s.data.len() + 32,
        _ => 128,
    }
}

/// Text held back per part, so that a match across events stands whole before the stage.
pub struct Window {
    size: usize,
    parts: Vec<Part>,
}

struct Part {
    choice: u32,
    index: u32,
    text: String,
    /// Signatures and citations wait for the text before them.
    after: Vec<Delta>,
}

impl Window {
    pub fn new(size: usize) -> Self {
        Window { size, parts: Vec::new() }
    }

    /// Takes a delta in. The text that the stage should see now, if there is enough to release some.
    pub fn hold(&mut self, choice: u32, index: u32, delta: Delta) -> Option<String> {
        let size = self.size;
        let part = self.part(choice, index);
        match delta {
            Delta::Text(text) => part.text.push_str(&text),
            other => part.after.push(other),
        }
        // Bytes are at least characters: the cheap test first.
        let enough = part.text.len() > size && part.text.chars().nth(size).is_some();
        enough.then(|| std::mem::take(&mut part.text))
    }

    /// After the stage has seen (and perhaps changed) the text: keeps the last `size` characters, gives back the rest.
    pub fn release(&mut self, choice: u32, index: u32, text: String) -> String {
        let size = self.size;
        let part = self.part(choice, index);
        match text.char_indices().rev().nth(size.saturating_sub(1)) {
            Some((at, _)) if size > 0 => {
                let (head, tail) = text.split_at(at);
                part.text = tail.to_owned();
                head.to_owned()
            }
            None if size > 0 => {
                part.text = text;
                String::new()
            }
            _ => text,
        }
    }

    /// What is still held of a part that ends.
    pub fn flush(&mut self, choice: u32, index: u32) -> Option<(String, Vec<Delta>)> {
        let at = self.parts.iter().position(|p| p.choice == choice && p.index == index)?;
        let part = self.parts.remove(at);
        Some((part.text, part.after))
    }

    /// Parts that are still open, of one choice or of all.
    pub fn open(&self, choice: Option<u32>) -> Vec<(u32, u32)> {
        let mine = self.parts.iter().filter(|p| choice.is_none_or(|c| c == p.choice));
        mine.map(|p| (p.choice, p.index)).collect()
    }

    fn part(&mut self, choice: u32, index: u32) -> &mut Part {
        let at = match self.parts.iter().position(|p| p.choice == choice && p.index == index) {
            Some(at) => at,
            None => {
                self.parts.push(Part { choice, index, text: String::new(), after: Vec::new() });
                self.parts.len() - 1
            }
        };
        &mut self.parts[at]
    }
}

//! What the host does at a stage's border so that the stage sees a stream as it asked: text held back in a window, or
//! the whole answer. Pure bookkeeping: it calls no stage.

use std::collections::VecDeque;

use crate::model::{Delta, Event, PartStart, Response, fold::Fold};

/// How a seat takes streamed answers, with what it holds of the current attempt.
#[derive(Default)]
pub enum Adapter {
    #[default]
    Direct,
    Window(Window),
    /// The whole answer is held until its end.
    Whole(Box<Held>),
    /// The answer goes by; a copy is looked at after the end.
    Observe(Box<Held>),
}

impl Adapter {
    /// Drops what was held of an earlier attempt.
    pub fn reset(&mut self) {
        match self {
            Adapter::Direct => {}
            Adapter::Window(window) => {
                window.parts.clear();
                window.told.clear();
            }
            Adapter::Whole(held) | Adapter::Observe(held) => **held = Held::default(),
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

/// How much of a part's text is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The last so many characters.
    Characters(usize),
    /// What does not yet make a sentence.
    Sentence,
}

/// What clients put together: texts of one choice and kind are one text to them, whatever stands between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Reasoning,
    Refusal,
}

impl Kind {
    /// `None`: it is no text, or stands alone.
    pub fn of(part: &PartStart) -> Option<Kind> {
        match part {
            PartStart::Text { .. } => Some(Kind::Text),
            PartStart::Reasoning { .. } => Some(Kind::Reasoning),
            PartStart::Refusal => Some(Kind::Refusal),
            PartStart::ToolCall { .. } | PartStart::Whole(_) => None,
        }
    }
}

/// Text held back per part, so that a match across events stands whole before the stage. A part that is over leaves what is
/// held of it to the next one of its kind, and its end waits until that is let out: as much of it as the stage left alone
/// is still its own.
pub struct Window {
    hold: Hold,
    parts: Vec<Part>,
    /// Ends of texts that had to be let go of although more may come, as the client has them: (choice, kind, text).
    told: Vec<(u32, Kind, String)>,
}

struct Part {
    choice: u32,
    index: u32,
    kind: Option<Kind>,
    text: String,
    /// Signatures and citations wait for the text before them.
    after: Vec<Delta>,
    /// Only its end waits, for one that goes on with its text.
    over: bool,
    /// How it begins, as the stage left that: it waits for the parts before it.
    start: Vec<Event>,
    /// The parts that `text` begins with.
    before: VecDeque<Before>,
}

/// A part whose text goes on in a later one.
struct Before {
    /// `None`: the client has it already, its end included.
    index: Option<u32>,
    start: Vec<Event>,
    /// What it still has to say.
    text: String,
    after: Vec<Delta>,
}

/// What is let out.
#[derive(Debug, PartialEq)]
pub enum Free {
    /// The stage has seen it.
    Seen(Event),
    /// It has not.
    New(Event),
}

impl Window {
    pub fn new(hold: Hold) -> Self {
        Window { hold, parts: Vec::new(), told: Vec::new() }
    }

    /// A part of text begins: with what one of its kind left. What is given back of `start`, how it begins, need not wait: texts of
    /// a kind go on one after the other.
    pub fn begin(&mut self, choice: u32, index: u32, kind: Kind, mut start: Vec<Event>) -> Vec<Event> {
        let left = |p: &Part| p.over && p.choice == choice && p.kind == Some(kind);
        let (text, before) = match self.parts.iter().position(left) {
            Some(at) => self.parts.remove(at).left(),
            None => match self.told.iter().position(|(c, k, _)| (*c, *k) == (choice, kind)) {
                Some(at) => {
                    let (.., text) = self.told.swap_remove(at);
                    let before = Before { index: None, start: Vec::new(), text: text.clone(), after: Vec::new() };
                    (text, VecDeque::from([before]))
                }
                None => (String::new(), VecDeque::new()),
            },
        };
        let waits = before.iter().any(|before| before.index.is_some());
        let free = if waits { Vec::new() } else { std::mem::take(&mut start) };
        self.parts.push(Part { choice, index, kind: Some(kind), text, after: Vec::new(), over: false, start, before });
        free
    }

    /// Takes a delta in. The text that the stage should see now, if there is enough to release some.
    pub fn hold(&mut self, choice: u32, index: u32, delta: Delta) -> Option<String> {
        let hold = self.hold;
        let part = self.part(choice, index);
        let from = part.text.len();
        match delta {
            Delta::Text(text) => part.text.push_str(&text),
            other => part.after.push(other),
        }
        let Hold::Characters(size) = hold else {
            let end = sentences(&part.text, from)?;
            let rest = part.text.split_off(end);
            return Some(std::mem::replace(&mut part.text, rest));
        };
        // Bytes are at least characters: the cheap test first.
        let enough = part.text.len() > size && part.text.chars().nth(size).is_some();
        enough.then(|| std::mem::take(&mut part.text))
    }

    /// After the stage has seen (and perhaps changed) the text: keeps the last `size` characters, gives back the rest.
    pub fn release(&mut self, choice: u32, index: u32, text: String) -> String {
        let Hold::Characters(size) = self.hold else { return text };
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

    /// What is let out of a part, as events: its beginning is still said by the parts before it, as long as it is what
    /// they had to say. One that has no more to say ends.
    pub fn share(&mut self, choice: u32, index: u32, text: String) -> Vec<Free> {
        let Part { before, start, .. } = self.part(choice, index);
        let (mut events, mut rest) = (Vec::new(), text.as_str());
        while let Some(first) = before.front_mut().filter(|_| !rest.is_empty()) {
            let same = common(rest, &first.text);
            let (own, others) = rest.split_at(same);
            if let Some(index) = first.index.filter(|_| same > 0) {
                events.extend(first.start.drain(..).map(Free::Seen));
                events.push(Free::Seen(Event::Delta { choice, index, delta: Delta::Text(own.to_owned()) }));
            }
            first.text.drain(..same);
            rest = others;
            // Something else came of it: that is said in a later part.
            if (first.text.is_empty() || !rest.is_empty())
                && let Some(first) = before.pop_front()
            {
                first.end(choice, &mut events);
            }
        }
        if !rest.is_empty() {
            events.extend(start.drain(..).map(Free::Seen));
            events.push(Free::Seen(Event::Delta { choice, index, delta: Delta::Text(rest.to_owned()) }));
        }
        events
    }

    /// A part ends. `true`: its end waits, because another part may go on with its text.
    pub fn end(&mut self, choice: u32, index: u32) -> bool {
        let Some(part) = self.parts.iter_mut().find(|p| p.choice == choice && p.index == index) else { return false };
        part.over = part.kind.is_some() && !part.text.is_empty();
        part.over
    }

    /// All text that is still held of a part.
    pub fn rest(&mut self, choice: u32, index: u32) -> String {
        std::mem::take(&mut self.part(choice, index).text)
    }

    /// The rest of a part, as the stage left it, is let out. More of its kind is looked at together with it.
    pub fn tell(&mut self, choice: u32, index: u32, text: &str) {
        let kind = self.part(choice, index).kind;
        // Sentences are seen once.
        let Some(kind) = kind.filter(|_| self.hold != Hold::Sentence) else { return };
        self.told.retain(|(c, k, _)| (*c, *k) != (choice, kind));
        if !text.is_empty() {
            self.told.push((choice, kind, text.to_owned()));
        }
    }

    /// Lets go of a part whose text is out: what waited for it, and the ends that did.
    pub fn close(&mut self, choice: u32, index: u32) -> Vec<Free> {
        let Some(at) = self.parts.iter().position(|p| p.choice == choice && p.index == index) else {
            return Vec::new();
        };
        let Part { after, over, start, before, .. } = self.parts.remove(at);
        let mut events = Vec::new();
        before.into_iter().for_each(|part| part.end(choice, &mut events));
        events.extend(start.into_iter().map(Free::Seen));
        events.extend(after.into_iter().map(|delta| Free::New(Event::Delta { choice, index, delta })));
        if over {
            events.push(Free::New(Event::PartEnd { choice, index }));
        }
        events
    }

    /// Parts that are still open, of one choice or of all.
    pub fn open(&self, choice: Option<u32>) -> Vec<(u32, u32)> {
        let mine = self.parts.iter().filter(|p| choice.is_none_or(|c| c == p.choice));
        mine.map(|p| (p.choice, p.index)).collect()
    }

    /// If this part is the answer's own text: what else of its choice is over and waits for more of its kind.
    pub fn stands_before(&self, choice: u32, index: u32) -> Vec<(u32, u32)> {
        let mine = self.parts.iter().filter(|p| p.choice == choice);
        if !mine.clone().any(|p| p.index == index && p.kind == Some(Kind::Text)) {
            return Vec::new();
        }
        mine.filter(|p| p.over && p.kind != Some(Kind::Text)).map(|p| (p.choice, p.index)).collect()
    }

    fn part(&mut self, choice: u32, index: u32) -> &mut Part {
        let at = match self.parts.iter().position(|p| p.choice == choice && p.index == index) {
            Some(at) => at,
            None => {
                let (text, after, start, before) = (String::new(), Vec::new(), Vec::new(), VecDeque::new());
                self.parts.push(Part { choice, index, kind: None, text, after, over: false, start, before });
                self.parts.len() - 1
            }
        };
        &mut self.parts[at]
    }
}

impl Part {
    /// Its text, and whose that is: the parts before it, then its own.
    fn left(self) -> (String, VecDeque<Before>) {
        let Part { index, text, after, start, mut before, .. } = self;
        let mut own = text.as_str();
        for part in &before {
            let same = common(own, &part.text);
            own = &own[same..];
            if same < part.text.len() {
                break;
            }
        }
        let own = own.to_owned();
        before.push_back(Before { index: Some(index), start, text: own, after });
        (text, before)
    }
}

impl Before {
    fn end(self, choice: u32, events: &mut Vec<Free>) {
        let Some(index) = self.index else { return };
        events.extend(self.start.into_iter().map(Free::Seen));
        events.extend(self.after.into_iter().map(|delta| Free::New(Event::Delta { choice, index, delta })));
        events.push(Free::New(Event::PartEnd { choice, index }));
    }
}

/// Bytes that two texts have in common at their beginning.
fn common(one: &str, other: &str) -> usize {
    let differs = one.char_indices().zip(other.chars()).find(|((_, a), b)| a != b);
    differs.map_or(one.len().min(other.len()), |((at, _), _)| at)
}

/// Where the last whole sentence of a text ends, when what came from `from` on ended one. A sentence ends with its mark and
/// a space after it, with a mark of a script that writes no spaces, or with its line; one that is very long ends at a space.
fn sentences(text: &str, from: usize) -> Option<usize> {
    let mut end = None;
    let mut marked = text[..from].chars().next_back().is_some_and(|c| CLOSERS.contains(&c) || MARKS.contains(&c));
    // Closing quotes and brackets may stand between the mark and the space.
    marked &= text[..from].trim_end_matches(CLOSERS).ends_with(MARKS);
    for (at, c) in text[from..].char_indices().map(|(at, c)| (from + at, c)) {
        if (marked && c.is_whitespace()) || c == '\n' || WIDE_MARKS.contains(&c) {
            end = Some(at + c.len_utf8());
        }
        marked = MARKS.contains(&c) || (marked && CLOSERS.contains(&c));
    }
    if end.is_none() && text.len() > MOST_SENTENCE {
        let space = text.rfind(char::is_whitespace).map(|at| at + text[at..].chars().next().map_or(1, char::len_utf8));
        return Some(space.unwrap_or(text.len()));
    }
    end
}

const MARKS: [char; 4] = ['.', '!', '?', '…'];
const WIDE_MARKS: [char; 4] = ['。', '！', '？', '।'];
const CLOSERS: [char; 7] = ['"', '\'', ')', ']', '»', '”', '’'];
/// Bytes without an end.
const MOST_SENTENCE: usize = 4_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: &[&str]) -> Vec<String> {
        let mut window = Window::new(Hold::Sentence);
        let text = |piece: &&str| window.hold(0, 0, Delta::Text((*piece).to_owned()));
        let mut out: Vec<String> = pieces.iter().filter_map(text).collect();
        out.push(window.rest(0, 0));
        out.retain(|text| !text.is_empty());
        out
    }

    #[test]
    fn sentences_come_whole_wherever_they_were_split() {
        let text = "He said \"no.\" Then 3.5 men left! Who? 是的。好\nLine";
        let whole = ["He said \"no.\" ", "Then 3.5 men left! ", "Who? ", "是的。", "好\n", "Line"];
        let letters: Vec<String> = text.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        assert_eq!(shown(&letters), whole);
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            let pieces = shown(&[&text[..at], &text[at..]]);
            assert_eq!(pieces.concat(), text);
            // Every border between what was shown is the end of a sentence.
            let ends: Vec<usize> = (1..=whole.len()).map(|n| whole[..n].concat().len()).collect();
            let mut sum = 0;
            for piece in &pieces {
                sum += piece.len();
                assert!(ends.contains(&sum), "{at}: {pieces:?}");
            }
        }
    }

    #[test]
    fn a_text_without_an_end_is_not_held_for_ever() {
        let word = "word ".repeat(2_000);
        let shown = shown(&[&word, &"x".repeat(10_000)]);
        assert_eq!(shown.len(), 2);
        assert!(shown.iter().all(|piece| piece.len() > 4_000));
    }
}

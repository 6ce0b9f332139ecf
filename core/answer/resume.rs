//! A stream that broke after its client had read of it, continued by another target from the text so far: what was said, whether it
//! can be gone on from, and how the second stream's events become a part of the first one. Asks nobody: `gateway/resume.rs` does.

use std::{pin::pin, time::Duration};

use crate::{
    clock,
    codec::StreamEncoder,
    generated::Sink,
    model::{Delta, Event, PartStart, Usage},
};

/// What the upstream has said so far.
#[derive(Debug, Default)]
pub struct Sofar {
    text: String,
    /// The first part is open.
    open: bool,
    /// Something that no other model can go on from: thoughts, calls, citations, several answers, an end.
    more: bool,
}

/// Where a second stream joins the first.
#[derive(Debug, Default)]
pub struct Joint {
    /// What the second target was shown and says again before it goes on, and how much of it came: held until it is over or differs.
    echo: String,
    echoed: usize,
    /// White space that the client has and the second target was not shown: it may say it again.
    skip: String,
    /// Its parts stand so much further in the client's answer; `None`: none has begun.
    shift: Option<u32>,
    /// Tokens of output before it, for the client's own count.
    before: u64,
}

impl Sofar {
    pub fn see(&mut self, event: &Event) {
        match event {
            Event::PartStart { choice: 0, index: 0, part: PartStart::Text { .. } } => self.open = true,
            Event::Delta { choice: 0, index: 0, delta: Delta::Text(text) }
                if self.open && self.text.len() + text.len() <= LONGEST =>
            {
                self.text.push_str(text);
            }
            Event::Start(_) | Event::Usage(_) | Event::Ping | Event::Extra(_) => {}
            Event::ChoiceExtra { choice: 0, logprobs: None, .. } => {}
            _ => self.more = true,
        }
    }

    /// May another model go on from here?
    pub fn is_plain(&self) -> bool {
        self.open && !self.more
    }

    /// As the next target gets it, without white space at its end: that is refused by some.
    pub fn text(&self) -> &str {
        self.text.trim_end()
    }

    /// `echoes`: the second stream begins with the text that it goes on from.
    pub fn joint(&self, before: u64, echoes: bool) -> Joint {
        let echo = if echoes { self.text().to_owned() } else { String::new() };
        Joint { echo, echoed: 0, skip: self.text[self.text().len()..].to_owned(), shift: None, before }
    }
}

impl Joint {
    /// An event of the second stream, as a part of the first.
    pub fn join(&mut self, event: Event, out: &mut Vec<Event>) {
        match event {
            Event::Start(_) => {}
            Event::PartStart { choice: 0, index, part } => {
                let first = self.shift.is_none();
                let goes_on = matches!(part, PartStart::Text { .. });
                if first && !goes_on {
                    out.push(Event::PartEnd { choice: 0, index: 0 });
                }
                let shift = *self.shift.get_or_insert(u32::from(!goes_on));
                // The text goes on in the part that is open.
                if !(first && goes_on) {
                    out.push(Event::PartStart { choice: 0, index: index + shift, part });
                }
            }
            Event::Delta { choice: 0, index, delta } => {
                let delta = match delta {
                    Delta::Text(text) if !self.echo.is_empty() => Delta::Text(self.unsaid(text)),
                    delta => delta,
                };
                let delta = match delta {
                    Delta::Text(text) if !self.skip.is_empty() => Delta::Text(self.rest(text)),
                    delta => delta,
                };
                if delta != Delta::Text(String::new()) {
                    out.push(Event::Delta { choice: 0, index: index + self.shift.unwrap_or(0), delta });
                }
            }
            Event::PartEnd { choice: 0, index } => {
                // It was no echo after all.
                let held = std::mem::take(&mut self.echo);
                if self.echoed > 0 && !held.is_empty() {
                    let delta = Delta::Text(held[..self.echoed].to_owned());
                    out.push(Event::Delta { choice: 0, index: index + self.shift.unwrap_or(0), delta });
                }
                out.push(Event::PartEnd { choice: 0, index: index + self.shift.unwrap_or(0) });
            }
            event => out.push(event),
        }
    }

    /// What the client is told of the second stream's usage: the answer has the first one's words, too.
    pub fn told(&self, usage: &Usage) -> Usage {
        let output_tokens = usage.output_tokens.map(|tokens| tokens.saturating_add(self.before));
        Usage { output_tokens, ..usage.clone() }
    }

    /// Tokens of output before it.
    pub fn before(&self) -> u64 {
        self.before
    }

    /// A text without what the client has of it.
    fn unsaid(&mut self, text: String) -> String {
        let left = &self.echo[self.echoed..];
        if left.len() > text.len() && left.starts_with(&text) {
            self.echoed += text.len();
            return String::new();
        }
        let new = match text.strip_prefix(left) {
            Some(new) => new.to_owned(),
            None => format!("{}{text}", &self.echo[..self.echoed]),
        };
        self.echo.clear();
        new
    }

    /// A text without the white space that was sent before it.
    fn rest(&mut self, text: String) -> String {
        let mut seen = 0;
        for (own, known) in text.chars().zip(self.skip.chars()) {
            if own != known {
                self.skip.clear();
                return text[seen..].to_owned();
            }
            seen += own.len_utf8();
        }
        self.skip.drain(..seen);
        if seen < text.len() {
            self.skip.clear();
        }
        text[seen..].to_owned()
    }
}

/// Waits for who goes on. Meanwhile the client hears now and then that its connection lives.
pub async fn kept_alive<F: Future>(
    encoder: &mut dyn StreamEncoder,
    every: Duration,
    sink: &Sink,
    going_on: F,
) -> F::Output {
    let mut going_on = pin!(going_on);
    loop {
        match clock::timeout_at(clock::now() + every, going_on.as_mut()).await {
            Ok(found) => return found,
            Err(clock::Elapsed) => {
                let mut bytes = Vec::new();
                encoder.keep_alive(&mut bytes);
                // A framing may have none.
                if !bytes.is_empty() {
                    sink.send([bytes.into()]).await;
                }
            }
        }
    }
}

/// Bytes of text that are kept to go on from.
const LONGEST: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Extra, Start};

    fn opens(index: u32) -> Event {
        Event::PartStart { choice: 0, index, part: PartStart::Text { extra: Extra::default() } }
    }

    fn says(index: u32, text: &str) -> Event {
        Event::Delta { choice: 0, index, delta: Delta::Text(text.to_owned()) }
    }

    fn thinks(index: u32) -> Event {
        Event::PartStart { choice: 0, index, part: PartStart::Reasoning { extra: Extra::default() } }
    }

    fn seen(events: &[Event]) -> Sofar {
        let mut sofar = Sofar::default();
        events.iter().for_each(|event| sofar.see(event));
        sofar
    }

    #[test]
    fn only_plain_text_is_gone_on_from() {
        let start = Event::Start(Start::default());
        let sofar = seen(&[start.clone(), opens(0), says(0, "Hello "), says(0, "world \n")]);
        assert_eq!((sofar.is_plain(), sofar.text()), (true, "Hello world"));
        assert!(!seen(&[start]).is_plain(), "nothing was said");
        assert!(!seen(&[thinks(0), says(0, "hm"), opens(1), says(1, "x")]).is_plain(), "thoughts are another's own");
        assert!(!seen(&[opens(0), says(0, "x"), Event::PartEnd { choice: 0, index: 0 }]).is_plain());
        let other = Event::Delta { choice: 1, index: 0, delta: Delta::Text("x".to_owned()) };
        assert!(!seen(&[opens(0), says(0, "x"), other]).is_plain(), "two answers at once");
        let long = "x".repeat(LONGEST);
        assert!(!seen(&[opens(0), says(0, &long), says(0, "y")]).is_plain());
    }

    #[test]
    fn the_second_streams_text_goes_on_in_the_open_part() {
        let mut joint = seen(&[opens(0), says(0, "one ")]).joint(7, false);
        let mut out = Vec::new();
        let end = Event::PartEnd { choice: 0, index: 0 };
        for event in [Event::Start(Start::default()), opens(0), says(0, " "), says(0, "two"), end.clone(), opens(1)] {
            joint.join(event, &mut out);
        }
        assert_eq!(out, [says(0, "two"), end, opens(1)]);
        let usage = Usage { output_tokens: Some(3), ..Usage::default() };
        assert_eq!(joint.told(&usage).output_tokens, Some(10));
    }

    #[test]
    fn a_second_stream_that_begins_with_something_else_closes_the_open_part() {
        let mut joint = seen(&[opens(0), says(0, "one")]).joint(0, false);
        let mut out = Vec::new();
        for event in [thinks(0), says(0, "hm"), opens(1), says(1, "two")] {
            joint.join(event, &mut out);
        }
        assert_eq!(out, [Event::PartEnd { choice: 0, index: 0 }, thinks(1), says(1, "hm"), opens(2), says(2, "two")]);
    }

    #[test]
    fn white_space_is_said_once_however_it_is_cut() {
        let after = |tail: &str, pieces: &[&str]| {
            let mut joint = seen(&[opens(0), says(0, &format!("a{tail}"))]).joint(0, false);
            let mut out = Vec::new();
            joint.join(opens(0), &mut out);
            pieces.iter().for_each(|piece| joint.join(says(0, piece), &mut out));
            let text = |event: Event| match event {
                Event::Delta { delta: Delta::Text(text), .. } => text,
                _ => String::new(),
            };
            out.into_iter().map(text).collect::<String>()
        };
        assert_eq!(after("\n\n", &["\n", "\nb"]), "b");
        assert_eq!(after("\n", &["\n\nb"]), "\nb");
        assert_eq!(after(" ", &["b c"]), "b c");
        assert_eq!(after(" \n", &[" b", "\nc"]), "b\nc", "what differs ends it");
        assert_eq!(after("", &[" b"]), " b");
    }

    #[test]
    fn what_the_second_target_says_again_is_left_out_however_it_is_cut() {
        let after = |said: &str, pieces: &[&str]| {
            let mut joint = seen(&[opens(0), says(0, said)]).joint(0, true);
            let mut out = Vec::new();
            joint.join(opens(0), &mut out);
            pieces.iter().for_each(|piece| joint.join(says(0, piece), &mut out));
            joint.join(Event::PartEnd { choice: 0, index: 0 }, &mut out);
            let text = |event: Event| match event {
                Event::Delta { delta: Delta::Text(text), .. } => text,
                _ => String::new(),
            };
            out.into_iter().map(text).collect::<String>()
        };
        assert_eq!(after("One two", &["One two", " three"]), " three");
        assert_eq!(after("One two", &["One", " tw", "o three"]), " three");
        assert_eq!(after("One two ", &["One two", " three"]), "three", "white space behind it was not shown");
        assert_eq!(after("One two", &["three"]), "three", "what is none goes on as it is");
        assert_eq!(after("One two", &["One", " more"]), "One more");
        assert_eq!(after("One two", &["One"]), "One", "it ended before it was one");
        assert_eq!(after("Grüße", &["Gr", "üß", "e!"]), "!");
    }
}

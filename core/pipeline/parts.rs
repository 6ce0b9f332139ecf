//! The parts of one streamed answer as a stage's visit counts them: which kind of text each holds, and which number it
//! has once the stage put others in. Bookkeeping only, for scripts and plugins alike.

use crate::model::{Delta, Event, Extra, PartStart, ToolKind};

/// A piece that a stage makes.
#[derive(Debug, Clone, PartialEq)]
pub enum New {
    /// Of a kind of text: `text`, `reasoning`, `refusal`, `tool_arguments`.
    Text(String, Option<String>),
    /// A whole tool call; without an id the client's encoder makes one.
    Call { id: String, name: String, arguments: String },
}

/// The parts of the current stream: what kind each is, and which number it has now that the stage put in others.
#[derive(Default)]
pub struct Parts {
    choices: Vec<Numbers>,
}

struct Numbers {
    choice: u32,
    /// By the number as it comes: the number as it goes out, and the kind of its text.
    parts: Vec<(u32, &'static str)>,
    next: u32,
}

impl Parts {
    fn of(&mut self, choice: u32) -> &mut Numbers {
        let at = match self.choices.iter().position(|n| n.choice == choice) {
            Some(at) => at,
            None => {
                self.choices.push(Numbers { choice, parts: Vec::new(), next: 0 });
                self.choices.len() - 1
            }
        };
        &mut self.choices[at]
    }

    pub fn kind(&mut self, event: &Event) -> &'static str {
        match event {
            Event::Start(_) => "start",
            Event::PartStart { part: PartStart::ToolCall { .. }, .. } => "tool_call",
            Event::PartStart { part: PartStart::Whole(_), .. } => "part",
            Event::PartStart { .. } => "part_start",
            Event::Delta { choice, index, delta: Delta::Text(_) } => {
                self.of(*choice).parts.get(*index as usize).map_or("text", |(_, kind)| kind)
            }
            Event::Delta { delta: Delta::Signature(_) | Delta::Sealed(_), .. } => "signature",
            Event::Delta { delta: Delta::Citation(_), .. } => "citation",
            Event::PartEnd { .. } => "part_end",
            Event::ChoiceExtra { .. } | Event::Extra(_) => "extra",
            Event::Finish { .. } => "finish",
            Event::Usage(_) => "usage",
            Event::Ping => "ping",
            Event::End => "end",
        }
    }

    pub fn renumber(&mut self, mut event: Event) -> Event {
        match &mut event {
            Event::PartStart { choice, index, part } => {
                let kind = match part {
                    PartStart::Text { .. } | PartStart::Whole(_) => "text",
                    PartStart::Refusal => "refusal",
                    PartStart::Reasoning { .. } => "reasoning",
                    PartStart::ToolCall { .. } => "tool_arguments",
                };
                let numbers = self.of(*choice);
                // Numbers come in order of first appearance; a gap would be the upstream's fault and is closed here.
                while numbers.parts.len() <= *index as usize && numbers.parts.len() < MAX_PARTS {
                    numbers.parts.push((numbers.next, kind));
                    numbers.next += 1;
                }
                *index = numbers.parts.get(*index as usize).map_or(*index, |(out, _)| *out);
            }
            Event::Delta { choice, index, .. } | Event::PartEnd { choice, index } => {
                let numbers = self.of(*choice);
                *index = numbers.parts.get(*index as usize).map_or(*index, |(out, _)| *out);
            }
            _ => {}
        }
        event
    }

    /// Events for a new piece, beside or in place of `event`, whose own kind is `kind`.
    pub fn make(&mut self, event: &Event, kind: &str, new: New) -> Result<Vec<Event>, String> {
        let text = |text: Option<String>| text.ok_or_else(|| "an event of that kind needs text".to_owned());
        if let (Event::Delta { choice, index, delta: Delta::Text(_) }, New::Text(of, body)) = (event, &new)
            && kind == of
        {
            return Ok(vec![Event::Delta { choice: *choice, index: *index, delta: Delta::Text(text(body.clone())?) }]);
        }
        let choice = match event {
            Event::PartStart { choice, .. }
            | Event::Delta { choice, .. }
            | Event::PartEnd { choice, .. }
            | Event::ChoiceExtra { choice, .. }
            | Event::Finish { choice, .. } => *choice,
            _ => 0,
        };
        let (part, body) = match new {
            New::Text(of, body) => {
                let part = match of.as_str() {
                    "text" => PartStart::Text { extra: Extra::default() },
                    "reasoning" => PartStart::Reasoning { extra: Extra::default() },
                    "refusal" => PartStart::Refusal,
                    _ => return Err("an event of that kind cannot be made here".into()),
                };
                (part, text(body)?)
            }
            New::Call { id, name, arguments } => {
                let (kind, extra) = (ToolKind::Function, Extra::default());
                (PartStart::ToolCall { id, name, kind, signature: None, extra }, arguments)
            }
        };
        let numbers = self.of(choice);
        let index = numbers.next;
        numbers.next += 1;
        Ok(vec![
            Event::PartStart { choice, index, part },
            Event::Delta { choice, index, delta: Delta::Text(body) },
            Event::PartEnd { choice, index },
        ])
    }

    /// Puts what was made in the event's place. The frame of an answer stays, or clients would wait for ever.
    pub fn place(event: Event, mut made: Vec<Event>, kept: bool, out: &mut Vec<Event>) {
        let frame = !matches!(event, Event::Delta { .. } | Event::Ping);
        let first = matches!(event, Event::Start(_) | Event::PartStart { .. });
        match frame && !kept {
            true if first => {
                out.push(event);
                out.append(&mut made);
            }
            true => {
                out.append(&mut made);
                out.push(event);
            }
            false => out.append(&mut made),
        }
    }
}

/// The text of each part so far, for stages that look at it: bounded, since it is shown anew with each event.
#[derive(Default)]
pub struct Grown {
    parts: Vec<((u32, u32), String)>,
}

impl Grown {
    /// The text of this event's part with this event in it; `None` for events without text, and once it is too long.
    pub fn with(&mut self, event: &Event) -> Option<&str> {
        match event {
            Event::Delta { choice, index, delta: Delta::Text(text) } => {
                let place = (*choice, *index);
                let at = match self.parts.iter().position(|(known, _)| *known == place) {
                    Some(at) => at,
                    None if self.parts.len() >= MAX_PARTS => return None,
                    None => {
                        self.parts.push((place, String::new()));
                        self.parts.len() - 1
                    }
                };
                let whole = &mut self.parts[at].1;
                // One that ran over stays over.
                if whole.len() <= MAX_GROWN {
                    whole.push_str(text);
                }
                (whole.len() <= MAX_GROWN).then_some(whole.as_str())
            }
            Event::PartEnd { choice, index } => {
                let place = (*choice, *index);
                self.parts.retain(|(known, _)| *known != place);
                None
            }
            _ => None,
        }
    }
}

const MAX_PARTS: usize = 4096;
/// Bytes of one part.
const MAX_GROWN: usize = 64 << 10;

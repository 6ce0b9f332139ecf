//! The parts of one streamed answer as a script's visit counts them: which kind of text each holds, and which number it
//! has once the script put others in. Bookkeeping only.

use rhai::Dynamic;

use super::verdict;
use crate::model::{Delta, Event, Extra, Part, PartStart, ToolKind};

/// The parts of the current stream: what kind each is, and which number it has now that the script put in others.
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

    /// Events from a script's map, beside or in place of `event`.
    pub fn make(
        &mut self,
        event: &Event,
        kind: &str,
        new: &str,
        text: Option<String>,
        map: &Dynamic,
    ) -> Result<Vec<Event>, String> {
        if let (Event::Delta { choice, index, delta: Delta::Text(_) }, true) = (event, kind == new) {
            let text = text.ok_or_else(|| "a map of that kind needs text".to_owned())?;
            return Ok(vec![Event::Delta { choice: *choice, index: *index, delta: Delta::Text(text) }]);
        }
        let choice = match event {
            Event::PartStart { choice, .. }
            | Event::Delta { choice, .. }
            | Event::PartEnd { choice, .. }
            | Event::ChoiceExtra { choice, .. }
            | Event::Finish { choice, .. } => *choice,
            _ => 0,
        };
        let text = || text.clone().ok_or_else(|| "a map of that kind needs text".to_owned());
        let (part, body) = match new {
            "text" => (PartStart::Text { extra: Extra::default() }, text()?),
            "reasoning" => (PartStart::Reasoning { extra: Extra::default() }, text()?),
            "refusal" => (PartStart::Refusal, text()?),
            "tool_call" => {
                let Part::ToolCall(call) = verdict::tool_call(map)? else { return Ok(Vec::new()) };
                let start = PartStart::ToolCall {
                    id: call.id,
                    name: call.name,
                    kind: ToolKind::Function,
                    signature: None,
                    extra: Extra::default(),
                };
                (start, call.arguments)
            }
            _ => return Err("an event of that kind cannot be made here".into()),
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
}

const MAX_PARTS: usize = 4096;

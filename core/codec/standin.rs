//! A forced tool in place of an output schema, at models that cannot bind their answer otherwise. The tool's input is the
//! answer: here it becomes text again, in whole answers and in streams, so that the client gets what it asked for.

use super::{Dialect, StreamDecoder};
use crate::{
    error::Result,
    model::{Delta, Event, Extra, FinishReason, Output, Part, PartStart, Request, Response, Text, ToolCall},
};

/// What the tool is called upstream. No tool of a caller's has this name.
pub const NAME: &str = "portcullis_answer";

/// Does a tool stand in for this request's schema? Only an object can be a tool's input.
pub fn wanted(request: &Request, dialect: &Dialect) -> bool {
    let Some(Output::Schema { schema, .. }) = &request.output else { return false };
    let object = schema.get("type").map_or(schema.get("properties").is_some(), |kind| kind == "object");
    !dialect.native_schema && object && !["tools", "json_schema"].iter().any(|lack| dialect.lacks.contains(lack))
}

/// The call of the tool as the text that it stands for.
pub fn restore(response: &mut Response) {
    for choice in &mut response.choices {
        let mut restored = false;
        for part in &mut choice.parts {
            if let Part::ToolCall(ToolCall { name, arguments, .. }) = part
                && *name == NAME
            {
                let text = if arguments.is_empty() { "{}".to_owned() } else { std::mem::take(arguments) };
                *part = Part::Text(Text { text, ..Text::default() });
                restored = true;
            }
        }
        let called = choice.parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
        if let Some(finish) = &mut choice.finish
            && restored
            && !called
            && finish.reason == FinishReason::ToolCalls
        {
            finish.reason = FinishReason::Stop;
        }
    }
}

/// The same for a stream.
pub fn restored(inner: Box<dyn StreamDecoder>) -> Box<dyn StreamDecoder> {
    Box::new(Restored { inner, open: Vec::new(), restored: false, called: false })
}

struct Restored {
    inner: Box<dyn StreamDecoder>,
    /// Answers under way: choice, part, and whether anything of them came.
    open: Vec<(u32, u32, bool)>,
    restored: bool,
    /// A tool of the caller's own was called.
    called: bool,
}

impl StreamDecoder for Restored {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<()> {
        let mut events = Vec::new();
        let result = self.inner.push(bytes, &mut events);
        events.into_iter().for_each(|event| self.pass(event, out));
        result
    }

    fn finish(&mut self, out: &mut Vec<Event>) -> Result<()> {
        let mut events = Vec::new();
        let result = self.inner.finish(&mut events);
        events.into_iter().for_each(|event| self.pass(event, out));
        result
    }
}

impl Restored {
    fn pass(&mut self, mut event: Event, out: &mut Vec<Event>) {
        match &mut event {
            Event::PartStart { choice, index, part } => {
                if let PartStart::ToolCall { name, .. } = part {
                    if *name == NAME {
                        self.open.push((*choice, *index, false));
                        self.restored = true;
                        *part = PartStart::Text { extra: Extra::default() };
                    } else {
                        self.called = true;
                    }
                }
            }
            Event::Delta { choice, index, delta: Delta::Text(text) } if !text.is_empty() => {
                if let Some(open) = self.open.iter_mut().find(|(c, i, _)| (c, i) == (choice, index)) {
                    open.2 = true;
                }
            }
            Event::PartEnd { choice, index } => {
                let (choice, index) = (*choice, *index);
                if let Some(at) = self.open.iter().position(|(c, i, _)| (*c, *i) == (choice, index))
                    && !self.open.swap_remove(at).2
                {
                    out.push(Event::Delta { choice, index, delta: Delta::Text("{}".to_owned()) });
                }
            }
            Event::Finish { finish, .. }
                if self.restored && !self.called && finish.reason == FinishReason::ToolCalls =>
            {
                finish.reason = FinishReason::Stop;
            }
            _ => {}
        }
        out.push(event);
    }
}

#[cfg(test)]
#[path = "standin_tests.rs"]
mod tests;

//! What a stage that looks through a window is shown of a stream, and what goes on: text once enough of it is there, the
//! rest when no more of its kind can come. Keeps nothing itself: that is `adapt::Window`.

use super::{Say, Seat};
use crate::{
    context::Context,
    error::Result,
    model::{Delta, Event, Format, Operation},
    pipeline::adapt::{Adapter, Free, Kind},
};

impl Seat {
    pub(super) async fn window(&mut self, cx: &mut Context, event: Event, out: &mut Vec<Event>) -> Result<Say> {
        let Adapter::Window(window) = &mut self.adapter else { return Ok(Say::Continue) };
        match event {
            Event::PartStart { choice, index, ref part } => {
                let kind = Kind::of(part).filter(|_| joins(cx.operation, cx.format));
                let mut start = Vec::new();
                let said = self.structural(cx, event, &mut start).await?;
                match (kind, &mut self.adapter) {
                    (Some(kind), Adapter::Window(window)) => out.extend(window.begin(choice, index, kind, start)),
                    _ => out.append(&mut start),
                }
                Ok(said)
            }
            Event::Delta { choice, index, delta } => {
                let Some(text) = window.hold(choice, index, delta) else { return Ok(Say::Continue) };
                let ends = if one_at_a_time(cx.format) { window.stands_before(choice, index) } else { Vec::new() };
                let mut made = Vec::new();
                let mut said = self.look(cx, choice, index, text, false, &mut made).await?;
                // What is over would keep the text waiting that is free to go: it is let go of first.
                if said == Say::Continue && !made.is_empty() {
                    said = self.flush(cx, ends, out).await?;
                }
                out.append(&mut made);
                Ok(said)
            }
            Event::PartEnd { choice, index } => {
                if window.end(choice, index) {
                    return Ok(Say::Continue);
                }
                let said = self.flush(cx, vec![(choice, index)], out).await?;
                if said == Say::Continue { self.structural(cx, event, out).await } else { Ok(said) }
            }
            Event::Finish { choice, .. } => {
                let open = window.open(Some(choice));
                let said = self.flush(cx, open, out).await?;
                if said == Say::Continue { self.structural(cx, event, out).await } else { Ok(said) }
            }
            Event::End => {
                let open = window.open(None);
                let said = self.flush(cx, open, out).await?;
                if said == Say::Continue { self.structural(cx, event, out).await } else { Ok(said) }
            }
            other => self.structural(cx, other, out).await,
        }
    }

    async fn structural(&mut self, cx: &mut Context, event: Event, out: &mut Vec<Event>) -> Result<Say> {
        if self.out {
            out.push(event);
            return Ok(Say::Continue);
        }
        self.direct(cx, event, out).await
    }

    /// Shows the stage a part's text so far; what it made of it is released but for the window.
    async fn look(
        &mut self,
        cx: &mut Context,
        choice: u32,
        index: u32,
        text: String,
        all: bool,
        out: &mut Vec<Event>,
    ) -> Result<Say> {
        let mut seen = Vec::new();
        let mut said = self.structural(cx, Event::Delta { choice, index, delta: Delta::Text(text) }, &mut seen).await?;
        let mut mine = String::new();
        for event in seen {
            match event {
                Event::Delta { choice: c, index: i, delta: Delta::Text(text) } if (c, i) == (choice, index) => {
                    mine.push_str(&text);
                }
                other => out.push(other),
            }
        }
        let Adapter::Window(window) = &mut self.adapter else { return Ok(said) };
        if all {
            window.tell(choice, index, &mine);
        } else {
            mine = window.release(choice, index, mine);
        }
        for free in window.share(choice, index, mine) {
            match free {
                Free::Seen(event) => out.push(event),
                Free::New(event) if said == Say::Continue => said = self.structural(cx, event, out).await?,
                Free::New(_) => {}
            }
        }
        Ok(said)
    }

    /// Shows the stage all that is held of these parts, and lets go of it.
    async fn flush(&mut self, cx: &mut Context, parts: Vec<(u32, u32)>, out: &mut Vec<Event>) -> Result<Say> {
        for (choice, index) in parts {
            let Adapter::Window(window) = &mut self.adapter else { break };
            let text = window.rest(choice, index);
            if !text.is_empty() {
                let said = self.look(cx, choice, index, text, true, out).await?;
                if said != Say::Continue {
                    return Ok(said);
                }
            }
            let Adapter::Window(window) = &mut self.adapter else { break };
            for free in window.close(choice, index) {
                let said = match free {
                    Free::Seen(event) => {
                        out.push(event);
                        Say::Continue
                    }
                    Free::New(event) => self.structural(cx, event, out).await?,
                };
                if said != Say::Continue {
                    return Ok(said);
                }
            }
        }
        Ok(Say::Continue)
    }
}

/// A session says each of its texts anew as a whole, when that is over: none goes on in another one. Gemini's parts have no
/// numbers: their order says what belongs together, and none may wait for a later one.
fn joins(operation: Operation, format: Format) -> bool {
    operation != Operation::Realtime && format != Format::Gemini
}

/// Formats whose streams have one open part at a time: their encoders keep all others waiting for its end.
fn one_at_a_time(format: Format) -> bool {
    match format {
        Format::AnthropicMessages | Format::BedrockConverse | Format::Cohere | Format::Ollama => true,
        Format::OpenaiChat | Format::OpenaiResponses | Format::Gemini => false,
    }
}

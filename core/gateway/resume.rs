//! 9 again: a stream that broke after its commit goes on at another target, from the text so far. The same steps as for every
//! attempt (stages, limits, keys, the call), within the four attempts and the breakers; the client's stream stays the one that
//! it has. Where no target can go on from a begun answer, the error is the client's, as without `resume`.

use std::sync::Arc;

use http::HeaderMap;

use super::{Attempted, Gateway, turns::is_copy};
use crate::{
    answer::{Streaming, resume::Sofar},
    clock,
    codec::{Field, codec, document::Document},
    error::Error,
    exchange::Exchange,
    model::{Format, Message, Operation, Output, Part, Role},
    reply::Reply,
    route::{self, Cause, Next, Target},
    runtime::Runtime,
};

/// What going on takes. Kept with the stream, for aliases that want it.
pub struct Later {
    /// The request before any target's own changes.
    pub document: Document,
    pub client: HeaderMap,
    /// Who has not been asked.
    pub rest: Vec<Arc<Target>>,
    /// Who asks; known when the stream is handed to its client.
    pub by: Option<(Arc<Gateway>, Arc<Runtime>)>,
}

impl Later {
    /// `None`: nobody could go on, or no answer to this request can be gone on from.
    pub(super) fn of(
        exchange: &Exchange,
        document: &mut Document,
        client: &HeaderMap,
        target: &Target,
        rest: &[Arc<Target>],
    ) -> Option<Box<Later>> {
        let wants = target.care.as_ref().is_some_and(|care| care.resume);
        if !wants
            || is_copy(exchange)
            || exchange.cx.operation != Operation::Chat
            || document.legacy()
            || document.output_bound().choices > 1
        {
            return None;
        }
        let rest: Vec<_> = rest.iter().filter(|t| goes_on_at(t, document)).cloned().collect();
        let plain = matches!(document.request().ok()?.output, None | Some(Output::Text));
        if rest.is_empty() || !plain {
            return None;
        }
        Some(Box::new(Later { document: document.clone(), client: client.clone(), rest, by: None }))
    }

    /// May the stream go on elsewhere after this failure?
    pub fn may_help(&self, exchange: &Exchange, error: &Error) -> bool {
        let left = (exchange.cx.attempt as usize) < route::MAX_ATTEMPTS && !self.rest.is_empty();
        left && self.by.is_some() && Cause::of(error).rule().next == Next::Targets
    }

    /// The stream that goes on, read up to its first output, or `None`; `true`: it begins with the text so far.
    pub async fn go_on(&mut self, exchange: &mut Exchange, sofar: &Sofar) -> Option<(Box<Streaming>, bool)> {
        let (gateway, runtime) = self.by.clone()?;
        let mut document = self.document.clone();
        let text = sofar.text();
        let request = document.edit(Field::Messages).ok()?;
        if !text.is_empty() {
            request.messages.push(Message {
                role: Role::Assistant,
                parts: vec![Part::text(text)],
                name: None,
                extra: Default::default(),
            });
        }
        let said = crate::account::estimate::tokens_of(text.len() as u64);
        if let Some(most) = request.max_tokens {
            document.edit(Field::MaxTokens).ok()?.max_tokens = Some(most.saturating_sub(said).max(1));
        }
        // It ended with the commit.
        exchange.cx.deadline = None;
        exchange.size.text_bytes += text.len() as u64;
        exchange.resuming = true;
        let mut found = None;
        while !self.rest.is_empty() && found.is_none() {
            let target = self.rest.remove(0);
            if (exchange.cx.attempt as usize) >= route::MAX_ATTEMPTS {
                exchange.cx.trace.passed_over(&target, "four attempts were made");
                break;
            }
            if exchange.was_beside(&target.name) {
                continue;
            }
            if gateway.state.health.closed(&target, clock::now()).is_some() {
                exchange.cx.trace.passed_over(&target, "its quota is used up, or its provider said to wait");
                continue;
            }
            let Ok(place) = gateway.room(&exchange.cx, &target) else {
                exchange.cx.trace.passed_for(&target, "full", "every place is taken");
                continue;
            };
            let Ok(flight) = gateway.state.health.enter(&target, clock::now()) else {
                exchange.cx.trace.passed_over(&target, "ejected after repeated failures");
                continue;
            };
            let mut flight = Some(flight.at(place));
            let mut own = document.clone();
            if let Some(field) = target.dialect.prefill.filter(|_| !text.is_empty())
                && let Ok(request) = own.edit(Field::Messages)
                && let Some(turn) = request.messages.last_mut()
            {
                turn.extra.insert(Format::OpenaiChat, field, true.into());
            }
            let attempt = gateway.attempt(&runtime, exchange, &self.client, &mut own, &target, &mut flight, &[]);
            match Box::pin(attempt).await {
                Ok(Attempted::Answered(Reply::Stream(streaming))) => {
                    exchange
                        .cx
                        .trace
                        .note("resume", &format!("{} goes on after {} characters", target.name, text.chars().count()));
                    found = Some((streaming, target.dialect.echoes));
                }
                Ok(_) => exchange.cx.trace.passed_over(&target, "it did not stream"),
                Err(error) => exchange.cx.trace.passed_over(&target, error.code()),
            }
        }
        exchange.resuming = false;
        exchange.size.text_bytes = exchange.size.text_bytes.saturating_sub(text.len() as u64);
        found
    }
}

/// Does this target go on with an answer that was begun for it?
fn goes_on_at(target: &Target, document: &Document) -> bool {
    let spoken = target.provider.speaks(document.format());
    let marked = spoken == Format::OpenaiChat && target.dialect.prefill.is_some();
    (marked || codec(spoken).prefills()) && !target.dialect.lacks.contains(&"prefill")
}

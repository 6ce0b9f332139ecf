//! 8 for a target that takes its time: another one is asked beside it, and the first to have output ready is heard; the others are
//! cancelled and accounted. Here stands the race; what is heard goes the way of every answer (`attempt.rs`, `heard`).
//!
//! Until one has won nothing of an answer touches the exchange: a runner only sends, and reads as far as the first output.
//! Who does not hedge does not come here. Who does runs alone first, in a box and with one timer; what a race needs is made when that
//! timer rings, and lies in boxes of its own.

mod contest;
mod look;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Instant,
};

use http::HeaderMap;

use self::{contest::Runner, look::Look};
use super::{Attempted, Gateway, attempt, turns::is_copy};
use crate::{
    call::{Call, Waits},
    clock,
    codec::document::Document,
    config::{After, Hedge, Rules},
    error::Result,
    exchange::Exchange,
    limit::Reserved,
    model::{Operation, Tool},
    provider::KeyChoice,
    route::{Flight, Target},
    runtime::Runtime,
    transport::Incoming,
};

/// What a race needs beside the attempt that begins it.
pub(super) struct Beside<'a> {
    pub hedge: Hedge,
    /// Who may be asked, in order.
    pub rest: &'a [Arc<Target>],
    pub client: &'a HeaderMap,
    /// The request before the first target's own changes.
    pub document: &'a Document,
}

/// What came of an attempt that others may be asked beside.
pub(super) enum Race {
    /// Nobody else is under way: this is what the first target sent, and the way goes on as if it had run alone.
    Alone(Result<(Incoming, Waits)>),
    /// All that ran is accounted.
    Over(Result<Attempted>),
}

impl Gateway {
    /// May a second target be asked for this request at all? Only what leaves nothing behind: an answer that nobody hears must
    /// not have done anything.
    pub(super) fn hedges(
        &self,
        runtime: &Runtime,
        exchange: &Exchange,
        document: &mut Document,
        target: &Target,
        rest: &[Arc<Target>],
    ) -> Option<Hedge> {
        let hedge = target.care.as_ref()?.hedge?;
        if exchange.opaque.is_some() || document.runs_in_background() || exchange.hedged_already() || is_copy(exchange)
        {
            return None;
        }
        let why = alone(&runtime.config.rules, exchange.cx.operation, document, target, rest);
        if why.is_some() { None } else { Some(hedge) }
    }

    /// The attempt at `target` that `call` makes, and others beside it when it takes its time.
    #[expect(clippy::too_many_arguments, reason = "the whole state of one call; a struct would be used once")]
    pub(super) async fn race(
        &self,
        runtime: &Runtime,
        exchange: &mut Exchange,
        call: &mut Call,
        (choice, right): (KeyChoice, Reserved),
        document: &Document,
        target: &Arc<Target>,
        flight: &mut Option<Flight>,
        beside: &Beside<'_>,
    ) -> Race {
        let stream = document.stream();
        let (number, waits, look) = begins(runtime, exchange, call, target, stream);
        let sealed = match self.signed(call, target, (choice, right), waits.until).await {
            Ok(sealed) => sealed,
            Err(error) => return Race::Alone(Err(error)),
        };
        let after = match beside.hedge.after {
            // One race a request: another key of the first target is no second chance for the others.
            _ if exchange.hedged_already() => None,
            After::Time(time) => Some(time),
            After::Percentile(percent) => self.state.waits.percentile(&target.name, stream, percent),
        };
        let due = after.filter(|_| beside.hedge.max > 0).map(|after| waits.began + after);
        let (transport, memory) = (&self.state.transport, &self.state.body_memory);
        // Until somebody else is due no other timer can ring.
        let early = AtomicBool::new(due.is_some_and(|due| due <= waits.until));
        let mut first = pin!(Some(look.at(transport, memory, sealed, &**target, &early)));
        let came = alone_until(first.as_mut(), due).await;
        early.store(false, Ordering::Relaxed);
        match came {
            Some(came) => {
                if came.is_ok() {
                    self.note(beside, target, waits, stream);
                }
                Race::Alone(came.map(|incoming| (incoming, waits)))
            }
            None => {
                let runner = Runner { target: target.clone(), number, waits, choice, own: None };
                let contest = self.contest(runtime, exchange, first, runner, (stream, after), flight, beside);
                Box::pin(contest).await
            }
        }
    }

    /// How long an answer was waited for, where that says when the next one is late.
    fn note(&self, beside: &Beside<'_>, target: &Target, waits: Waits, stream: bool) {
        if let After::Percentile(_) = beside.hedge.after {
            self.state.waits.note(&target.name, stream, clock::since(waits.began));
        }
    }
}

/// An attempt that begins now: its number, its clocks, and how far it is read.
fn begins(runtime: &Runtime, exchange: &Exchange, call: &Call, target: &Target, stream: bool) -> (u32, Waits, Look) {
    let waits = attempt::waits(exchange, target, stream, clock::now());
    let look = Look {
        stream,
        spoken: (call.format, exchange.cx.format),
        until: waits.until,
        whole: waits.whole,
        limit: runtime.config.server.max_event,
    };
    (exchange.cx.attempt, waits, look)
}

/// Why nobody would be asked beside this target, however long it takes; `None`: another one may be.
pub fn alone(
    rules: &Rules,
    operation: Operation,
    document: &mut Document,
    target: &Target,
    rest: &[Arc<Target>],
) -> Option<&'static str> {
    if !matches!(operation, Operation::Chat | Operation::Embeddings) {
        return Some("only chats and embeddings are");
    }
    if rest.is_empty() {
        return Some("no other target is left");
    }
    // A provider's own limits count one place at a time.
    if rules.providers.contains_key(&*target.provider.name) {
        return Some("its provider has limits of its own");
    }
    runs_tools(document).then_some("its provider would run tools twice")
}

/// Does the provider run something for it that nobody can take back?
fn runs_tools(document: &mut Document) -> bool {
    if !document.has_tools() {
        return false;
    }
    match document.request() {
        Ok(request) => request.tools.iter().any(|tool| matches!(tool, Tool::Hosted { .. })),
        Err(_) => true,
    }
}

/// What the first one sent, or `None` at `until`.
async fn alone_until<F: Future>(mut first: Pin<&mut Option<F>>, until: Option<Instant>) -> Option<F::Output> {
    let mut timer = pin!(until.map(clock::sleep_until));
    poll_fn(|cx| {
        if let Some(Poll::Ready(came)) = first.as_mut().as_pin_mut().map(|first| first.poll(cx)) {
            return Poll::Ready(Some(came));
        }
        match timer.as_mut().as_pin_mut().map(|timer| timer.poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(None),
            _ => Poll::Pending,
        }
    })
    .await
}

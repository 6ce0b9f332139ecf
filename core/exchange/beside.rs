//! Attempts of one request that run at the same time, and streams that break off: each gets its row, whatever becomes of it. Part of
//! the exchange, which owns them; who is asked, and who wins, is said by the gateway.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{CLIENT_LEFT, Exchange, Inner, Running};
use crate::{
    account::{Attempt, estimate::Estimates, price::Rates},
    clock,
    codec::document::Document,
    context::Step,
    error::Kind,
    limit::Need,
    model::{Operation, Usage},
    route::Target,
};

/// Attempts that run at the same time: one is `running`, the others lie here.
#[derive(Default)]
pub(super) struct Beside {
    pub(super) aside: Vec<Running>,
    /// What those that run may use, with all that was used before.
    pub(super) held: Need,
    /// Targets that were asked so.
    asked: Vec<Arc<str>>,
}

impl Exchange {
    /// Was something asked beside an attempt of this request already?
    pub fn hedged_already(&self) -> bool {
        self.beside.is_some()
    }

    pub fn was_beside(&self, target: &str) -> bool {
        self.beside.as_ref().is_some_and(|beside| beside.asked.iter().any(|asked| **asked == *target))
    }

    /// The attempt under way goes on, while another one is reserved for and begins.
    pub fn stand_by(&mut self) {
        let inner = &mut **self;
        let held = inner.wanted;
        let beside = inner.beside.get_or_insert_default();
        beside.held = held;
        beside.aside.extend(inner.running.take());
    }

    /// Nothing began beside it.
    pub fn step_back(&mut self) {
        if self.running.is_none() {
            let back = self.next_aside();
            self.running = back;
        }
    }

    /// An attempt at `target` begins beside those that run.
    pub fn begins_beside(&mut self, target: &Arc<Target>, document: &Document) {
        self.begins(target, document, clock::now());
        if let Some(beside) = &mut self.beside {
            beside.asked.push(target.name.clone());
        }
    }

    /// This one of them is the attempt under way from here on.
    pub fn take_up(&mut self, number: u32) {
        let inner = &mut **self;
        let Some(beside) = &mut inner.beside else { return };
        let Some(at) = beside.aside.iter().position(|running| running.number == number) else { return };
        let taken = beside.aside.swap_remove(at);
        beside.aside.extend(inner.running.take());
        inner.size.begin(&taken.target.rates);
        inner.running = Some(taken);
    }

    /// One of several ended with this outcome.
    pub fn ended(&mut self, number: u32, outcome: String, estimates: &Estimates) {
        self.take_up(number);
        let running = self.running.as_ref().filter(|running| running.number == number);
        let Some((name, began)) = running.map(|running| (running.target.name.clone(), running.began)) else { return };
        self.failed(&name, outcome, began, estimates);
    }

    /// An attempt at `target` failed, and another may follow. What its upstream had begun, or may have, and did not count is
    /// estimated, as it is for a request's last attempt.
    pub fn failed(&mut self, target: &Arc<str>, outcome: String, began: Instant, estimates: &Estimates) {
        let inner = &**self;
        let known = inner.record.usage.as_ref();
        let lacks = known.and_then(|known| known.input_tokens).is_none();
        let late = inner.size.cut && inner.size.answered(known.and_then(|known| known.output_tokens)).is_some();
        let begun = inner.running.as_ref().is_some_and(|running| running.accepted) || is_lost(&outcome);
        let operation = inner.cx.operation;
        let reads = operation.spends() && !operation.is_opaque() && !inner.background;
        if begun && reads && (lacks || late) {
            self.guess(target, estimates);
        }
        self.attempted(target, outcome, began);
    }

    /// A stream at `target` broke off after output, and another attempt follows: what nobody counted is estimated now.
    pub fn broke_off(&mut self, target: &Arc<str>, outcome: &str, began: Instant, estimates: &Estimates) {
        self.guess(target, estimates);
        self.attempted(target, outcome.to_owned(), began);
    }

    /// The attempt under way ends before its upstream has counted: its prompt and what came of its answer are taken as used.
    fn guess(&mut self, target: &Arc<str>, estimates: &Estimates) {
        let inner = &mut **self;
        let known = inner.record.usage.clone().unwrap_or_default();
        let input = known.input_tokens.unwrap_or_else(|| inner.size.tokens(target, estimates));
        let output = inner.size.answered(known.output_tokens).or(known.output_tokens).unwrap_or(0);
        inner.record.usage = Some(Usage { input_tokens: Some(input), output_tokens: Some(output), ..known });
        if let Some(running) = &mut inner.running {
            running.guessed = true;
        }
    }

    /// Another one was first: what it read of the prompt is taken as used.
    pub fn outrun(&mut self, number: u32, estimates: &Estimates) {
        self.take_up(number);
        let inner = &mut **self;
        let Some(running) = inner.running.take_if(|running| running.number == number) else { return };
        let Running { target, began, .. } = running;
        let tokens = inner.size.tokens(&target.name, estimates);
        let usage = Usage { input_tokens: Some(tokens), output_tokens: Some(0), ..Usage::default() };
        let rates = target.rates.as_ref();
        let cost = rates.and_then(|rates| rates.cost_at(&usage, inner.cx.now));
        let took = clock::since(began);
        inner.spent.get_or_insert_default().add(&usage);
        inner.record.charge(Attempt {
            number,
            target: target.name.clone(),
            outcome: Attempt::HEDGED.into(),
            usage: Some(usage),
            cost_nano_usd: cost,
            price: rates.filter(|_| cost.is_some()).map(|rates| rates.version),
            estimated: true,
            took,
        });
        let outcome = Attempt::HEDGED.into();
        inner.cx.trace.push(Step::Attempt { number, target: target.name.clone(), outcome, took });
    }
}

impl Inner {
    /// The attempt under way becomes its row. What an upstream turned away is free; what it took without telling how much it
    /// used is unknown.
    pub(super) fn charge(&mut self, outcome: Cow<'static, str>, took: Duration) {
        let Some(running) = self.running.take() else { return };
        let Running { target, number, began: _, accepted, asked, served, guessed } = running;
        if let Some(usage) = &mut self.record.usage {
            usage.service_tier = served.or(usage.service_tier).or(asked);
        }
        let usage = self.record.usage.clone();
        let later = self.background || self.cx.operation == Operation::CountTokens || self.cx.operation.lacks_model();
        let free = usage.is_none() && (later || !(accepted || is_lost(&outcome)));
        let cost = match (&usage, &target.rates) {
            _ if free => Some(0),
            (Some(usage), Some(rates)) => rates.cost_at(usage, self.cx.now),
            _ => None,
        };
        let priced = |rates: &Arc<Rates>| (usage.is_some() && cost.is_some()).then_some(rates.version);
        let price = target.rates.as_ref().and_then(priced);
        self.record.charge(Attempt {
            number,
            target: target.name.clone(),
            outcome,
            usage,
            cost_nano_usd: cost,
            price,
            estimated: guessed,
            took,
        });
    }

    pub(super) fn next_aside(&mut self) -> Option<Running> {
        self.beside.as_mut().and_then(|beside| beside.aside.pop())
    }
}

/// Nobody knows what its upstream did.
fn is_lost(outcome: &str) -> bool {
    outcome == CLIENT_LEFT || outcome == Kind::UpstreamTimeout.facts().1
}

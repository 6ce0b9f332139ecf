//! The one owner of a request from its admission to its record: context, stages, permit, facts. Whatever happens, the
//! facts reach the settle queue exactly once: handed over when the answer is done, or by `drop` when the client left.
//! Accounting itself happens behind the queue (`account::settle`), never here.

mod beside;
mod shared;
mod wire;

use std::{
    any::Any,
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use self::beside::Beside;
pub use self::wire::Wire;
use crate::{
    account::{
        Attempt, Record, SettleQueue,
        estimate::{Size, tokens_of},
    },
    auth::Principal,
    cache::{Landed, Leading},
    clock,
    codec::{ClientView, OutputBound, document::Document},
    context::{Context, Step},
    error::Error,
    experiment::Part,
    limit::{self, Bounds, Need, Permit, Reservation},
    model::{FinishReason, ServiceTier, Usage},
    opaque::Opaque,
    pipeline::Chain,
    queue::Place,
    quota::Taken,
    rollout::Trial,
    route::Target,
    server::BodyPermit,
    stored::Keep,
    upstream::Flow,
};

/// Everything one request owns.
pub struct Exchange {
    inner: Option<Box<Inner>>,
    pub settle: SettleQueue,
}

pub struct Inner {
    pub cx: Context,
    pub chain: Chain,
    pub record: Record,
    /// What binds the caller.
    pub bounds: Bounds,
    /// `None` until `limit::enter`.
    pub permit: Option<Permit>,
    /// Among the requests that the gateway runs at a time.
    pub place: Option<Place>,
    /// Once it ended: what it had taken, to be corrected by what it used.
    pub reservation: Option<Box<Reservation>>,
    /// What its attempts hold of providers' quotas.
    pub taken: Vec<Taken>,
    /// Of the request and what came of its answer, for what nobody counts.
    pub size: Size,
    /// The request body's share of `body_memory`.
    pub held: Option<BodyPermit>,
    /// Those of media that were fetched for it.
    pub fetched: Vec<BodyPermit>,
    /// The last upstream's own request id.
    pub upstream_id: Option<HeaderValue>,
    /// The attempt under way.
    running: Option<Running>,
    /// Others that are under way beside it, and have been.
    beside: Option<Box<Beside>>,
    /// What the attempt under way may use at most, with all that was used before.
    pub wanted: Need,
    /// A stream that broke off is to go on elsewhere.
    pub resuming: bool,
    /// What earlier attempts used.
    pub spent: Option<Usage>,
    pub wire: Wire,
    /// Knobs that the target could not take.
    pub dropped: Vec<Cow<'static, str>>,
    /// Parameters that were held to the caller's caps.
    pub capped: Vec<&'static str>,
    /// A budget refused what was asked for, and it went to a cheaper model.
    pub fell_back: bool,
    /// The bound that the gateway set on the answer, because of a budget.
    pub max_tokens: Option<u64>,
    /// Of an operation that no codec reads.
    pub opaque: Option<Box<Opaque>>,
    /// Its answer is made in the background: what that costs is charged with the request that sees its end.
    pub background: bool,
    /// The answer is to be kept for later requests.
    pub keep: Option<Box<Keep>>,
    /// It flies for others, too, and its answer may be kept for later ones.
    pub flight: Option<Box<Leading>>,
    /// Its answer was kept: what it cost becomes known with the record.
    pub kept: Option<Box<Landed>>,
    /// What an answer that is written anew repeats of its request.
    pub echo: Option<Arc<Map<String, Value>>>,
    /// A new version is being tried, and this request has a part in it.
    pub trial: Option<Box<Trial>>,
    /// Its part in an experiment.
    pub part: Option<Box<Part>>,
    /// What its stages need to the end and do not hold themselves: the runtime, where they may ask models.
    pub alive: Option<Arc<dyn Any + Send + Sync>>,
}

impl Inner {
    /// What attempts that are over have used.
    pub fn used_before(&self) -> Need {
        if let Some(beside) = self.beside.as_ref().filter(|beside| !beside.aside.is_empty()) {
            return beside.held;
        }
        let (mut input_tokens, mut output_tokens) = (0, 0);
        for usage in self.spent.iter().chain(&self.record.usage) {
            input_tokens += usage.input_tokens.unwrap_or(0);
            output_tokens += usage.output_tokens.unwrap_or(0);
        }
        // What nobody knows the price of counts as the budget says.
        let unknown = self.record.ledger.iter().filter(|row| row.cost_nano_usd.is_none()).count() as u64;
        let unpriced = if unknown > 0 { self.bounds.unpriced().unwrap_or(0) } else { 0 };
        let known = self.record.cost_nano_usd.map_or(0, |nano| u64::try_from(nano).unwrap_or(0));
        Need { input_tokens, output_tokens, nano_usd: known.saturating_add(unknown.saturating_mul(unpriced)) }
    }

    /// What of it was not used at this provider.
    pub fn used_elsewhere(&self, provider: &str) -> Need {
        if self.record.ledger.is_empty() {
            return Need::default();
        }
        let unpriced = self.bounds.unpriced().unwrap_or(0);
        let other = |row: &&Attempt| row.target.split_once('/').is_none_or(|(name, _)| name != provider);
        let mut sum = Need::default();
        for row in self.record.ledger.iter().filter(other) {
            let usage = row.usage.as_ref();
            sum.input_tokens += usage.and_then(|u| u.input_tokens).unwrap_or(0);
            sum.output_tokens += usage.and_then(|u| u.output_tokens).unwrap_or(0);
            let cost = row.cost_nano_usd.map_or(unpriced, |nano| u64::try_from(nano).unwrap_or(0));
            sum.nano_usd = sum.nano_usd.saturating_add(cost);
        }
        sum
    }

    /// The time of the request so far, or all of it.
    pub fn lasted(&self) -> Duration {
        let all = self.record.duration;
        if all.is_zero() { clock::since(self.cx.started) } else { all }
    }

    /// The caller's limits, for headers.
    pub fn rates(&self) -> Option<limit::Rates> {
        self.permit.as_ref().and_then(Permit::rates).or_else(|| self.bounds.rates())
    }

    /// What limits and budgets had to say goes into the trace.
    pub fn limits_told(&mut self) {
        let told = self.permit.as_mut().map(Permit::told).unwrap_or_default();
        told.iter().for_each(|text| self.cx.trace.note("limits", text));
    }
}

/// An attempt between its start and its row in the ledger.
struct Running {
    target: Arc<Target>,
    number: u32,
    began: Instant,
    /// The upstream has begun to answer: from here on it may charge for it.
    accepted: bool,
    /// The service that was asked for, where prices differ by it, and the one that the answer names.
    asked: Option<ServiceTier>,
    served: Option<ServiceTier>,
    /// Its usage is no count of its upstream's.
    guessed: bool,
}

/// A finished request on its way to its record: all that it was, but for what it held back from others.
pub struct Settled(pub Box<Inner>);

impl Exchange {
    pub fn new(mut cx: Context, settle: SettleQueue, trial: Option<Box<Trial>>) -> Self {
        if let Some(trial) = &trial {
            trial.note(&mut cx);
        }
        // Made in its box: it is large.
        let room = Box::new_uninit();
        let inner = Box::write(
            room,
            Inner {
                record: Record::of(&cx),
                cx,
                chain: Chain::new(std::iter::empty()),
                bounds: Bounds::default(),
                permit: None,
                place: None,
                reservation: None,
                size: Size::default(),
                held: None,
                fetched: Vec::new(),
                upstream_id: None,
                running: None,
                beside: None,
                wanted: Need::default(),
                resuming: false,
                spent: None,
                wire: Wire::default(),
                dropped: Vec::new(),
                capped: Vec::new(),
                fell_back: false,
                taken: Vec::new(),
                max_tokens: None,
                opaque: None,
                background: false,
                keep: None,
                flight: None,
                kept: None,
                echo: None,
                trial,
                part: None,
                alive: None,
            },
        );
        Exchange { inner: Some(inner), settle }
    }

    /// The caller is known.
    pub fn identify(&mut self, principal: Arc<Principal>) {
        self.record.key_id = principal.key_id.clone();
        self.record.team = principal.team.clone();
        self.record.user = principal.user.clone();
        self.record.organisation = principal.organisation.clone();
        if !principal.terms.is_empty() {
            let inner = &mut **self;
            inner.cx.held_to(&principal);
            inner.record.tags = inner.cx.tags.clone();
        }
        self.cx.principal = principal;
    }

    /// What was asked is known.
    pub fn asked(&mut self, document: &Document) {
        // A name that is too long to be one is refused later; it is not kept at its length until then.
        self.record.model = document.model().chars().take(MAX_MODEL).collect();
        self.record.stream = document.stream();
        self.size = Size::of(document);
    }

    /// What a codec needs to write to this client. Made only when something is written anew.
    pub fn view(&self) -> ClientView {
        let Wire { include_usage, json_array, base64, single, legacy, strict_sdk } = self.wire;
        ClientView {
            model: self.record.model.clone(),
            request_id: self.cx.id.to_string(),
            now: self.cx.unix(),
            include_usage,
            json_array,
            base64,
            single,
            legacy,
            strict_sdk,
            echo: self.echo.clone(),
        }
    }

    /// The upstream's own id, in any of the families' spellings.
    pub fn upstream_answered(&mut self, headers: &HeaderMap) {
        self.upstream_id = UPSTREAM_IDS.iter().find_map(|name| headers.get(name)).filter(|v| v.len() <= 128).cloned();
    }

    /// The request's body streamed and is gone: it cannot be sent again.
    pub fn body_is_gone(&self) -> bool {
        self.opaque.as_ref().and_then(|o| o.flow()).is_some_and(Flow::begun)
    }

    /// What was wrong with a body that streamed: then its upstream is not to blame.
    pub fn body_fault(&self) -> Option<Error> {
        self.opaque.as_ref()?.flow()?.fault()
    }

    /// All of the answer is there: what is told of it from here on has one clock.
    pub fn complete(&mut self) {
        self.record.duration = clock::since(self.cx.started);
    }

    /// The answer is complete, or refused: `status` is what the client got.
    pub fn settle(mut self, status: u16) {
        self.record.status = status;
        self.hand_over();
    }

    /// An attempt at `target` ended.
    pub fn attempted(&mut self, target: &Arc<str>, outcome: impl Into<Cow<'static, str>>, began: Instant) {
        self.took(target, outcome, clock::since(began));
    }

    /// An attempt at `target` ended after `took`.
    pub fn took(&mut self, target: &Arc<str>, outcome: impl Into<Cow<'static, str>>, took: Duration) {
        let (inner, outcome) = (&mut **self, outcome.into());
        inner.record.attempts = inner.cx.attempt;
        inner.record.upstream_duration += took;
        let number = inner.running.as_ref().map_or(inner.cx.attempt, |running| running.number);
        inner.charge(outcome.clone(), took);
        inner.cx.trace.push(Step::Attempt { number, target: target.clone(), outcome, took });
    }

    /// The upstream has taken the call and begun to answer.
    pub fn accepted(&mut self) {
        if let Some(running) = &mut self.running {
            running.accepted = true;
        }
    }

    /// A whole answer is there: what it said, in bytes of text, where its upstream did not count it, and how long it may have been.
    pub fn counted_or(&mut self, said: impl FnOnce() -> u64, bound: impl FnOnce() -> OutputBound) {
        let counted = self.record.usage.as_ref().and_then(|usage| usage.output_tokens);
        if counted.is_none() && !self.background {
            self.size.most = bound().most();
            self.size.arrived = tokens_of(said());
        }
    }

    /// Figures only: the wire's own object is not kept.
    pub fn used(&mut self, usage: &Usage) {
        let figures = usage.figures();
        match &mut self.record.usage {
            Some(mine) => mine.merge(&figures),
            none => *none = Some(figures),
        }
    }

    /// A batch turned out to be over: what it cost is charged with this request, in rows behind its attempt's own.
    pub fn charged(&mut self, rows: Vec<Attempt>) {
        for row in rows {
            if let Some(usage) = &row.usage {
                self.record.usage.get_or_insert_default().add(usage);
            }
            self.record.charge(row);
        }
    }

    /// The answer names the service that it had.
    pub fn served(&mut self, tier: Option<&str>) {
        if let (Some(running), Some(tier)) = (&mut self.running, tier) {
            running.served = Some(ServiceTier::named(tier));
        }
    }

    /// A new attempt begins, now: what the one before used is kept beside.
    pub fn begins(&mut self, target: &Arc<Target>, document: &Document, now: Instant) {
        let inner = &mut **self;
        inner.size.begin(&target.rates);
        let asked =
            target.rates.as_ref().filter(|rates| rates.differ_by_service()).and_then(|_| document.service_tier());
        let (target, number, began) = (target.clone(), inner.cx.attempt, now);
        inner.running = Some(Running { target, number, began, accepted: false, asked, served: None, guessed: false });
        if let Some(usage) = inner.record.usage.take() {
            inner.spent.get_or_insert_default().add(&usage);
        }
    }

    pub fn finished(&mut self, reason: FinishReason) {
        self.record.finish_reason = Some(reason.name());
    }

    fn hand_over(&mut self) {
        let Some(mut inner) = self.inner.take() else { return };
        // The place is free from here on; what was reserved is corrected behind the queue.
        inner.reservation = inner.permit.take().and_then(Permit::end);
        inner.place = None;
        (inner.held, inner.fetched) = (None, Vec::new());
        inner.cache_told();
        inner.record.duration = inner.lasted();
        inner.record.attempts = inner.cx.attempt;
        if let Some(trial) = inner.trial.take() {
            trial.ended(&inner.record);
        }
        if inner.record.ledger.is_empty() {
            inner.record.cost_nano_usd = Some(0);
        }
        if let Some(spent) = inner.spent.take() {
            inner.record.usage.get_or_insert_default().add(&spent);
        }
        self.settle.send(Settled(inner));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        loop {
            let running = self.inner.as_ref().and_then(|inner| inner.running.as_ref());
            if let Some((target, took)) = running.map(|r| (r.target.name.clone(), clock::since(r.began))) {
                self.took(&target, CLIENT_LEFT, took);
            }
            // Others that ran beside it.
            match self.inner.as_mut().and_then(|inner| inner.next_aside()) {
                Some(next) => self.running = Some(next),
                None => break,
            }
        }
        if let Some(inner) = &mut self.inner {
            inner.record.status = CLIENT_GONE;
            inner.record.error_code.get_or_insert_with(|| CLIENT_LEFT.to_owned());
        }
        self.hand_over();
    }
}

impl std::ops::Deref for Exchange {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        self.inner.as_deref().expect("taken only by hand_over, which ends the exchange")
    }
}

impl std::ops::DerefMut for Exchange {
    fn deref_mut(&mut self) -> &mut Inner {
        self.inner.as_deref_mut().expect("taken only by hand_over, which ends the exchange")
    }
}

/// Where an upstream tells its own id of a request.
static UPSTREAM_IDS: [HeaderName; 4] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("request-id"),
    HeaderName::from_static("apim-request-id"),
    HeaderName::from_static("x-amzn-requestid"),
];

/// Characters of a model's name.
const MAX_MODEL: usize = 512;

/// As an outcome and as a code.
const CLIENT_LEFT: &str = "client_gone";

/// nginx's word for it, known to every log reader.
pub const CLIENT_GONE: u16 = 499;

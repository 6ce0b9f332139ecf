//! The one owner of a request from its admission to its record: context, stages, permit, facts. Whatever happens, the
//! facts reach the settle queue exactly once: handed over when the answer is done, or by `drop` when the client left.
//! Accounting itself happens behind the queue (`account::settle`), never here.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue};
use tokio::sync::mpsc;

use crate::{
    account::{Record, estimate::Size},
    auth::Principal,
    codec::{ClientView, document::Document},
    context::{Context, Step},
    error::Result,
    limit::{Bounds, Permit, Reservation},
    model::{Encoding, FinishReason, Operation, Usage},
    pipeline::Chain,
    server::BodyPermit,
};

/// Everything one request owns.
pub struct Exchange {
    inner: Option<Box<Inner>>,
    settle: SettleQueue,
}

pub struct Inner {
    pub cx: Context,
    pub chain: Chain,
    pub record: Record,
    /// What binds the caller.
    pub bounds: Bounds,
    /// `None` until `limit::enter`.
    pub permit: Option<Permit>,
    /// Once it ended: what it had taken, to be corrected by what it used.
    pub reservation: Option<Box<Reservation>>,
    /// Of the request and what came of its answer, for what nobody counts.
    pub size: Size,
    /// The request body's share of `body_memory`.
    pub held: Option<BodyPermit>,
    /// The last upstream's own request id.
    pub upstream_id: Option<HeaderValue>,
    /// What earlier attempts used.
    pub spent: Option<Usage>,
    pub wire: Wire,
    /// Knobs that the target could not take.
    pub dropped: Vec<&'static str>,
    /// The bound that the gateway set on the answer, because of a budget.
    pub max_tokens: Option<u64>,
}

impl Inner {
    /// Tokens and nano-dollars of attempts that are over.
    pub fn used_before(&self) -> (u64, u64) {
        let sum = |usage: &Usage| usage.input_tokens.unwrap_or(0) + usage.output_tokens.unwrap_or(0);
        let tokens = self.spent.iter().chain(&self.record.usage).map(sum).sum();
        (tokens, 0)
    }
}

/// How the client wants its answer written (see `ClientView`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Wire {
    pub include_usage: bool,
    pub json_array: bool,
    pub base64: bool,
    pub single: bool,
}

impl Wire {
    pub fn of(operation: Operation, json_array: bool, single: bool, document: &mut Document) -> Result<Wire> {
        let base64 = operation == Operation::Embeddings && document.embeddings()?.encoding == Encoding::Base64;
        let include_usage = document.stream() && document.include_usage();
        Ok(Wire { include_usage, json_array, base64, single })
    }
}

/// A finished request on its way to its record: all that it was, but for what it held back from others.
pub struct Settled(pub Box<Inner>);

/// Unbounded on purpose: a full queue would lose money, or make answers wait for their records.
pub type SettleQueue = mpsc::UnboundedSender<Settled>;

impl Exchange {
    pub fn new(cx: Context, settle: SettleQueue) -> Self {
        let record = Record::of(&cx);
        let chain = Chain::new(std::iter::empty());
        let inner = Inner {
            cx,
            chain,
            record,
            bounds: Bounds::default(),
            permit: None,
            reservation: None,
            size: Size::default(),
            held: None,
            upstream_id: None,
            spent: None,
            wire: Wire::default(),
            dropped: Vec::new(),
            max_tokens: None,
        };
        Exchange { inner: Some(Box::new(inner)), settle }
    }

    /// The caller is known.
    pub fn identify(&mut self, principal: Arc<Principal>) {
        self.record.key_id = principal.key_id.clone();
        self.record.team = principal.team.clone();
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
        let Wire { include_usage, json_array, base64, single } = self.wire;
        ClientView {
            model: self.record.model.clone(),
            request_id: self.cx.id.to_string(),
            now: self.cx.unix(),
            include_usage,
            json_array,
            base64,
            single,
        }
    }

    /// The upstream's own id, in any of the families' spellings.
    pub fn upstream_answered(&mut self, headers: &HeaderMap) {
        let names = ["x-request-id", "request-id", "apim-request-id"];
        self.upstream_id = names.iter().find_map(|n| headers.get(*n)).filter(|v| v.len() <= 128).cloned();
    }

    /// The answer is complete, or refused: `status` is what the client got.
    pub fn settle(mut self, status: u16) {
        self.record.status = status;
        self.hand_over();
    }

    /// An attempt at `target` ended.
    pub fn attempted(&mut self, target: &Arc<str>, outcome: impl Into<Cow<'static, str>>, began: Instant) {
        self.took(target, outcome, began.elapsed());
    }

    /// An attempt at `target` ended after `took`.
    pub fn took(&mut self, target: &Arc<str>, outcome: impl Into<Cow<'static, str>>, took: Duration) {
        let inner = &mut **self;
        inner.size.under_way = false;
        inner.record.attempts = inner.cx.attempt;
        inner.record.upstream_duration += took;
        inner.cx.trace.push(Step::Attempt {
            number: inner.cx.attempt,
            target: target.clone(),
            outcome: outcome.into(),
            took,
        });
    }

    /// Figures only: the wire's own object is not kept.
    pub fn used(&mut self, usage: &Usage) {
        let figures = Usage { native: None, ..*usage };
        match &mut self.record.usage {
            Some(mine) => mine.merge(&figures),
            none => *none = Some(figures),
        }
    }

    /// A new attempt begins: what the one before used is kept beside.
    pub fn set_aside(&mut self) {
        let inner = &mut **self;
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
        inner.held = None;
        inner.record.duration = inner.cx.started.elapsed();
        inner.record.attempts = inner.cx.attempt;
        if let Some(spent) = inner.spent.take() {
            inner.record.usage.get_or_insert_default().add(&spent);
        }
        // The queue ends with the process: nobody is left to count.
        let _ = self.settle.send(Settled(inner));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.record.status = CLIENT_GONE;
            inner.record.error_code.get_or_insert_with(|| "client_gone".to_owned());
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

/// Characters of a model's name.
const MAX_MODEL: usize = 512;

/// nginx's word for it, known to every log reader.
pub const CLIENT_GONE: u16 = 499;

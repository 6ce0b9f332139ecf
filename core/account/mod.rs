//! Afterwards: what happened, once, whatever happened.

mod archive;
pub mod bodies;
pub mod catalog;
mod charge;
pub mod estimate;
pub mod export;
pub mod history;
mod hooks;
pub mod hour;
pub mod learned;
pub mod ledger;
pub mod minute;
pub mod price;
mod queue;
pub mod reconcile;
pub mod report;
pub mod rerate;
pub mod settle;
mod sheet;
pub mod sum;
pub mod usage;

pub use ledger::Ledger;
pub use queue::{Inbox, queue};

use std::{borrow::Cow, sync::Arc, time::Duration};

use crate::{
    context::Context,
    model::{Format, Operation, Usage},
};

/// Where finished requests go.
pub type SettleQueue = queue::Queue<crate::exchange::Settled>;

/// The facts of one request, as the `log` phase sees them and the log line prints them. No prompt text.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: Arc<str>,
    pub key_id: Arc<str>,
    pub team: Option<Arc<str>>,
    pub user: Option<Arc<str>>,
    pub organisation: Option<Arc<str>>,
    pub operation: Operation,
    pub format: Format,
    pub model: String,
    /// `provider/model`, when one was reached.
    pub target: Option<Arc<str>>,
    pub attempts: u32,
    /// Of the answer; 499 when the client left.
    pub status: u16,
    pub error_code: Option<String>,
    pub stream: bool,
    pub finish_reason: Option<&'static str>,
    pub usage: Option<Usage>,
    /// What is known of the charge: the sum over `ledger`. `None` when nothing of it is known.
    pub cost_nano_usd: Option<i64>,
    /// Something was used of which nobody knows how much, or what it costs: the charge is higher than that.
    pub cost_unknown: bool,
    /// One row an attempt, in order.
    pub ledger: Vec<Attempt>,
    pub duration: Duration,
    pub first_event: Option<Duration>,
    pub upstream_duration: Duration,
    pub tags: Vec<(String, String)>,
    /// `hit`, `miss` or `shared`; `None`: there was no cache in its way.
    pub cache: Option<&'static str>,
    /// What the answer had cost when it was made, and did not cost again.
    pub saved_nano_usd: Option<i64>,
    /// Its part in an experiment.
    pub experiment: Option<Box<Mark>>,
    /// What it said, on its way to where it is kept; `None` where nothing is.
    pub bodies: Option<Box<bodies::Recording>>,
}

/// Which arm of which alias a request was given to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub model: Arc<str>,
    pub arm: Arc<str>,
    /// It is the gateway's own copy of this request.
    pub copy_of: Option<Arc<str>>,
}

/// One attempt as the ledger keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub number: u32,
    /// `provider/model`.
    pub target: Arc<str>,
    /// `ok`, or the code of its error.
    pub outcome: Cow<'static, str>,
    /// What it reported to have used; `None` is unknown, or nothing for an attempt that was turned away.
    pub usage: Option<Usage>,
    /// `None`: unknown, never zero.
    pub cost_nano_usd: Option<i64>,
    /// Of the prices that made the cost; `None`: none did.
    pub price: Option<price::Version>,
    /// `usage` was not reported whole: what arrived was counted.
    pub estimated: bool,
    pub took: Duration,
}

impl Attempt {
    /// The outcome of a row that charges a batch: no attempt, but what a provider did on its own time.
    pub const BATCH: &str = "batch";
    /// Of one that was asked beside another, which was first.
    pub const HEDGED: &str = "hedged";
}

impl Record {
    /// Adds an attempt's row: a request's charge is the sum of its rows.
    pub fn charge(&mut self, attempt: Attempt) {
        match attempt.cost_nano_usd {
            Some(cost) => self.cost_nano_usd = Some(self.cost_nano_usd.unwrap_or(0).saturating_add(cost)),
            None => self.cost_unknown = true,
        }
        // Rows are large, and nearly all requests have one.
        self.ledger.reserve_exact(1);
        self.ledger.push(attempt);
    }

    /// What the rows say, where one of them changed.
    fn sum_up(&mut self) {
        let costs = self.ledger.iter().filter_map(|row| row.cost_nano_usd);
        self.cost_nano_usd = costs.reduce(i64::saturating_add).or(self.ledger.is_empty().then_some(0));
        self.cost_unknown = self.ledger.iter().any(|row| row.cost_nano_usd.is_none());
        let mut usages = self.ledger.iter().filter_map(|row| row.usage.as_ref());
        self.usage = usages.next().cloned().map(|first| {
            usages.fold(first, |mut sum, usage| {
                sum.add(usage);
                sum
            })
        });
    }

    /// At the start: nothing happened yet.
    pub fn of(cx: &Context) -> Record {
        Record {
            id: cx.id.clone(),
            key_id: cx.principal.key_id.clone(),
            team: cx.principal.team.clone(),
            user: cx.principal.user.clone(),
            organisation: cx.principal.organisation.clone(),
            operation: cx.operation,
            format: cx.format,
            model: String::new(),
            target: None,
            attempts: 0,
            status: 0,
            error_code: None,
            stream: false,
            finish_reason: None,
            usage: None,
            cost_nano_usd: None,
            cost_unknown: false,
            ledger: Vec::new(),
            duration: Duration::ZERO,
            first_event: None,
            upstream_duration: Duration::ZERO,
            tags: cx.tags.clone(),
            cache: None,
            saved_nano_usd: None,
            experiment: None,
            bodies: None,
        }
    }
}

#[cfg(test)]
mod tests;

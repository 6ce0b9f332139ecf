//! From a name to ordered targets: which upstreams may answer, in which order, and how they fare. Sends nothing; the
//! gateway walks the order, and health and keys are asked again when an attempt starts.

pub mod cause;
mod fit;
mod hand;
pub mod health;
pub mod outcome;
mod policy;
mod price;
pub mod probe;
mod profile;
mod rehearsed;
pub mod retry;
mod scene;
pub mod split;
mod standing;
mod stats;
mod sticky;
pub mod strategy;
pub mod table;
mod waits;
mod why;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::Uri;

pub use self::{
    cause::{Cause, Next},
    hand::AtHand,
    health::{Fare, Fares, Flight, Health},
    outcome::{denied, ejected, goes_on, keys_refused, keys_rest, most_telling, spent},
    policy::DATA_POLICY,
    price::PriceList,
    profile::Profile,
    rehearsed::{Cast, Own},
    scene::share,
    split::{Drawn, Experiment, sticks},
    standing::{Quotas, Standing},
    strategy::{Live, Order},
    table::Table,
    waits::Waits,
    why::{Ranked, Why},
};
pub use crate::breaker::{Circuit, PROBE_WAIT};
use crate::{
    account::{catalog::Known, price::Rates},
    codec::Dialect,
    config::{Care, Concurrency, Handling, HealthCheck, Sticky, Strategy},
    error::Result,
    model::{Format, Operation},
    provider::{
        Provider,
        capability::{self, Capability},
    },
    queue::{Gate, Queues},
    quota::At,
};

/// The most attempts that one request makes, over all targets (promise 33).
pub const MAX_ATTEMPTS: usize = 4;

/// One choice: a model at a provider.
#[derive(Debug)]
pub struct Target {
    /// What a choice among many reads.
    pub at_hand: AtHand,
    /// `provider/model`.
    pub name: Arc<str>,
    pub provider: Arc<Provider>,
    /// The upstream's own name for it.
    pub model: Arc<str>,
    pub timeouts: Timeouts,
    /// On this target, before the next one is tried; `None`: the default of `retry`.
    pub retries: Option<u32>,
    /// Knobs that it cannot take are an error.
    pub strict: bool,
    /// What its alias wants done when it falters; `None`: nothing of its own.
    pub care: Option<Arc<Care>>,
    pub dialect: Dialect,
    /// `None`: nobody knows what it costs.
    pub rates: Option<Arc<Rates>>,
    pub limits: Limits,
    /// How many calls it takes at a time; `None`: no bound.
    pub concurrency: Option<Concurrency>,
    /// How often the gateway itself asks it; `None`: never.
    pub check: Option<HealthCheck>,
    /// Its places, once they were looked up.
    pub places: OnceLock<Arc<Gate>>,
    /// What becomes of data that is sent there.
    pub handling: Handling,
    /// Chat's URLs, made once: whole and streamed, in the provider's first format and in its second.
    pub urls: [OnceLock<Uri>; 4],
}

/// How much a model reads and writes, and what it can do: our own tables first, then the catalogue file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    pub context: Option<u64>,
    pub output: Option<u64>,
    /// What stages see as capabilities.
    pub features: &'static [&'static str],
    /// Somebody knows this model: what is not among its features it lacks.
    pub known: bool,
    /// What a catalogue file says that it lacks, where our own tables do not know it.
    pub lacks: &'static [&'static str],
    /// The file alone knows this model.
    pub by_file: bool,
}

impl Limits {
    fn of(can: &Capability, known: Option<&Known>) -> Limits {
        // A model that no prefix fits has what is true of most: whoever knows it knows better.
        let features = known.map(|k| k.features).filter(|f| can.prefix.is_empty() && !f.is_empty());
        Limits {
            context: can.context.or(known.and_then(|k| k.context)),
            output: can.output.or(known.and_then(|k| k.output_limit)),
            features: features.unwrap_or(can.features),
            known: !can.prefix.is_empty() || known.is_some_and(|k| !k.features.is_empty()),
            lacks: known.map(|k| k.lacks).unwrap_or_default(),
            by_file: can.prefix.is_empty() && known.is_some(),
        }
    }
}

impl Limits {
    /// The dialect with what only a catalogue file knows of the model.
    fn complete(&self, dialect: Dialect) -> Dialect {
        match self.by_file {
            true => capability::completed(dialect, self.features, self.lacks, self.output),
            false => dialect,
        }
    }
}

impl Target {
    /// Its places, if it has a bound: kept by name, so that they outlive a reload.
    pub fn places(&self, queues: &Queues) -> Option<&Arc<Gate>> {
        let concurrency = self.concurrency?;
        Some(self.places.get_or_init(|| queues.of(&self.name, concurrency)))
    }

    /// As quotas know it.
    pub fn at(&self) -> At<'_> {
        At { name: &self.name, provider: &self.provider, model: &self.model, slot: &self.at_hand.quota }
    }

    /// Where an operation on this target goes.
    pub fn url(&self, format: Format, operation: Operation, stream: bool) -> Result<Uri> {
        let made = || self.provider.url_for(format, operation, &self.model, stream);
        let second = self.provider.also.first() == Some(&format);
        if operation != Operation::Chat || !(second || format == self.provider.format) {
            return made();
        }
        let slot = &self.urls[usize::from(stream) + if second { 2 } else { 0 }];
        match slot.get() {
            Some(url) => Ok(url.clone()),
            None => made().map(|url| slot.get_or_init(|| url).clone()),
        }
    }
}

/// Resolved: alias, then provider, then the house's defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timeouts {
    pub connect: Duration,
    /// Streams: from the request's end to the first model output.
    pub first_event: Duration,
    pub idle: Duration,
    /// Unstreamed answers, and streams up to commit.
    pub whole: Duration,
}

/// What a name, or several, stand for.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Tried one group after another.
    pub groups: Vec<Group>,
    /// Targets that cannot be used at all, and why: for the trace.
    pub passed: Vec<Passed>,
    /// Where an arm is still to be drawn: before the group of that number.
    pub forks: Vec<(usize, Arc<Experiment>)>,
    /// What the first name tries.
    pub experiment: Option<Arc<Experiment>>,
}

/// A target, or a name of several, that is left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Passed {
    pub name: Arc<str>,
    /// The reason in a word.
    pub code: &'static str,
    pub reason: Arc<str>,
}

/// Targets among which one strategy chooses.
#[derive(Debug, Clone)]
pub struct Group {
    pub strategy: Strategy,
    pub sticky: Option<Sticky>,
    /// How long a target takes that is new or healed until it has its full share.
    pub warm_up: Duration,
    pub targets: Vec<Arc<Target>>,
}

impl Group {
    /// In the order written.
    fn listed(targets: Vec<Arc<Target>>) -> Group {
        Group { strategy: Strategy::First, sticky: None, warm_up: Duration::ZERO, targets }
    }

    fn with(&self, targets: Vec<Arc<Target>>) -> Group {
        Group { targets, ..*self }
    }
}

impl Timeouts {
    pub fn resolve(layers: &[crate::config::Timeouts]) -> Timeouts {
        let first = |pick: fn(&crate::config::Timeouts) -> Option<Duration>, default: u64| {
            layers.iter().find_map(pick).unwrap_or(Duration::from_secs(default))
        };
        Timeouts {
            connect: first(|t| t.connect, 5),
            first_event: first(|t| t.first_event, 60),
            idle: first(|t| t.idle, 60),
            whole: first(|t| t.whole, 600),
        }
    }
}

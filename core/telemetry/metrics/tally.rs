//! What settled requests add up to, in plain numbers behind one lock that is taken once a request. The registry's own counters and
//! histograms are atomics, of which a request changed forty, a tenth of all that it changed. At most `MAX_SETS` sets of labels exist; what comes
//! later is counted as `other`.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    hash::BuildHasher,
    sync::Arc,
};

use super::{MAX_STAGES, NONE, OTHER, names, names::Kind, tokens::Tokens};
use crate::{
    account::{Record, price::usd_text},
    context::{Step, Verdict},
};

type Table<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
type Names = HashSet<String, foldhash::fast::RandomState>;

#[derive(Default)]
pub struct Tally {
    counts: Counts,
    known: Known,
    hasher: foldhash::quality::RandomState,
    /// Where a stage's phase is counted. Files come and go: what no longer runs makes room here, and keeps its count.
    places: Table<u64, usize>,
    /// Stages with a label of their own.
    stage_names: Names,
}

/// What is told of it. A scrape takes a copy, so that nobody waits while it is written.
#[derive(Clone)]
pub(super) struct Counts {
    sets: Table<u64, Set>,
    overhead: Samples,
    tokens: Tokens,
    /// By outcome.
    attempts: Table<Box<str>, u64>,
    stages: Vec<Stage>,
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            sets: Table::default(),
            overhead: Samples::of(names::OVERHEAD),
            tokens: Tokens::default(),
            attempts: Table::default(),
            stages: Vec::new(),
        }
    }
}

/// Names that may be labels.
#[derive(Default)]
struct Known {
    routes: Names,
    /// `provider/model`.
    targets: Names,
    providers: Names,
}

/// Requests of one route at one target.
#[derive(Clone)]
struct Set {
    labels: String,
    /// By status class.
    requests: [u64; CLASSES.len()],
    duration: Samples,
    first_token: Samples,
    nano_usd: u64,
}

/// One stage in one phase.
#[derive(Clone)]
struct Stage {
    labels: String,
    /// In the order of `MEASURED`.
    samples: [Samples; MEASURED.len()],
    failures: u64,
}

/// How many samples lie up to each bound of a histogram, and their sum.
#[derive(Clone)]
struct Samples {
    bounds: &'static [f64],
    /// Between a bound and the one before it; last what is above all.
    counts: Box<[u64]>,
    sum: f64,
}

/// The label values of a request, borrowed.
#[derive(Clone, Copy, Hash)]
struct Labels<'a> {
    route: &'a str,
    model: &'a str,
    provider: &'a str,
}

impl Tally {
    pub(super) fn set_known(
        &mut self,
        routes: impl IntoIterator<Item = String>,
        providers: impl IntoIterator<Item = String>,
        targets: impl IntoIterator<Item = String>,
    ) {
        self.known = Known {
            routes: routes.into_iter().collect(),
            targets: targets.into_iter().collect(),
            providers: providers.into_iter().collect(),
        };
    }

    /// One settled request.
    pub fn request(&mut self, record: &Record) {
        let labels = self.known.labels(record);
        // Sets are told apart by a 64-bit keyed hash: with 1,000 of them a mix-up is a matter of 10^-14.
        let hash = self.hasher.hash_one(labels);
        let (hash, labels) = if self.counts.sets.contains_key(&hash) || self.counts.sets.len() < MAX_SETS {
            (hash, labels)
        } else {
            let other = Labels { route: OTHER, model: OTHER, provider: OTHER };
            (self.hasher.hash_one(other), other)
        };
        let set = self.counts.sets.entry(hash).or_insert_with(|| Set::of(labels));
        set.requests[class(record.status)] += 1;
        set.duration.record(record.duration.as_secs_f64(), 1);
        if let Some(first) = record.first_event {
            set.first_token.record(first.as_secs_f64(), 1);
        }
        if let Some(cost) = record.cost_nano_usd.and_then(|nano| u64::try_from(nano).ok()) {
            set.nano_usd = set.nano_usd.saturating_add(cost);
        }
        let own = record.duration.saturating_sub(record.upstream_duration);
        self.counts.overhead.record(own.as_secs_f64(), 1);
        if let Some(usage) = &record.usage {
            self.counts.tokens.add(usage);
        }
    }

    /// An attempt ended. `outcome`: `ok`, or the code of its error.
    pub fn attempt(&mut self, outcome: &str) {
        if let Some(count) = self.counts.attempts.get_mut(outcome) {
            *count += 1;
            return;
        }
        let outcome = if self.counts.attempts.len() < MAX_OUTCOMES { outcome } else { OTHER };
        *self.counts.attempts.entry(outcome.into()).or_default() += 1;
    }

    /// A step of a trace; those that are no stage's are none of its business.
    pub fn stage(&mut self, step: &Step) {
        let Step::Stage { stage, phase, verdict, took, operations, memory, calls, .. } = step else { return };
        let counted = self.stage_of(stage, phase);
        // Events that passed are told together: each counts as their mean.
        let calls = (*calls).max(1);
        let [durations, numbers, sizes] = &mut counted.samples;
        durations.record((*took / calls).as_secs_f64(), calls.into());
        if *operations > 0 {
            numbers.record((*operations / u64::from(calls)) as f64, calls.into());
        }
        if *memory > 0 {
            sizes.record(*memory as f64, 1);
        }
        if matches!(verdict, Verdict::Failed(_)) {
            counted.failures += 1;
        }
    }

    /// Past the first hundred names stages share one label.
    pub(super) fn stage_label<'a>(&mut self, stage: &'a str) -> &'a str {
        let known = &mut self.stage_names;
        let fits = known.contains(stage) || (known.len() < MAX_STAGES && known.insert(stage.to_owned()));
        if fits { stage } else { OTHER }
    }

    fn stage_of(&mut self, stage: &Arc<str>, phase: &'static str) -> &mut Stage {
        let hash = self.hasher.hash_one((stage, phase));
        let at = match self.places.get(&hash) {
            Some(at) => *at,
            None => {
                let labels = format!(r#"stage="{}",phase="{phase}""#, quoted(self.stage_label(stage)));
                let known = self.counts.stages.iter().position(|known| known.labels == labels);
                let at = known.unwrap_or(self.counts.stages.len());
                if known.is_none() {
                    self.counts.stages.push(Stage::of(labels));
                }
                if self.places.len() >= MAX_STAGES * PHASES {
                    self.places.clear();
                }
                self.places.insert(hash, at);
                at
            }
        };
        &mut self.counts.stages[at]
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

impl Counts {
    /// As exposition text.
    pub(super) fn render(&self, out: &mut String) {
        let mut sets: Vec<&Set> = self.sets.values().collect();
        sets.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        family(out, names::REQUESTS, |out| {
            for set in &sets {
                for (class, count) in CLASSES.iter().zip(set.requests).filter(|(_, count)| *count > 0) {
                    line(out, names::REQUESTS, &format!("{},status_class=\"{class}\"", set.labels), count);
                }
            }
        });
        family(out, names::DURATION, |out| {
            sets.iter().for_each(|set| set.duration.render(out, names::DURATION, &set.labels));
        });
        family(out, names::FIRST_TOKEN, |out| {
            sets.iter().for_each(|set| set.first_token.render(out, names::FIRST_TOKEN, &set.labels));
        });
        family(out, names::COST, |out| {
            for set in &sets {
                let nano = i64::try_from(set.nano_usd).unwrap_or(i64::MAX);
                line(out, names::COST, &set.labels, usd_text(nano));
            }
        });
        family(out, names::OVERHEAD, |out| self.overhead.render(out, names::OVERHEAD, ""));
        family(out, names::TOKENS, |out| {
            for (direction, kind, count) in self.tokens.by_kind() {
                line(out, names::TOKENS, &format!(r#"direction="{direction}",kind="{kind}""#), count);
            }
        });
        family(out, names::UNITS, |out| {
            for (unit, count) in self.tokens.by_unit() {
                line(out, names::UNITS, &format!(r#"unit="{unit}""#), count);
            }
        });
        let mut attempts: Vec<_> = self.attempts.iter().collect();
        attempts.sort_unstable();
        family(out, names::ATTEMPTS, |out| {
            for (outcome, count) in attempts {
                line(out, names::ATTEMPTS, &format!(r#"outcome="{}""#, quoted(outcome)), count);
            }
        });
        for (at, name) in MEASURED.into_iter().enumerate() {
            family(out, name, |out| {
                self.stages.iter().for_each(|stage| stage.samples[at].render(out, name, &stage.labels));
            });
        }
        family(out, names::STAGE_FAILURES, |out| {
            self.stages.iter().for_each(|stage| line(out, names::STAGE_FAILURES, &stage.labels, stage.failures));
        });
    }
}

impl Known {
    fn labels<'a>(&self, record: &'a Record) -> Labels<'a> {
        let route = match record.model.as_str() {
            "" => NONE,
            asked if self.routes.contains(asked) => asked,
            _ => "direct",
        };
        let (provider, model) = match record.target.as_deref() {
            None => (NONE, NONE),
            Some(target) => {
                let (provider, model) = target.split_once('/').unwrap_or((target, ""));
                if self.targets.contains(target) {
                    (provider, model)
                } else if self.providers.contains(provider) {
                    (provider, OTHER)
                } else {
                    (OTHER, OTHER)
                }
            }
        };
        Labels { route, model, provider }
    }
}

impl Set {
    fn of(Labels { route, model, provider }: Labels<'_>) -> Set {
        let named = [("route", route), ("model", model), ("provider", provider)];
        Set {
            labels: named.map(|(name, value)| format!("{name}=\"{}\"", quoted(value))).join(","),
            requests: Default::default(),
            duration: Samples::of(names::DURATION),
            first_token: Samples::of(names::FIRST_TOKEN),
            nano_usd: 0,
        }
    }
}

impl Stage {
    fn of(labels: String) -> Stage {
        Stage { labels, samples: MEASURED.map(Samples::of), failures: 0 }
    }
}

impl Samples {
    fn of(name: &str) -> Samples {
        let bounds = match names::row(name).map(|row| row.kind) {
            Some(Kind::Histogram(bounds)) => bounds,
            _ => &[],
        };
        Samples { bounds, counts: vec![0; bounds.len() + 1].into(), sum: 0.0 }
    }

    fn record(&mut self, value: f64, times: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at] += times;
        self.sum += value * times as f64;
    }

    /// Also before the first sample: what begins at nothing grows by its first one.
    fn render(&self, out: &mut String, name: &str, labels: &str) {
        let (all, comma) = (self.counts.iter().sum::<u64>(), if labels.is_empty() { "" } else { "," });
        let mut below = 0;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            below += count;
            line(out, &format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), below);
        }
        line(out, &format!("{name}_bucket"), &format!("{labels}{comma}le=\"+Inf\""), all);
        line(out, &format!("{name}_sum"), labels, self.sum);
        line(out, &format!("{name}_count"), labels, all);
    }
}

/// A metric's lines under its help, if there are any.
fn family(out: &mut String, name: &str, lines: impl FnOnce(&mut String)) {
    let mut text = String::new();
    lines(&mut text);
    let Some(row) = names::row(name).filter(|_| !text.is_empty()) else { return };
    let kind = match row.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    };
    let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}\n{text}", row.help);
}

fn line(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        labels => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}

fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Which of `CLASSES`.
fn class(status: u16) -> usize {
    match status {
        200..600 => usize::from(status / 100) - 2,
        _ => CLASSES.len() - 1,
    }
}

const CLASSES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", OTHER];
/// Of a stage: how long it took, how many operations a script made, and the memory of a plugin.
const MEASURED: [&str; 3] = [names::STAGE_DURATION, names::STAGE_OPERATIONS, names::STAGE_MEMORY];
const MAX_SETS: usize = 1_000;
const MAX_OUTCOMES: usize = 64;
const PHASES: usize = 7;

//! The Prometheus registry. Handles are made once for a set of labels and kept: a request looks them up by a hash and formats
//! nothing. At most `MAX_SETS` label sets exist; what comes later is counted as `other`.

mod cache;
mod limits;
mod queues;
mod stages;
mod tokens;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use dashmap::{DashMap, DashSet};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio_util::sync::CancellationToken;

use self::tokens::Tokens;
use super::names::{self, Kind};
use crate::{
    account::{Record, price::usd_text},
    model::Units,
};

/// The process's metrics, made at the first call; from then on the `metrics` macros count here too.
pub fn metrics() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(|| {
        let metrics = Metrics::default();
        // Somebody else's recorder stays; ours still renders what is counted through it.
        let _ = metrics::set_global_recorder(metrics.recorder.clone());
        metrics
    })
}

pub struct Metrics {
    pub(super) recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    hasher: foldhash::quality::RandomState,
    sets: DashMap<u64, Arc<Handles>, foldhash::fast::RandomState>,
    made: AtomicUsize,
    /// Nano-dollars by the label text: the registry's counters know no fractions, so these are written beside it.
    costs: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    known: ArcSwap<Known>,
    overhead: Histogram,
    tokens: Tokens,
    attempts: DashMap<Arc<str>, Counter, foldhash::fast::RandomState>,
    in_flight: Gauge,
    log_left_out: Counter,
    stages: DashMap<u64, Arc<stages::Handles>, foldhash::fast::RandomState>,
    /// Those with a label of their own.
    stage_names: DashSet<String>,
    /// Those with a label of their own.
    teams: DashSet<String>,
    lease_failed: Counter,
    store_failing: Gauge,
    lost: Counter,
    unwritten: Counter,
    cache: cache::Handles,
    reload_success: Counter,
    reload_failure: Counter,
    reload_time: Gauge,
}

/// Names that may be labels.
#[derive(Default)]
struct Known {
    routes: HashSet<String, foldhash::fast::RandomState>,
    /// `provider/model`.
    targets: HashSet<String, foldhash::fast::RandomState>,
    providers: HashSet<String, foldhash::fast::RandomState>,
}

/// Of one label set.
struct Handles {
    requests: Counter,
    duration: Histogram,
    first_token: Histogram,
    cost: Arc<AtomicU64>,
}

/// The label values of a request, borrowed.
#[derive(Clone, Copy, Hash)]
struct Labels<'a> {
    route: &'a str,
    model: &'a str,
    provider: &'a str,
    status_class: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let recorder = Arc::new(recorder());
        let handle = recorder.handle();
        let counter = |name, labels| recorder.register_counter(&key(name, labels), &METADATA);
        let gauge = |name, labels| recorder.register_gauge(&key(name, labels), &METADATA);
        let tokens = |direction, kind| counter(names::TOKENS, vec![label("direction", direction), label("kind", kind)]);
        gauge(names::BUILD_INFO, vec![label("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        Metrics {
            hasher: foldhash::quality::RandomState::default(),
            sets: DashMap::default(),
            made: AtomicUsize::new(0),
            costs: Mutex::default(),
            known: ArcSwap::default(),
            overhead: recorder.register_histogram(&key(names::OVERHEAD, vec![]), &METADATA),
            tokens: Tokens {
                input: tokens("input", "text"),
                cache_read: tokens("input", "cache_read"),
                cache_write: tokens("input", "cache_write"),
                input_audio: tokens("input", "audio"),
                input_image: tokens("input", "image"),
                output: tokens("output", "text"),
                reasoning: tokens("output", "reasoning"),
                output_audio: tokens("output", "audio"),
                output_image: tokens("output", "image"),
                units: Units::default().named().map(|(unit, _)| match unit {
                    // Tokens are counted as such.
                    "input_image_tokens" | "output_image_tokens" | "cache_read_audio_tokens" => Counter::noop(),
                    unit => counter(names::UNITS, vec![label("unit", unit)]),
                }),
            },
            attempts: DashMap::default(),
            lost: counter(names::RECORDS_LOST, vec![]),
            unwritten: counter(names::RESPONSES_UNWRITTEN, vec![]),
            cache: cache::Handles::of(&recorder),
            in_flight: gauge(names::IN_FLIGHT, vec![]),
            log_left_out: counter(names::LOG_LEFT_OUT, vec![]),
            stages: DashMap::default(),
            stage_names: DashSet::new(),
            teams: DashSet::new(),
            lease_failed: counter(names::LEASE_FAILED, vec![]),
            store_failing: gauge(names::STORE_FAILING, vec![]),
            reload_success: counter(names::RELOAD_SUCCESS, vec![]),
            reload_failure: counter(names::RELOAD_FAILURE, vec![]),
            reload_time: gauge(names::RELOAD_TIME, vec![]),
            recorder,
            handle,
        }
    }
}

impl Metrics {
    /// Which names may be labels: aliases, and targets as `provider/model`. Called at each reload.
    pub fn set_known(
        &self,
        aliases: impl IntoIterator<Item = String>,
        providers: impl IntoIterator<Item = String>,
        targets: impl IntoIterator<Item = String>,
    ) {
        self.known.store(Arc::new(Known {
            routes: aliases.into_iter().collect(),
            targets: targets.into_iter().collect(),
            providers: providers.into_iter().collect(),
        }));
    }

    /// Counts one settled request.
    pub fn observe(&self, record: &Record) {
        let known = self.known.load();
        let handles = self.handles(known.labels(record));
        handles.requests.increment(1);
        handles.duration.record(record.duration.as_secs_f64());
        if let Some(first) = record.first_event {
            handles.first_token.record(first.as_secs_f64());
        }
        self.overhead.record(record.duration.saturating_sub(record.upstream_duration).as_secs_f64());
        if let Some(usage) = &record.usage {
            self.tokens.add(usage);
        }
        if let Some(cost) = record.cost_nano_usd.and_then(|nano| u64::try_from(nano).ok()).filter(|nano| *nano > 0) {
            handles.cost.fetch_add(cost, Ordering::Relaxed);
        }
    }

    /// An attempt ended. `outcome`: `ok`, or the code of its error.
    pub fn attempt(&self, outcome: &str) {
        if let Some(counter) = self.attempts.get(outcome) {
            return counter.increment(1);
        }
        let outcome: Arc<str> = if self.attempts.len() < MAX_OUTCOMES { outcome } else { OTHER }.into();
        let labels = vec![Label::new("outcome", outcome.to_string())];
        let make = || self.recorder.register_counter(&key(names::ATTEMPTS, labels), &METADATA);
        self.attempts.entry(outcome.clone()).or_insert_with(make).increment(1);
    }

    /// How a target's breaker stands: 0 closed, 1 half open, 2 open. Only for targets that the configuration names.
    pub fn circuit(&self, provider: &str, model: &str, state: u8) {
        let labels = vec![Label::new("model", model.to_owned()), Label::new("provider", provider.to_owned())];
        self.recorder.register_gauge(&key(names::CIRCUIT, labels), &METADATA).set(f64::from(state));
    }

    /// An active health check of a provider. Only for providers that the configuration names.
    pub fn health_check(&self, provider: &str, outcome: &'static str) {
        let labels = vec![label("outcome", outcome), Label::new("provider", provider.to_owned())];
        self.recorder.register_counter(&key(names::HEALTH_CHECKS, labels), &METADATA).increment(1);
    }

    /// What is measured of a target that the configuration names.
    pub fn target(&self, provider: &str, model: &str, latency: Option<Duration>, speed: Option<f32>, in_flight: u64) {
        let set = |name: &'static str, value: f64| {
            let labels = vec![Label::new("model", model.to_owned()), Label::new("provider", provider.to_owned())];
            self.recorder.register_gauge(&key(name, labels), &METADATA).set(value);
        };
        if let Some(latency) = latency {
            set(names::TARGET_LATENCY, latency.as_secs_f64());
        }
        if let Some(speed) = speed {
            set(names::TARGET_SPEED, f64::from(speed));
        }
        set(names::TARGET_IN_FLIGHT, in_flight as f64);
    }

    /// The `log` hooks of one request did not run.
    pub fn log_hook_left_out(&self) {
        self.log_left_out.increment(1);
    }

    /// Settled requests that could not be written down.
    pub fn records_lost(&self, count: u64) {
        self.lost.increment(count);
    }

    /// An answer that is to be kept lies in memory alone.
    pub fn response_unwritten(&self) {
        self.unwritten.increment(1);
    }

    /// One more request in flight, until the value is dropped.
    pub fn enter(&self) -> InFlight {
        self.in_flight.increment(1.0);
        InFlight(self.in_flight.clone())
    }

    /// Does the store refuse changes?
    pub fn store_failing(&self, failing: bool) {
        self.store_failing.set(f64::from(u8::from(failing)));
    }

    pub fn lease_failed(&self) {
        self.lease_failed.increment(1);
    }

    pub fn reloaded(&self, at: SystemTime) {
        self.reload_success.increment(1);
        self.reload_time.set(at.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()));
    }

    pub fn reload_refused(&self) {
        self.reload_failure.increment(1);
    }

    /// The exposition text.
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        let costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = names::TABLE.iter().find(|row| row.name == names::COST).filter(|_| !costs.is_empty()) {
            text.push_str(&format!("# HELP {} {}\n# TYPE {} counter\n", row.name, row.help, row.name));
            for (labels, nano) in costs.iter() {
                let usd = usd_text(i64::try_from(nano.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
                text.push_str(&format!("{}{{{labels}}} {usd}\n", row.name));
            }
            text.push('\n');
        }
        text
    }

    /// Folds recorded samples into their buckets every few seconds: without it histograms grow until the next scrape.
    pub async fn upkeep(&self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(UPKEEP);
        loop {
            tokio::select! {
                _ = tick.tick() => self.handle.run_upkeep(),
                () = stop.cancelled() => return,
            }
        }
    }

    fn handles(&self, labels: Labels<'_>) -> Arc<Handles> {
        // Sets are told apart by a 64-bit keyed hash: with 1,000 of them a mix-up is a matter of 10^-14.
        let hash = self.hasher.hash_one(labels);
        if let Some(found) = self.sets.get(&hash) {
            return found.clone();
        }
        if self.made.load(Ordering::Relaxed) >= MAX_SETS {
            let other = Labels { route: OTHER, model: OTHER, provider: OTHER, status_class: labels.status_class };
            let hash = self.hasher.hash_one(other);
            return self.sets.entry(hash).or_insert_with(|| Arc::new(self.make(other))).clone();
        }
        self.made.fetch_add(1, Ordering::Relaxed);
        self.sets.entry(hash).or_insert_with(|| Arc::new(self.make(labels))).clone()
    }

    fn make(&self, labels: Labels<'_>) -> Handles {
        let Labels { route, model, provider, status_class } = labels;
        let where_to = || {
            [("route", route), ("model", model), ("provider", provider)]
                .map(|(k, v)| Label::new(k, v.to_owned()))
                .to_vec()
        };
        let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let named = [("route", route), ("model", model), ("provider", provider)];
        let text = named.map(|(name, value)| format!("{name}=\"{}\"", quoted(value))).join(",");
        let cost = self.costs.lock().unwrap_or_else(PoisonError::into_inner).entry(text).or_default().clone();
        let mut with_class = where_to();
        with_class.push(label("status_class", status_class));
        Handles {
            requests: self.recorder.register_counter(&key(names::REQUESTS, with_class), &METADATA),
            duration: self.recorder.register_histogram(&key(names::DURATION, where_to()), &METADATA),
            cost,
            first_token: self.recorder.register_histogram(&key(names::FIRST_TOKEN, where_to()), &METADATA),
        }
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
        Labels { route, model, provider, status_class: status_class(record.status) }
    }
}

/// Counts a request as in flight while it lives.
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

fn recorder() -> PrometheusRecorder {
    let buckets: HashMap<&str, &[f64]> = names::TABLE
        .iter()
        .filter_map(|row| match row.kind {
            Kind::Histogram(buckets) => Some((row.name, buckets)),
            _ => None,
        })
        .collect();
    let builder = buckets.into_iter().fold(PrometheusBuilder::new(), |builder, (name, buckets)| {
        builder
            .set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
            .unwrap_or_else(|_empty| PrometheusBuilder::new())
    });
    let recorder = builder.build_recorder();
    for row in names::TABLE {
        let (name, help) = (KeyName::from_const_str(row.name), row.help.into());
        match row.kind {
            Kind::Counter => recorder.describe_counter(name, None, help),
            Kind::Gauge => recorder.describe_gauge(name, None, help),
            Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
        }
    }
    recorder
}

fn key(name: &'static str, labels: Vec<Label>) -> Key {
    Key::from_parts(name, labels)
}

fn label(name: &'static str, value: &'static str) -> Label {
    Label::from_static_parts(name, value)
}
fn status_class(status: u16) -> &'static str {
    match status {
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500..600 => "5xx",
        _ => OTHER,
    }
}

const METADATA: Metadata<'static> = Metadata::new("portcullis", Level::INFO, None);
const OTHER: &str = "other";
const NONE: &str = "none";
const MAX_SETS: usize = 1_000;
const MAX_OUTCOMES: usize = 64;
const MAX_TEAMS: usize = 100;
const UPKEEP: Duration = Duration::from_secs(5);

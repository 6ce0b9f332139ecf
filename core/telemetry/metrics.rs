//! What Prometheus is told. What each request adds is counted in a tally, everything else in a registry.

mod cache;
mod limits;
mod queues;
mod tally;
mod tokens;

pub use self::{cache::CacheTier, tally::Tally};

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dashmap::DashSet;
use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio_util::sync::CancellationToken;

use super::names::{self, Kind};

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
    tally: Mutex<Tally>,
    in_flight: Gauge,
    log_left_out: Counter,
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

impl Default for Metrics {
    fn default() -> Self {
        let recorder = Arc::new(recorder());
        let handle = recorder.handle();
        let counter = |name, labels| recorder.register_counter(&key(name, labels), &METADATA);
        let gauge = |name, labels| recorder.register_gauge(&key(name, labels), &METADATA);
        gauge(names::BUILD_INFO, vec![label("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        Metrics {
            tally: Mutex::default(),
            lost: counter(names::RECORDS_LOST, vec![]),
            unwritten: counter(names::RESPONSES_UNWRITTEN, vec![]),
            cache: cache::Handles::of(&recorder),
            in_flight: gauge(names::IN_FLIGHT, vec![]),
            log_left_out: counter(names::LOG_LEFT_OUT, vec![]),
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
        self.tally().set_known(aliases, providers, targets);
    }

    /// Where each settled request is counted.
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// How many requests run.
    pub fn in_flight(&self, requests: u64) {
        self.in_flight.set(requests as f64);
    }

    /// Is a stage left out, or in the way, because it fails too often?
    pub fn stage_parked(&self, stage: &str, parked: bool) {
        let labels = vec![Label::new("stage", self.tally().stage_label(stage).to_owned())];
        self.recorder.register_gauge(&key(names::STAGE_PARKED, labels), &METADATA).set(f64::from(u8::from(parked)));
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
        let counts = self.tally().counts();
        counts.render(&mut text);
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
const METADATA: Metadata<'static> = Metadata::new("portcullis", Level::INFO, None);
const OTHER: &str = "other";
const NONE: &str = "none";
const MAX_STAGES: usize = 100;
const MAX_TEAMS: usize = 100;
const UPKEEP: Duration = Duration::from_secs(5);

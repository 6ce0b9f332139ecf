//! Every metric of the gateway: one row each. Labels are bounded: what a caller may invent never becomes a label.

/// A row: the name, what it counts, and by what.
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// Upper bounds of its buckets.
    Histogram(&'static [f64]),
}

pub const TABLE: &[Row] = &[
    Row {
        name: REQUESTS,
        kind: Kind::Counter,
        help: "Requests answered. route: the alias asked for, or direct",
        labels: &["route", "model", "provider", "status_class"],
    },
    Row {
        name: DURATION,
        kind: Kind::Histogram(DURATIONS),
        help: "From a request's first byte to the end of its answer",
        labels: &["route", "model", "provider"],
    },
    Row {
        name: OVERHEAD,
        kind: Kind::Histogram(OVERHEADS),
        help: "What the gateway itself added: the duration less the time spent with upstreams",
        labels: &[],
    },
    Row {
        name: FIRST_TOKEN,
        kind: Kind::Histogram(DURATIONS),
        help: "From a request's first byte to the first model output",
        labels: &["route", "model", "provider"],
    },
    Row {
        name: TOKENS,
        kind: Kind::Counter,
        help: "Tokens reported by upstreams; the kinds of a direction do not overlap",
        labels: &["direction", "kind"],
    },
    Row {
        name: UNITS,
        kind: Kind::Counter,
        help: "What is billed in other units than tokens: pictures, milliseconds of sound, characters, searches",
        labels: &["unit"],
    },
    Row {
        name: COST,
        kind: Kind::Counter,
        help: "US dollars spent, as far as prices are known",
        labels: &["route", "model", "provider"],
    },
    Row { name: ATTEMPTS, kind: Kind::Counter, help: "Upstream attempts by how they ended", labels: &["outcome"] },
    Row {
        name: CIRCUIT,
        kind: Kind::Gauge,
        help: "A target's breaker: 0 closed, 1 half open, 2 open",
        labels: &["model", "provider"],
    },
    Row {
        name: HEALTH_CHECKS,
        kind: Kind::Counter,
        help: "Active health checks of providers: ok or failed",
        labels: &["outcome", "provider"],
    },
    Row {
        name: TARGET_LATENCY,
        kind: Kind::Gauge,
        help: "A target's time to the first event, smoothed; of answers that are not streamed all of it",
        labels: &["model", "provider"],
    },
    Row {
        name: TARGET_SPEED,
        kind: Kind::Gauge,
        help: "Tokens a second of a target's streams, smoothed",
        labels: &["model", "provider"],
    },
    Row {
        name: TARGET_IN_FLIGHT,
        kind: Kind::Gauge,
        help: "Requests under way to a target",
        labels: &["model", "provider"],
    },
    Row {
        name: STAGE_DURATION,
        kind: Kind::Histogram(OVERHEADS),
        help: "Wall time of one call of a stage; of the events of a stream, their mean",
        labels: &["stage", "phase"],
    },
    Row {
        name: STAGE_OPERATIONS,
        kind: Kind::Histogram(OPERATIONS),
        help: "Operations of one call of a script",
        labels: &["stage", "phase"],
    },
    Row {
        name: STAGE_MEMORY,
        kind: Kind::Histogram(MEMORY),
        help: "Bytes after a call: of a plugin's instance all of it, of a script what its variables hold",
        labels: &["stage", "phase"],
    },
    Row {
        name: STAGE_FAILURES,
        kind: Kind::Counter,
        help: "Calls in which a stage failed: it threw, trapped or ran over a limit",
        labels: &["stage", "phase"],
    },
    Row {
        name: STAGE_PARKED,
        kind: Kind::Gauge,
        help: "1 while a stage rests because it fails too often",
        labels: &["stage"],
    },
    Row {
        name: LOG_LEFT_OUT,
        kind: Kind::Counter,
        help: "Requests whose log hooks were left out because hooks before them were too slow",
        labels: &[],
    },
    Row {
        name: RECORDS_LOST,
        kind: Kind::Counter,
        help: "Settled requests that could not be written to the records",
        labels: &[],
    },
    Row {
        name: RESPONSES_UNWRITTEN,
        kind: Kind::Counter,
        help: "Answers that callers want kept and that could not be written to the disk",
        labels: &[],
    },
    Row {
        name: CACHE_REQUESTS,
        kind: Kind::Counter,
        help: "Requests that met the cache: hit, miss, or shared (the answer of an equal request under way)",
        labels: &["outcome"],
    },
    Row {
        name: CACHE_EVICTED,
        kind: Kind::Counter,
        help: "Answers that made room for others before they were too old",
        labels: &["tier"],
    },
    Row {
        name: CACHE_READS,
        kind: Kind::Counter,
        help: "Looks for a kept answer by where: hit, miss, and of what lies behind memory expired, damaged, or failed",
        labels: &["tier", "outcome"],
    },
    Row { name: CACHE_STORED, kind: Kind::Counter, help: "Answers that were kept", labels: &["tier"] },
    Row {
        name: CACHE_DROPPED,
        kind: Kind::Counter,
        help: "Answers that do not lie behind memory although they might: queue, room, emptied meanwhile, failed",
        labels: &["tier", "reason"],
    },
    Row {
        name: CACHE_BYTES,
        kind: Kind::Gauge,
        help: "Bytes of kept answers: in memory, in files, or in Redis those of all gateways",
        labels: &["tier"],
    },
    Row { name: IN_FLIGHT, kind: Kind::Gauge, help: "Requests being served now", labels: &[] },
    Row {
        name: PLACES,
        kind: Kind::Gauge,
        help: "Requests that may run at a time, at the gateway or at a target with `concurrency`",
        labels: &["at"],
    },
    Row { name: PLACES_TAKEN, kind: Kind::Gauge, help: "How many of them run now", labels: &["at"] },
    Row { name: QUEUE_LENGTH, kind: Kind::Gauge, help: "Requests that wait for their turn", labels: &["at"] },
    Row {
        name: QUEUE_WAIT,
        kind: Kind::Histogram(DURATIONS),
        help: "How long requests waited that found no free place. at: gateway or target",
        labels: &["at", "priority"],
    },
    Row {
        name: SHED,
        kind: Kind::Counter,
        help: "Requests refused for want of room: queue_full, displaced, too_long, timeout, memory, lag",
        labels: &["at", "priority", "reason"],
    },
    Row {
        name: SHEDDING,
        kind: Kind::Gauge,
        help: "Priorities that are refused because of the process's own memory or lag: 0 none, 1 low, 2 normal too, 3 all",
        labels: &[],
    },
    Row { name: LIMITED, kind: Kind::Counter, help: "Requests refused by a limit", labels: &["scope", "limit"] },
    Row {
        name: WOULD_LIMIT,
        kind: Kind::Counter,
        help: "Requests that a shadow limit had no room for; they went on",
        labels: &["scope", "limit"],
    },
    Row {
        name: BUDGET,
        kind: Kind::Gauge,
        help: "What a budget holds in this window, raises included, USD",
        labels: &["scope", "name", "per"],
    },
    Row {
        name: BUDGET_SPENT,
        kind: Kind::Gauge,
        help: "What was spent of it in this window, USD",
        labels: &["scope", "name", "per"],
    },
    Row {
        name: BUDGET_RESERVED,
        kind: Kind::Gauge,
        help: "What requests under way hold of it, USD",
        labels: &["scope", "name", "per"],
    },
    Row {
        name: QUOTA,
        kind: Kind::Gauge,
        help: "What a provider grants a target or a key in a window, in its unit",
        labels: &["scope", "name", "unit", "per"],
    },
    Row { name: QUOTA_LEFT, kind: Kind::Gauge, help: "What is left of it", labels: &["scope", "name", "unit", "per"] },
    Row {
        name: QUOTA_OPENS,
        kind: Kind::Gauge,
        help: "Seconds until it may be used again: 0 while it is open",
        labels: &["scope", "name", "unit", "per"],
    },
    Row {
        name: BUDGET_ALERTS,
        kind: Kind::Counter,
        help: "Budgets that passed their soft threshold, or refused for the first time in a window",
        labels: &["scope", "threshold"],
    },
    Row {
        name: LEASE_FAILED,
        kind: Kind::Counter,
        help: "Blocks of budgets that the store did not take; they are kept in memory",
        labels: &[],
    },
    Row {
        name: STORE_FAILING,
        kind: Kind::Gauge,
        help: "1 while the store takes no changes: a full disk, or a failure that needs a restart",
        labels: &[],
    },
    Row { name: RELOAD_SUCCESS, kind: Kind::Counter, help: "Configurations that went live", labels: &[] },
    Row {
        name: RELOAD_FAILURE,
        kind: Kind::Counter,
        help: "Configurations that were refused; the last good one stays",
        labels: &[],
    },
    Row {
        name: RELOAD_TIME,
        kind: Kind::Gauge,
        help: "When the running configuration went live, Unix time",
        labels: &[],
    },
    Row {
        name: STAGE_LEFT_OUT,
        kind: Kind::Counter,
        help: "What scripts and plugins wanted to keep (kv) or measure (metric) beyond their bounds",
        labels: &["stage", "what"],
    },
    Row {
        name: ROLLOUT_PHASE,
        kind: Kind::Gauge,
        help: "A new version that is being tried: 0 none, 1 in shadow, 2 serving a share",
        labels: &[],
    },
    Row {
        name: ROLLOUTS_ENDED,
        kind: Kind::Counter,
        help: "Rollouts by how they ended: promoted, reverted, aborted, superseded",
        labels: &["outcome"],
    },
    Row {
        name: SHADOW_DECISIONS,
        kind: Kind::Counter,
        help: "Decisions of a new version on copies of requests: same, or how they differ from the running version's",
        labels: &["outcome"],
    },
    Row {
        name: MIRRORED,
        kind: Kind::Counter,
        help: "Copies of requests for mirrors: begun, or why they were left out",
        labels: &["outcome"],
    },
    Row { name: PINNED, kind: Kind::Gauge, help: "1 while a version runs that is not the files'", labels: &[] },
    Row { name: BUILD_INFO, kind: Kind::Gauge, help: "Always 1; the version is a label", labels: &["version"] },
];

/// The row of a metric.
pub fn row(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}

pub const REQUESTS: &str = "portcullis_requests_total";
pub const DURATION: &str = "portcullis_request_duration_seconds";
pub const OVERHEAD: &str = "portcullis_overhead_seconds";
pub const FIRST_TOKEN: &str = "portcullis_time_to_first_token_seconds";
pub const TOKENS: &str = "portcullis_tokens_total";
pub const UNITS: &str = "portcullis_units_total";
pub const COST: &str = "portcullis_cost_usd_total";
pub const ATTEMPTS: &str = "portcullis_upstream_attempts_total";
pub const CIRCUIT: &str = "portcullis_circuit_state";
pub const HEALTH_CHECKS: &str = "portcullis_health_checks_total";
pub const TARGET_LATENCY: &str = "portcullis_target_latency_seconds";
pub const TARGET_SPEED: &str = "portcullis_target_tokens_per_second";
pub const TARGET_IN_FLIGHT: &str = "portcullis_target_inflight";
pub const STAGE_DURATION: &str = "portcullis_stage_duration_seconds";
pub const STAGE_OPERATIONS: &str = "portcullis_stage_operations";
pub const STAGE_MEMORY: &str = "portcullis_stage_memory_bytes";
pub const STAGE_FAILURES: &str = "portcullis_stage_failures_total";
pub const STAGE_PARKED: &str = "portcullis_stage_parked";
pub const LOG_LEFT_OUT: &str = "portcullis_log_hooks_left_out_total";
pub const RECORDS_LOST: &str = "portcullis_records_lost_total";
pub const RESPONSES_UNWRITTEN: &str = "portcullis_responses_unwritten_total";
pub const CACHE_REQUESTS: &str = "portcullis_cache_requests_total";
pub const CACHE_READS: &str = "portcullis_cache_reads_total";
pub const CACHE_STORED: &str = "portcullis_cache_stored_total";
pub const CACHE_DROPPED: &str = "portcullis_cache_dropped_total";
pub const CACHE_EVICTED: &str = "portcullis_cache_evicted_total";
pub const CACHE_BYTES: &str = "portcullis_cache_bytes";
pub const IN_FLIGHT: &str = "portcullis_inflight_requests";
pub const PLACES: &str = "portcullis_places";
pub const PLACES_TAKEN: &str = "portcullis_places_taken";
pub const QUEUE_LENGTH: &str = "portcullis_queue_length";
pub const QUEUE_WAIT: &str = "portcullis_queue_wait_seconds";
pub const SHED: &str = "portcullis_shed_total";
pub const SHEDDING: &str = "portcullis_shedding";
pub const LIMITED: &str = "portcullis_limited_total";
pub const WOULD_LIMIT: &str = "portcullis_shadow_limited_total";
pub const BUDGET_ALERTS: &str = "portcullis_budget_alerts_total";
pub const BUDGET: &str = "portcullis_budget_usd";
pub const BUDGET_SPENT: &str = "portcullis_budget_spent_usd";
pub const BUDGET_RESERVED: &str = "portcullis_budget_reserved_usd";
pub const QUOTA: &str = "portcullis_quota";
pub const QUOTA_LEFT: &str = "portcullis_quota_left";
pub const QUOTA_OPENS: &str = "portcullis_quota_opens_seconds";
pub const LEASE_FAILED: &str = "portcullis_budget_lease_failures_total";
pub const STORE_FAILING: &str = "portcullis_store_failing";
pub const RELOAD_SUCCESS: &str = "portcullis_config_reload_success_total";
pub const RELOAD_FAILURE: &str = "portcullis_config_reload_failure_total";
pub const RELOAD_TIME: &str = "portcullis_config_last_reload_success_timestamp_seconds";
pub const STAGE_LEFT_OUT: &str = "portcullis_stage_left_out_total";
pub const ROLLOUT_PHASE: &str = "portcullis_rollout_phase";
pub const ROLLOUTS_ENDED: &str = "portcullis_rollouts_ended_total";
pub const SHADOW_DECISIONS: &str = "portcullis_shadow_decisions_total";
pub const MIRRORED: &str = "portcullis_mirrored_total";
pub const PINNED: &str = "portcullis_version_pinned";
pub const BUILD_INFO: &str = "portcullis_build_info";

/// OpenTelemetry's buckets for model calls.
const DURATIONS: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68];
/// The gateway's own share is tens of microseconds when all is well.
const OVERHEADS: &[f64] =
    &[0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 1.0];
/// A script may use 200,000 where nothing else is said.
const OPERATIONS: &[f64] = &[10.0, 100.0, 1e3, 1e4, 5e4, 1e5, 2e5, 1e6, 1e7, 1e8];
/// A plugin may have 32 MiB where nothing else is said.
const MEMORY: &[f64] = &[
    65_536.0,
    262_144.0,
    1_048_576.0,
    2_097_152.0,
    4_194_304.0,
    8_388_608.0,
    16_777_216.0,
    33_554_432.0,
    134_217_728.0,
    1_073_741_824.0,
];

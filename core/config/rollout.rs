//! `[rollout]`, resolved: how a new version takes over. Plain values.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    pub shadow: Option<Duration>,
    /// Of requests: above 0, at most 1.
    pub canary: Option<f64>,
    /// 10 m.
    pub canary_time: Duration,
    /// 50.
    pub min_requests: u64,
    pub sticky: Sticky,
    pub error_rate: Option<f64>,
    pub p99: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sticky {
    #[default]
    Session,
    Key,
}

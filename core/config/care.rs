//! What an alias wants done when its targets falter, resolved: how long they are waited for, how slow they may be, and where a
//! request goes instead. Plain values.

use std::time::Duration;

/// Absent values fall back: model → provider → these defaults: connect 5 s, first_event 60 s, idle 60 s, whole 10 m.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timeouts {
    pub connect: Option<Duration>,
    pub first_event: Option<Duration>,
    pub idle: Option<Duration>,
    pub whole: Option<Duration>,
}

/// Of `[models.<name>]`, beyond what every alias has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Care {
    /// Names tried when a target says that the prompt is too long for it.
    pub context_failover: Vec<String>,
    /// Names tried when a provider does not allow the content.
    pub content_failover: Vec<String>,
    pub min_speed: Option<MinSpeed>,
    pub hedge: Option<Hedge>,
    /// A stream that breaks after output goes on at another target.
    pub resume: bool,
}

/// When another target is asked beside the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hedge {
    pub after: After,
    /// Targets that are asked so for one request.
    pub max: u32,
}

/// The first one has given no output for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Time(Duration),
    /// Longer than so many of a hundred of its answers take.
    Percentile(u8),
}

/// A provider is asked now and then whether it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    pub every: Duration,
    /// Longer than this is no answer.
    pub timeout: Duration,
}

/// Slower than this is as good as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinSpeed {
    /// Tokens a second.
    pub tokens: u32,
    /// The time over which it is measured.
    pub over: Duration,
}

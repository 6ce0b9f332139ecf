//! What `[models.<name>]` says of targets that falter: names must lead somewhere, times must be more than nothing.

use std::time::Duration;

use super::{Resolver, path};
use crate::config::{
    Provider,
    care::{After, Care, HealthCheck, Hedge, MinSpeed},
    file,
    source::dotted,
};

/// The keys of a model that this reads.
pub(super) struct Raw {
    pub context_failover: Vec<String>,
    pub content_failover: Vec<String>,
    pub min_speed: Option<file::MinSpeed>,
    pub hedge: Option<file::Hedge>,
    pub resume: Option<bool>,
}

impl Resolver<'_, '_, '_> {
    pub(super) fn care(&mut self, at: &[String], raw: Raw, providers: &[Provider], names: &[String]) -> Care {
        let Raw { context_failover, content_failover, min_speed, hedge, resume } = raw;
        let key = |key: &[&str]| [at, &path(key)].concat();
        for (list, name) in [(&context_failover, "context_failover"), (&content_failover, "content_failover")] {
            for (n, next) in list.iter().enumerate() {
                let at = self.entry(&key(&[name]), n);
                self.reference(&at, next, providers, names);
            }
        }
        let min_speed = min_speed.map(|raw| MinSpeed {
            tokens: raw.tokens_per_second,
            over: self.span(&key(&["min_speed", "over"]), raw.over).unwrap_or(OVER),
        });
        let hedge = hedge.and_then(|raw| {
            let after = self.after(&key(&["hedge", "after"]), raw.after)?;
            Some(Hedge { after, max: raw.max.unwrap_or(1) })
        });
        Care { context_failover, content_failover, min_speed, hedge, resume: resume.unwrap_or(false) }
    }

    /// Of a provider, or of a target.
    pub(super) fn health(&mut self, at: &[String], raw: file::HealthCheck) -> Option<HealthCheck> {
        let key = |key: &str| [at, &path(&[key])].concat();
        let every = self.span(&key("every"), Some(raw.every))?;
        if every < OFTENEST {
            return self.fault(&key("every"), format!("`{}` is one second at least", dotted(&key("every"))));
        }
        Some(HealthCheck { every, timeout: self.span(&key("timeout"), raw.timeout).unwrap_or(CHECK) })
    }

    /// `p95`, or a time.
    fn after(&mut self, at: &[String], raw: file::Span) -> Option<After> {
        let Some(percent) = raw.0.strip_prefix('p') else { return self.span(at, Some(raw)).map(After::Time) };
        match percent.parse() {
            Ok(percent @ 50..=99) => Some(After::Percentile(percent)),
            _ => self.fault(at, format!("`{}` is a time (\"800ms\") or one of \"p50\" to \"p99\"", dotted(at))),
        }
    }
}

/// Of `min_speed`.
const OVER: Duration = Duration::from_secs(5);
/// Of health checks: how long one may take, and how often there may be one.
const CHECK: Duration = Duration::from_secs(5);
const OFTENEST: Duration = Duration::from_secs(1);

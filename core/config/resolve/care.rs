//! What `[models.<name>]` says of targets that falter: names must lead somewhere, times must be more than nothing.

use std::time::Duration;

use super::{Resolver, path};
use crate::config::{
    Provider,
    care::{Care, MinSpeed},
    file,
};

/// The keys of a model that this reads.
pub(super) struct Raw {
    pub context_failover: Vec<String>,
    pub content_failover: Vec<String>,
    pub min_speed: Option<file::MinSpeed>,
}

impl Resolver<'_, '_, '_> {
    pub(super) fn care(&mut self, at: &[String], raw: Raw, providers: &[Provider], names: &[String]) -> Care {
        let Raw { context_failover, content_failover, min_speed } = raw;
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
        Care { context_failover, content_failover, min_speed }
    }
}

/// Of `min_speed`.
const OVER: Duration = Duration::from_secs(5);

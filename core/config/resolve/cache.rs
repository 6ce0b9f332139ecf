//! `[cache]`: how long and how much.

use super::{Resolver, path};
use crate::config::{Cache, file};

impl Resolver<'_, '_, '_> {
    pub(super) fn cache(&mut self, raw: Option<file::Cache>, stages: Option<&[file::Stage]>) -> Cache {
        let default = Cache::default();
        let Some(raw) = raw else { return default };
        let at = |key: &str| path(&["cache", key]);
        if !stages.into_iter().flatten().any(|stage| stage.uses == "builtin/cache") {
            let place = path(&["cache"]);
            let line = self.around.source.line(&place);
            self.warn(format!(
                "`[cache]` (line {line}) keeps nothing until `builtin/cache` stands in the list of [[stages]]"
            ));
        }
        let memory = self.size(&at("memory"), raw.memory, default.memory);
        let max_answer = self.size(&at("max_answer"), raw.max_answer, (default.max_answer as u64).min(memory));
        if max_answer > memory {
            self.tell(&at("max_answer"), "`cache.max_answer` is more than all of `cache.memory`: make it smaller");
        }
        if max_answer > MOST_ANSWER {
            self.tell(&at("max_answer"), "`cache.max_answer` may be at most \"32MiB\"");
        }
        Cache {
            ttl: self.span(&at("ttl"), raw.ttl).unwrap_or(default.ttl),
            memory,
            max_answer: usize::try_from(max_answer).unwrap_or(default.max_answer),
            sampled: raw.sampled.unwrap_or(default.sampled),
            single_flight: raw.single_flight.unwrap_or(default.single_flight),
        }
    }
}

/// What a stage may hold back of one answer.
const MOST_ANSWER: u64 = 32 << 20;

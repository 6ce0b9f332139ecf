//! `[cache]`: how long, how much, and where.

use super::{Resolver, path};
use crate::config::{Cache, Persist, Store, StoreKind, file};

impl Resolver<'_, '_, '_> {
    pub(super) fn cache(&mut self, raw: Option<file::Cache>, stages: Option<&[file::Stage]>, store: &Store) -> Cache {
        let listed = stages.into_iter().flatten().any(|stage| stage.uses == "builtin/cache");
        let own = match store.kind {
            StoreKind::Sled => Persist::Files,
            StoreKind::Redis(_) => Persist::Redis,
            StoreKind::Memory => Persist::Memory,
        };
        let default = Cache { listed, persist: own, max_size: own.max_size(), ..Cache::default() };
        let Some(raw) = raw else { return default };
        let at = |key: &str| path(&["cache", key]);
        if !listed {
            let place = path(&["cache"]);
            let line = self.around.source.line(&place);
            self.warn(format!(
                "`[cache]` (line {line}) keeps nothing until `builtin/cache` stands in the list of [[stages]]"
            ));
        }
        let raw_max_size = raw.max_size.is_some();
        let memory = self.size(&at("memory"), raw.memory, default.memory);
        let max_answer = self.size(&at("max_answer"), raw.max_answer, (default.max_answer as u64).min(memory));
        if max_answer > memory {
            self.tell(&at("max_answer"), "`cache.max_answer` is more than all of `cache.memory`: make it smaller");
        }
        if max_answer > MOST_ANSWER {
            self.tell(&at("max_answer"), "`cache.max_answer` may be at most \"32MiB\"");
        }
        let persist = match raw.persist {
            None => own,
            Some(file::Persist::Memory) => Persist::Memory,
            Some(file::Persist::Files) => Persist::Files,
            Some(file::Persist::Redis) => Persist::Redis,
        };
        match (persist, &store.kind) {
            (Persist::Files, StoreKind::Memory) => self.tell(
                &at("persist"),
                "`cache.persist = \"files\"` needs a data directory: set `store.kind` to \"sled\" or \"redis\"",
            ),
            (Persist::Redis, StoreKind::Sled | StoreKind::Memory) => self.tell(
                &at("persist"),
                "`cache.persist = \"redis\"` uses the Redis of the store: set `store.kind = \"redis\"` and `store.url`",
            ),
            _ => {}
        }
        let max_size = self.size(&at("max_size"), raw.max_size, persist.max_size());
        if persist != Persist::Memory && max_answer > max_size / 4 {
            let message =
                "`cache.max_size` is less than four times `cache.max_answer`: one answer would push out most others";
            let place = if raw_max_size { at("max_size") } else { at("max_answer") };
            self.tell(&place, message);
        }
        if persist == Persist::Memory && raw_max_size {
            let line = self.around.source.line(&at("max_size"));
            self.warn(format!("`cache.max_size` (line {line}) bounds nothing: kept answers lie in memory alone"));
        }
        Cache {
            ttl: self.span(&at("ttl"), raw.ttl).unwrap_or(default.ttl),
            memory,
            max_answer: usize::try_from(max_answer).unwrap_or(default.max_answer),
            sampled: raw.sampled.unwrap_or(default.sampled),
            single_flight: raw.single_flight.unwrap_or(default.single_flight),
            embeddings: raw.embeddings.unwrap_or(default.embeddings),
            persist,
            max_size,
            listed,
        }
    }
}

/// What a stage may hold back of one answer.
const MOST_ANSWER: u64 = 32 << 20;

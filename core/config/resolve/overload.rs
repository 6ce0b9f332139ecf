//! `[overload]`, and the `concurrency` of targets: a target has one, wherever it is named.

use std::collections::BTreeMap;

use super::{Resolver, path};
use crate::config::{Alias, Concurrency, Overload, file, source::dotted};

impl Resolver<'_, '_, '_> {
    pub(super) fn overload(&mut self, raw: file::Overload) -> Overload {
        let default = Overload::default();
        let at = |key: &str| path(&["overload", key]);
        let queue = raw.queue.and_then(|queue| usize::try_from(queue).ok());
        Overload {
            max_in_flight: raw.max_in_flight.unwrap_or(default.max_in_flight),
            queue: queue.unwrap_or(default.queue),
            wait: self.span(&at("wait"), raw.wait).unwrap_or(default.wait),
            memory: raw.memory.map(|memory| self.size(&at("memory"), Some(memory), u64::MAX)),
            lag: self.span(&at("lag"), raw.lag).unwrap_or(default.lag),
        }
    }

    pub(super) fn concurrency(&mut self, at: &[String], raw: file::Concurrency) -> Option<Concurrency> {
        match raw {
            file::Concurrency::Fixed(0) => self.fault(at, format!("`{}` must be more than zero", dotted(at))),
            file::Concurrency::Fixed(limit) => Some(Concurrency::Fixed(limit)),
            file::Concurrency::Word(word) if word == "adaptive" => Some(Concurrency::Adaptive),
            file::Concurrency::Word(word) => {
                self.fault(at, format!("`{}`: {word:?} is neither a number nor \"adaptive\"", dotted(at)))
            }
        }
    }

    /// By `provider/model`. Two entries for one target must not say different things.
    pub(super) fn concurrencies(&mut self, models: &BTreeMap<String, Alias>) -> BTreeMap<String, Concurrency> {
        let mut all: BTreeMap<String, (Concurrency, Vec<String>)> = BTreeMap::new();
        for (name, alias) in models {
            let list = path(&["models", name, "targets"]);
            for (n, target) in alias.targets.iter().enumerate() {
                let Some(concurrency) = target.concurrency else { continue };
                let at = [self.entry(&list, n), path(&["concurrency"])].concat();
                let full = format!("{}/{}", target.provider, target.model);
                match all.get(&full) {
                    Some((known, there)) if *known != concurrency => {
                        let message = format!(
                            "`{}`: {full} has another concurrency in `{}`, and a target has only one",
                            dotted(&at),
                            dotted(there)
                        );
                        self.tell(&at, message);
                    }
                    Some(_) => {}
                    None => drop(all.insert(full, (concurrency, at))),
                }
            }
        }
        all.into_iter().map(|(name, (concurrency, _))| (name, concurrency)).collect()
    }
}

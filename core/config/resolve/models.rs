//! `[models.<name>]`: public names, their targets, and what is tried after them. Every name must lead somewhere, and no
//! failover may lead back to where it came from.

use std::collections::{BTreeMap, BTreeSet};

use super::{Resolver, care::Raw, path, providers::MOCK};
use crate::config::{Alias, LongInput, Provider, Sticky, Strategy, Target, file, source::dotted, text};

impl Resolver<'_, '_, '_> {
    pub(super) fn models(
        &mut self,
        raw: BTreeMap<String, file::Model>,
        providers: &[Provider],
    ) -> BTreeMap<String, Alias> {
        let names: Vec<String> = raw.keys().cloned().collect();
        let splits = raw.iter().filter(|(_, model)| model.split.is_some()).map(|(name, _)| name.clone()).collect();
        let mut models = BTreeMap::new();
        for (name, raw) in self.as_written("models", raw) {
            let alias = self.alias(&name, raw, providers, (&names, &splits));
            models.insert(name, alias);
        }
        self.cycles(&models);
        models
    }

    fn alias(
        &mut self,
        name: &str,
        raw: file::Model,
        providers: &[Provider],
        (names, splits): (&[String], &BTreeSet<String>),
    ) -> Alias {
        let at = path(&["models", name]);
        let key = |key: &str| [at.as_slice(), &path(&[key])].concat();
        if name.trim() != name || name.is_empty() || name.chars().any(|c| c.is_control() || c == '*') {
            self.fault_at_key(
                &at,
                format!("model name {name:?}: leave out white space at the ends, `*` and control characters"),
            );
        }
        if let Some((head, _)) = name.split_once('/').filter(|(head, _)| providers.iter().any(|p| p.name == *head)) {
            self.fault_at_key(
                &at,
                format!("model name {name:?} would hide a model of the provider `{head}`: choose another"),
            );
        }
        let bare = raw.targets.is_empty() && raw.split.is_none() && !self.removed(&key("split"));
        if bare && self.around.source.len(&key("targets")) == 0 && !self.removed(&key("targets")) {
            let example = "targets = [{ provider = \"openai\", model = \"gpt-4.1\" }]";
            self.fault_at_key(&at, format!("`{}` needs at least one target: {example}", dotted(&at)));
        }
        let strategy = match raw.strategy {
            Some(file::Strategy::First) | None => Strategy::First,
            Some(file::Strategy::Weighted) => Strategy::Weighted,
            Some(file::Strategy::LeastLatency) => Strategy::LeastLatency,
            Some(file::Strategy::LeastBusy) => Strategy::LeastBusy,
            Some(file::Strategy::LeastCost) => Strategy::LeastCost,
            Some(file::Strategy::Quota) => Strategy::Quota,
        };
        let sticky = raw.sticky.map(|sticky| match sticky {
            file::Sticky::Session => Sticky::Session,
            file::Sticky::Key => Sticky::Key,
        });
        if sticky.is_some() && strategy == Strategy::First {
            let text = "the first target that is well gets all requests";
            self.warn(format!("`{}` has no effect with strategy = \"first\": {text}", dotted(&key("sticky"))));
        }
        let warm_up = self.span_or_zero(&key("warm_up"), raw.warm_up, WARM_UP);
        let targets: Vec<Target> = raw
            .targets
            .into_iter()
            .enumerate()
            .map(|(n, t)| self.target(&key("targets"), n, t, strategy, providers))
            .collect();
        if strategy == Strategy::Weighted && !targets.is_empty() && targets.iter().all(|t| t.weight == 0) {
            self.fault_at_key(
                &key("targets"),
                format!("`{}`: every weight is 0, so no target is ever chosen", dotted(&key("targets"))),
            );
        }
        for (n, next) in raw.failover.iter().enumerate() {
            let at = self.entry(&key("failover"), n);
            self.reference(&at, next, providers, names);
        }
        let timeouts = self.timeouts(&at, raw.timeouts);
        let care = Raw {
            context_failover: raw.context_failover,
            content_failover: raw.content_failover,
            min_speed: raw.min_speed,
            hedge: raw.hedge,
            resume: raw.resume,
        };
        let care = self.care(&at, care, providers, names);
        let long_input = raw.long_input.map(|long| self.long_input(&key("long_input"), long, providers, names));
        let split = raw.split.map(|split| self.split(&key("split"), split, providers, names, splits));
        let mirror = raw.mirror.map(|mirror| self.mirror(&key("mirror"), mirror, providers, names));
        Alias {
            strategy,
            sticky,
            warm_up,
            targets,
            failover: raw.failover,
            timeouts,
            retries: raw.retries,
            strict: raw.strict.unwrap_or(false),
            long_input,
            split,
            mirror,
            care,
        }
    }

    fn long_input(
        &mut self,
        at: &[String],
        raw: file::LongInput,
        providers: &[Provider],
        names: &[String],
    ) -> LongInput {
        let file::LongInput { mode, chunk_tokens, model, parallel, most_chunks, instruction, template, wait, progress } =
            raw;
        let key = |key: &str| [at, &path(&[key])].concat();
        // The only one there is.
        let (None | Some(file::LongMode::MapReduce)) = mode;
        if let Some(model) = &model {
            self.reference(&key("model"), model, providers, names);
        }
        if template.as_ref().is_some_and(|template| !template.contains("{part}")) {
            let message = format!("`{}` needs {{part}}: it stands for a piece's answer", dotted(&key("template")));
            self.tell(&key("template"), message);
        }
        LongInput {
            chunk_tokens: usize::try_from(chunk_tokens).unwrap_or(usize::MAX),
            model,
            parallel: parallel.unwrap_or(4) as usize,
            most_chunks: most_chunks.unwrap_or(64) as usize,
            instruction,
            template,
            wait: self.span(&key("wait"), wait).unwrap_or(LONG_WAIT),
            progress: progress.unwrap_or(false),
        }
    }

    fn target(
        &mut self,
        list: &[String],
        n: usize,
        raw: file::Target,
        strategy: Strategy,
        providers: &[Provider],
    ) -> Target {
        let at = self.entry(list, n);
        let key = |key: &str| [at.as_slice(), &path(&[key])].concat();
        if !providers.iter().any(|p| p.name == raw.provider) {
            self.no_provider(&key("provider"), &raw.provider, providers);
        }
        if raw.model.trim().is_empty() || raw.model.chars().any(char::is_control) {
            self.tell(&key("model"), format!("`{}` must name a model of `{}`", dotted(&key("model")), raw.provider));
        }
        if raw.weight.is_some() && strategy != Strategy::Weighted {
            let strategy = strategy.name();
            self.warn(format!("`{}` has no effect with strategy = \"{strategy}\"", dotted(&key("weight"))));
        }
        let concurrency = raw.concurrency.and_then(|raw| self.concurrency(&key("concurrency"), raw));
        let handling = self.handling(&at, (raw.region, raw.retention, raw.train));
        let weight = raw.weight.unwrap_or(1);
        let health = raw.health.and_then(|raw| self.health(&key("health"), raw));
        Target { provider: raw.provider, model: raw.model, weight, concurrency, handling, health }
    }

    /// A name that must be an alias or `provider/model`.
    pub(super) fn reference(&mut self, at: &[String], name: &str, providers: &[Provider], names: &[String]) {
        if names.iter().any(|n| n == name) || name == MOCK {
            return;
        }
        match name.split_once('/') {
            Some((head, model)) if providers.iter().any(|p| p.name == head) => {
                if model.trim().is_empty() {
                    self.tell(at, format!("`{}`: {name:?} names a provider but no model", dotted(at)));
                }
            }
            Some((head, _)) => self.no_provider(at, head, providers),
            None => {
                let hint = text::hint(name, names.iter().map(String::as_str));
                let message = format!(
                    "`{}`: there is no model {name:?}{hint}; name one of [models.…], or write provider/model",
                    dotted(at)
                );
                self.tell(at, message);
            }
        }
    }

    pub(super) fn no_provider(&mut self, at: &[String], name: &str, providers: &[Provider]) {
        let fix = if self.around.rows.contains(&name) {
            format!(": add [providers.{name}] with its key")
        } else {
            let known = providers.iter().map(|p| p.name.as_str()).chain(self.around.rows.iter().copied());
            text::hint(name, known)
        };
        self.tell(at, format!("`{}`: there is no provider {name:?} in this file{fix}", dotted(at)));
    }

    /// Each ring of failovers once, told at the alias that stands first in the alphabet.
    fn cycles(&mut self, models: &BTreeMap<String, Alias>) {
        for start in models.keys() {
            if let Some(ring) = ring(models, start).filter(|ring| ring.iter().min() == Some(&start.as_str())) {
                let at = path(&["models", start, "failover"]);
                let shown = ring.iter().chain([&start.as_str()]).copied().collect::<Vec<_>>().join(" → ");
                self.tell(&at, format!("`{}` leads in a circle: {shown}", dotted(&at)));
            }
        }
    }
}

/// The shortest way from an alias back to itself.
fn ring<'m>(models: &'m BTreeMap<String, Alias>, start: &'m str) -> Option<Vec<&'m str>> {
    let mut ways: std::collections::VecDeque<Vec<&str>> = [vec![start]].into();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        let here = way.last().copied().unwrap_or(start);
        for next in models.get(here).into_iter().flat_map(|alias| &alias.failover) {
            if next == start {
                return Some(way);
            }
            if models.contains_key(next) && seen.insert(next.as_str()) {
                ways.push_back([way.as_slice(), &[next.as_str()]].concat());
            }
        }
    }
    None
}

/// As long as a provider takes to grow into a new share, and short beside what failed before.
const WARM_UP: std::time::Duration = std::time::Duration::from_secs(30);
/// For one piece of a long input.
const LONG_WAIT: std::time::Duration = std::time::Duration::from_secs(120);

//! `[[stages]]`: which files run, in which order, with what of their own. Whether a script or a plugin compiles is the
//! pipeline's to say.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::{Resolver, path};
use crate::config::{
    Isolation, OnError, Only, Park, SLOW, Sources, Stage, StageLimits, StreamMode, Team, file, source::dotted, text,
};

impl Resolver<'_, '_, '_> {
    pub(super) fn stages(
        &mut self,
        raw: Option<Vec<file::Stage>>,
        beside: &mut Sources,
        teams: &BTreeMap<String, Team>,
    ) -> Option<Vec<Stage>> {
        let list = path(&["stages"]);
        let mut stages: Vec<Stage> = Vec::new();
        for (n, raw) in raw?.into_iter().enumerate() {
            let at = self.entry(&list, n);
            self.used_file(&at, &raw.uses, beside);
            if let Some(first) = stages.iter().find(|s| s.uses == raw.uses) {
                let message =
                    format!("{:?} is listed twice (first in line {}): a stage runs once a phase", raw.uses, first.line);
                self.tell(&at_key(&at, "use"), message);
            }
            let stage = self.stage(&at, raw, teams);
            stages.push(stage);
        }
        Some(stages)
    }

    fn stage(&mut self, at: &[String], raw: file::Stage, teams: &BTreeMap<String, Team>) -> Stage {
        let limits = raw.limits.unwrap_or_default();
        let plugin = raw.uses.ends_with(".wasm");
        let asks = |grant: &String| grant == "ask" || grant.starts_with("ask:");
        let granted = |ask: bool| raw.grant.iter().flatten().any(|grant| asks(grant) == ask);
        let foreign = [
            (!plugin, "plugins", "grant", granted(false)),
            (plugin, "scripts", "grant: ask", granted(true)),
            (!plugin, "plugins", "isolation", raw.isolation.is_some_and(|i| i == file::Isolation::Pooled)),
            (!plugin, "plugins", "limits.memory", limits.memory.is_some()),
            (!plugin, "plugins", "limits.cpu", limits.cpu.is_some()),
            (plugin, "scripts", "limits.operations", limits.operations.is_some()),
            (plugin, "scripts", "limits.wall", limits.wall.is_some()),
            (plugin, "scripts", "limits.asks", limits.asks.is_some()),
            (plugin, "scripts", "limits.ask_wait", limits.ask_wait.is_some()),
        ];
        // What says nothing to a built-in stage, that stage refuses.
        let built_in = raw.uses.starts_with("builtin/");
        for (_, whom, key, _) in foreign.iter().filter(|(wrong, _, _, given)| !built_in && *wrong && *given) {
            self.warn(format!("`{}.{key}` concerns {whom} only; {} goes without", dotted(at), raw.uses));
        }
        for (n, grant) in raw.grant.iter().flatten().enumerate() {
            if let Some(message) = wrong_grant(grant) {
                let at = self.entry(&at_key(at, "grant"), n);
                self.tell(&at, message);
            }
        }
        for team in raw.only.iter().flat_map(|only| only.teams.iter().flatten()).filter(|t| !teams.contains_key(*t)) {
            let hint = text::hint(team, teams.keys().map(String::as_str));
            self.warn(format!(
                "`{}.only.teams`: team {team:?} is not in this file{hint} (keys may still name it)",
                dotted(at)
            ));
        }
        let limit = |key: &str| at_key(&at_key(at, "limits"), key);
        let wall = self.span(&limit("wall"), limits.wall);
        let cpu = self.span(&limit("cpu"), limits.cpu);
        let ask_wait = self.span(&limit("ask_wait"), limits.ask_wait);
        if limits.asks.is_some_and(|asks| !(1..=100).contains(&asks)) {
            self.tell(&limit("asks"), "`limits.asks` of a script may be 1 to 100");
        }
        let default = StageLimits::default();
        let memory = self.size(&limit("memory"), limits.memory, default.memory);
        if !(LEAST_MEMORY..=MOST_MEMORY).contains(&memory) {
            self.tell(&limit("memory"), "`limits.memory` of a plugin may be \"64KiB\" to \"1GiB\"");
        }
        if cpu.is_some_and(|cpu| cpu > MOST_CPU) {
            self.tell(&limit("cpu"), "`limits.cpu` of a plugin may be at most \"10s\"");
        }
        let slow = self.span_or_zero(&at_key(at, "slow"), raw.slow, SLOW);
        let park = self.park(&at_key(at, "park"), raw.park.unwrap_or_default());
        Stage {
            slow,
            park,
            on_error: match raw.on_error {
                Some(file::OnError::Skip) => OnError::Skip,
                Some(file::OnError::Reject) | None => OnError::Reject,
            },
            stream: raw.stream.map(|stream| match stream {
                file::StreamMode::Event => StreamMode::Event,
                file::StreamMode::Window => StreamMode::Window,
                file::StreamMode::Whole => StreamMode::Whole,
                file::StreamMode::Observe => StreamMode::Observe,
            }),
            only: raw.only.map(|only| Only { teams: only.teams, models: only.models }),
            config: raw.config.map(object).unwrap_or_default(),
            limits: StageLimits {
                operations: limits.operations.unwrap_or(default.operations),
                wall: wall.unwrap_or(default.wall),
                memory,
                cpu: cpu.unwrap_or(default.cpu),
                asks: limits.asks.unwrap_or(default.asks),
                ask_wait: ask_wait.unwrap_or(default.ask_wait),
            },
            grant: raw.grant.unwrap_or_default(),
            isolation: match raw.isolation {
                Some(file::Isolation::Pooled) => Isolation::Pooled,
                Some(file::Isolation::Request) | None => Isolation::Request,
            },
            line: self.around.source.line(&at_key(at, "use")),
            uses: raw.uses,
        }
    }

    fn park(&mut self, at: &[String], raw: file::Park) -> Option<Park> {
        let usual = Park::default();
        let rest = self.span(&at_key(at, "rest"), raw.rest).unwrap_or(usual.rest);
        let lasting = self.span_or_zero(&at_key(at, "lasting"), raw.lasting, usual.lasting);
        let failures = raw.failures.unwrap_or(usual.failures);
        (failures > 0).then_some(Park { failures, lasting, rest })
    }

    fn used_file(&mut self, at: &[String], uses: &str, beside: &mut Sources) {
        let at = at_key(at, "use");
        if uses.starts_with("builtin/") {
            // Whether there is such a stage is the pipeline's to say.
            return;
        }
        let climbs = uses.split('/').any(|part| matches!(part, "" | "." | ".."));
        let script = uses.starts_with("scripts/") && uses.ends_with(".rhai");
        let plugin = uses.starts_with("plugins/") && uses.ends_with(".wasm");
        if climbs || uses.contains('\\') || !(script || plugin) {
            let message = format!(
                "{uses:?} is no stage: name a script as \"scripts/NAME.rhai\" or a plugin as \"plugins/NAME.wasm\""
            );
            return self.tell(&at, message);
        }
        if plugin {
            return match beside.take_plugin(self.around.root, uses) {
                Ok(true) => {}
                Ok(false) => {
                    // It may come: then it is a change.
                    self.meets(&self.around.root.join(uses));
                    let hint = text::hint(uses, beside.plugins.keys().map(String::as_str));
                    self.tell(&at, format!("there is no file {uses:?}{hint}"));
                }
                Err(message) => self.tell(&at, format!("{uses}: {message}")),
            };
        }
        if !beside.scripts.contains_key(uses) {
            let hint = text::hint(uses, beside.scripts.keys().map(String::as_str).filter(|s| s.ends_with(".rhai")));
            self.tell(&at, format!("there is no file {uses:?}{hint}"));
        }
    }
}

/// Why this is no grant.
fn wrong_grant(grant: &str) -> Option<String> {
    match grant.split_once(':') {
        Some(("http", host)) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
            let fine = !host.is_empty() && host.len() <= 255 && host.chars().all(plain);
            (!fine).then(|| format!("{grant:?} names no host: write \"http:api.example.com\""))
        }
        Some(("ask", model)) => (model.is_empty() || model.len() > 255)
            .then(|| format!("{grant:?} names no model: write \"ask:provider/model\"")),
        None if grant == "http" => {
            Some("calls go to named hosts only: write \"http:api.example.com\", one grant a host".to_owned())
        }
        None if GRANTS.contains(&grant) => None,
        _ => Some(format!("there is no grant {grant:?}{}", text::hint(grant, GRANTS))),
    }
}

fn at_key(at: &[String], key: &str) -> Vec<String> {
    [at, &path(&[key])].concat()
}

/// TOML to JSON; dates become text.
fn object(table: toml::Table) -> Map<String, Value> {
    table.into_iter().map(|(key, value)| (key, json(value))).collect()
}

fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(n) => Value::from(n),
        toml::Value::Float(n) => Number::from_f64(n).map_or(Value::Null, Value::Number),
        toml::Value::Boolean(b) => Value::Bool(b),
        toml::Value::Datetime(date) => Value::String(date.to_string()),
        toml::Value::Array(items) => Value::Array(items.into_iter().map(json).collect()),
        toml::Value::Table(table) => Value::Object(object(table)),
    }
}

/// Beside `http:HOST`. Those that need no grant may be written all the same.
const GRANTS: [&str; 8] = ["ask", "log", "kv", "metrics", "clock", "config", "context", "facts"];
const LEAST_MEMORY: u64 = 64 << 10;
const MOST_MEMORY: u64 = 1 << 30;
const MOST_CPU: std::time::Duration = std::time::Duration::from_secs(10);

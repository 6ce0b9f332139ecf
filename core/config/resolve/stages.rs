//! `[[stages]]`: which files run, in which order, with what of their own. Whether a script compiles is the pipeline's to
//! say.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::{Resolver, path};
use crate::config::{OnError, Only, Sources, Stage, StageLimits, StreamMode, Team, file, source::dotted, text};

impl Resolver<'_, '_, '_> {
    pub(super) fn stages(
        &mut self,
        raw: Option<Vec<file::Stage>>,
        beside: &Sources,
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
        let plugins_only = [
            ("grant", raw.grant.is_some()),
            ("isolation", raw.isolation.is_some_and(|i| i == file::Isolation::Pooled)),
            ("limits.memory", limits.memory.is_some()),
            ("limits.cpu", limits.cpu.is_some()),
        ];
        for (key, _) in plugins_only.iter().filter(|(_, given)| *given) {
            self.warn(format!("`{}.{key}` concerns plugins only; {} goes without", dotted(at), raw.uses));
        }
        for team in raw.only.iter().flat_map(|only| only.teams.iter().flatten()).filter(|t| !teams.contains_key(*t)) {
            let hint = text::hint(team, teams.keys().map(String::as_str));
            self.warn(format!(
                "`{}.only.teams`: team {team:?} is not in this file{hint} (keys may still name it)",
                dotted(at)
            ));
        }
        let wall = self.span(&at_key(&at_key(at, "limits"), "wall"), limits.wall);
        let default = StageLimits::default();
        Stage {
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
            },
            line: self.around.source.line(&at_key(at, "use")),
            uses: raw.uses,
        }
    }

    fn used_file(&mut self, at: &[String], uses: &str, beside: &Sources) {
        let at = at_key(at, "use");
        if uses.starts_with("builtin/") {
            // Whether there is such a stage is the pipeline's to say.
            return;
        }
        if uses.starts_with("plugins/") || uses.ends_with(".wasm") {
            return self.tell(&at, format!("plugins are not built in this version: remove {uses:?}"));
        }
        let climbs = uses.split('/').any(|part| matches!(part, "" | "." | ".."));
        if climbs || uses.contains('\\') || !uses.starts_with("scripts/") || !uses.ends_with(".rhai") {
            let message = format!("{uses:?} is no stage: name a script as \"scripts/NAME.rhai\"");
            return self.tell(&at, message);
        }
        if !beside.scripts.contains_key(uses) {
            let hint = text::hint(uses, beside.scripts.keys().map(String::as_str).filter(|s| s.ends_with(".rhai")));
            self.tell(&at, format!("there is no file {uses:?}{hint}"));
        }
    }

    /// Files dropped into plugins/ would be expected to run.
    pub(super) fn unused_plugins(&mut self) {
        let entries = std::fs::read_dir(self.around.root.join("plugins")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.ends_with(".wasm") && !name.starts_with('.'))
            .collect();
        names.sort();
        for name in names {
            self.warn(format!("plugins/{name} does not run: plugins are not built in this version"));
        }
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

//! `[teams.<name>]`: allow-lists, limits, budget, default parameters, priority.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::{
    Resolver,
    identity::{Checked, Common},
    path,
};
use crate::config::{Alias, Organisation, Provider, Team, Urgency, file};

impl Resolver<'_, '_, '_> {
    pub(super) fn teams(
        &mut self,
        raw: BTreeMap<String, file::Team>,
        organisations: &BTreeMap<String, Organisation>,
        providers: &[Provider],
        models: &BTreeMap<String, Alias>,
    ) -> BTreeMap<String, Team> {
        let mut teams = BTreeMap::new();
        for (name, raw) in self.as_written("teams", raw) {
            let at = path(&["teams", &name]);
            if name.trim() != name || name.is_empty() || name.chars().any(char::is_control) {
                self.fault_at_key(
                    &at,
                    format!("team name {name:?}: leave out white space at the ends and control characters"),
                );
            }
            if let Some(organisation) = &raw.organisation {
                let at = path(&["teams", &name, "organisation"]);
                self.known(&at, "organisations", organisation, organisations.keys());
            }
            let common = Common {
                models: raw.models,
                operations: raw.operations,
                ip_ranges: raw.ip_ranges,
                caps: raw.caps,
                tags: raw.tags,
                data: raw.data,
            };
            let Checked { models: allowed, operations, networks, caps, tags, data } =
                self.common(&at, common, providers, models);
            let (budgets, fallback) = self.money(&at, (raw.budget, raw.budget_fallback), providers, models);
            let (disabled, cut) = self.ended(&at, raw.disabled, raw.cut);
            let team = Team {
                disabled,
                cut,
                models: allowed,
                organisation: raw.organisation,
                operations,
                networks,
                caps,
                tags,
                defaults: defaults(raw.defaults.unwrap_or_default()),
                priority: raw.priority.map(urgency),
                share: raw.share,
                limits: super::limits::limits(raw.limits),
                budgets,
                fallback,
                data,
            };
            teams.insert(name, team);
        }
        teams
    }

    /// An entry of an allow-list: a reference, or a pattern whose provider, if it spells one out, exists.
    pub(super) fn allowed(&mut self, at: &[String], model: &str, providers: &[Provider], names: &[String]) {
        let Some(star) = model.find('*') else { return self.reference(at, model, providers, names) };
        let head = model.split_once('/').map(|(head, _)| head).filter(|head| head.len() < star);
        if let Some(head) = head.filter(|head| !providers.iter().any(|p| p.name == *head)) {
            // `team/*` may be meant for aliases with a slash in their names.
            if !names.iter().any(|n| n.starts_with(&format!("{head}/"))) {
                self.no_provider(at, head, providers);
            }
        }
    }
}

pub fn defaults(raw: file::Defaults) -> Map<String, Value> {
    let float = |n: Option<f64>| n.and_then(Number::from_f64).map(Value::Number);
    let pairs = [
        ("temperature", float(raw.temperature)),
        ("top_p", float(raw.top_p)),
        ("top_k", raw.top_k.map(Value::from)),
        ("max_tokens", raw.max_tokens.map(Value::from)),
        ("frequency_penalty", float(raw.frequency_penalty)),
        ("presence_penalty", float(raw.presence_penalty)),
        ("seed", raw.seed.map(Value::from)),
        ("stop", raw.stop.map(Value::from)),
    ];
    pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn urgency(priority: file::Priority) -> Urgency {
    match priority {
        file::Priority::Low => Urgency::Low,
        file::Priority::Normal => Urgency::Normal,
        file::Priority::High => Urgency::High,
    }
}

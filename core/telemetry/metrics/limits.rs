//! Limits that refuse or only report, and budgets in their windows. All words are the gateway's own; names come from the
//! configuration.

use metrics::{Label, Recorder};

use super::super::unheard;
use super::{MAX_TEAMS, METADATA, Metrics, OTHER, key, label, names};

impl Metrics {
    /// A caller was refused. Both are words of the gateway's own.
    pub fn limited(&self, scope: &'static str, limit: &'static str) {
        if unheard::here() {
            return;
        }
        let labels = vec![label("scope", scope), label("limit", limit)];
        self.recorder.register_counter(&key(names::LIMITED, labels), &METADATA).increment(1);
    }

    /// A shadow limit had no room for a request, which went on all the same.
    pub fn would_limit(&self, scope: &'static str, limit: &'static str) {
        if unheard::here() {
            return;
        }
        let labels = vec![label("scope", scope), label("limit", limit)];
        self.recorder.register_counter(&key(names::WOULD_LIMIT, labels), &METADATA).increment(1);
    }

    /// A provider's quota: the bound, what is left, and seconds until it may be used again.
    pub fn quota(&self, scope: &'static str, name: &str, (unit, per): (&'static str, &str), figures: [f64; 3]) {
        let whose = format!("{scope}:{name}");
        let known = self.teams.contains(&whose) || (self.teams.len() < MAX_TEAMS && self.teams.insert(whose));
        let name = if known { name } else { OTHER };
        for (gauge, figure) in [names::QUOTA, names::QUOTA_LEFT, names::QUOTA_OPENS].into_iter().zip(figures) {
            let labels = vec![
                label("scope", scope),
                Label::new("name", name.to_owned()),
                label("unit", unit),
                Label::new("per", per.to_owned()),
            ];
            self.recorder.register_gauge(&key(gauge, labels), &METADATA).set(figure);
        }
    }

    /// Somebody was told of a budget: `soft` or `exhausted`.
    pub fn budget_alert(&self, scope: &'static str, threshold: &'static str) {
        let labels = vec![label("scope", scope), label("threshold", threshold)];
        self.recorder.register_counter(&key(names::BUDGET_ALERTS, labels), &METADATA).increment(1);
    }

    /// A budget in its window, nano-dollars: the bound, what was spent and what is reserved. Names come from the
    /// configuration; past the first hundred they share one label.
    pub fn budget(&self, scope: &'static str, name: &str, per: &'static str, nano: [u64; 3]) {
        let whose = format!("{scope}:{name}");
        let known = self.teams.contains(&whose) || (self.teams.len() < MAX_TEAMS && self.teams.insert(whose));
        let name = if known { name } else { OTHER };
        for (gauge, nano) in [names::BUDGET, names::BUDGET_SPENT, names::BUDGET_RESERVED].into_iter().zip(nano) {
            let labels = vec![label("scope", scope), Label::new("name", name.to_owned()), label("per", per)];
            self.recorder.register_gauge(&key(gauge, labels), &METADATA).set(nano as f64 / 1e9);
        }
    }
}

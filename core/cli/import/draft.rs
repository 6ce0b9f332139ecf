//! The gateway.toml under way, and what became of each field. Knows no other gateway's words.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    cli::import::upstreams::Upstream,
    config::{CatalogueRow, PriceSheet},
};

#[derive(Debug, Default)]
pub struct Draft {
    /// By name, in the order in which they came.
    pub upstreams: Vec<(String, Upstream)>,
    pub models: BTreeMap<String, Model>,
    pub pricing: BTreeMap<String, PriceSheet>,
    pub findings: Vec<Finding>,
}

#[derive(Debug, Clone, Default)]
pub struct Model {
    pub weighted: bool,
    /// In place of weights.
    pub strategy: Option<&'static str>,
    pub targets: Vec<Target>,
    /// Names of models, or `provider/model`.
    pub failover: Vec<String>,
    /// The same for prompts that are too long, and for content that a policy does not allow.
    pub context_failover: Vec<String>,
    pub content_failover: Vec<String>,
    pub whole: Option<String>,
    pub first_event: Option<String>,
    pub retries: Option<u64>,
    pub strict: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub provider: String,
    pub model: String,
    pub weight: u64,
    /// Those of a lower one come first; the rest are failovers.
    pub order: u64,
    /// Calls at a time.
    pub concurrency: Option<u64>,
}

#[derive(Debug, PartialEq)]
pub struct Finding {
    pub what: What,
    /// Where the field stands.
    pub field: String,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Carried,
    Changed,
    Dropped,
}

impl Draft {
    pub fn carried(&mut self, field: impl Into<String>, text: impl Into<String>) {
        self.find(What::Carried, field, text);
    }

    pub fn changed(&mut self, field: impl Into<String>, text: impl Into<String>) {
        self.find(What::Changed, field, text);
    }

    pub fn dropped(&mut self, field: impl Into<String>, text: impl Into<String>) {
        self.find(What::Dropped, field, text);
    }

    fn find(&mut self, what: What, field: impl Into<String>, text: impl Into<String>) {
        let finding = Finding { what, field: field.into(), text: text.into() };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// The name of this upstream; the same one twice is one provider.
    pub fn upstream(&mut self, wanted: &str, upstream: Upstream) -> String {
        if let Some((name, _)) = self.upstreams.iter().find(|(_, known)| *known == upstream) {
            return name.clone();
        }
        let plain = plain_name(wanted);
        let free = |name: &String| name != "mock" && !self.upstreams.iter().any(|(known, _)| known == name);
        let numbered = (2..).map(|n| format!("{plain}-{n}"));
        let name = std::iter::once(plain.clone()).chain(numbered).find(free).unwrap_or(plain);
        self.upstreams.push((name.clone(), upstream));
        name
    }

    /// Leaves out what cannot stand: names that lead nowhere, and failovers that lead back.
    pub fn finish(&mut self) {
        let names: Vec<String> = self.models.keys().cloned().collect();
        let mut lost = Vec::new();
        for (name, model) in &mut self.models {
            for list in [&mut model.failover, &mut model.context_failover, &mut model.content_failover] {
                list.retain(|next| {
                    let known = names.contains(next) || next.contains('/');
                    if !known {
                        lost.push((name.clone(), next.clone()));
                    }
                    known && next != name
                });
            }
        }
        for (name, next) in lost {
            self.dropped(format!("fallback of {name}"), format!("there is no model {next:?}"));
        }
        for name in &names {
            while let Some(back) = self.ring(name) {
                let mut lent: Vec<Target> = self.models.get(name).map(|m| m.targets.clone()).unwrap_or_default();
                lent.sort_by_key(|t| t.order);
                let lent = lent.iter().map(|t| format!("{}/{}", t.provider, t.model));
                if let Some(model) = self.models.get_mut(&back) {
                    let at = model.failover.iter().position(|next| next == name).unwrap_or(0);
                    model.failover.splice(at..(at + 1).min(model.failover.len()), lent);
                }
                let text = format!("{name} leads back here, which failovers may not: its targets are listed instead");
                self.changed(format!("fallback of {back}"), text);
            }
        }
    }

    /// Who names `start` on the way from it back to it.
    fn ring(&self, start: &str) -> Option<String> {
        let mut way = vec![start.to_owned()];
        let mut seen = Vec::new();
        while let Some(here) = way.pop() {
            for next in self.models.get(&here).into_iter().flat_map(|m| &m.failover) {
                if next == start {
                    return Some(here);
                }
                if !seen.contains(next) {
                    seen.push(next.clone());
                    way.push(next.clone());
                }
            }
        }
        None
    }

    pub fn findings(&self) -> String {
        let line = |finding: &Finding| {
            let what = match finding.what {
                What::Carried => "carried    ",
                What::Changed => "changed    ",
                What::Dropped => "not carried",
            };
            format!("{what}  {}: {}\n", finding.field, finding.text)
        };
        self.findings.iter().map(line).collect()
    }

    pub fn toml(&self) -> String {
        let mut out = String::from("# Made by `portcullis import`. `portcullis check` says what it would run.\n");
        for (name, upstream) in &self.upstreams {
            out.push_str(&format!("\n[providers.{}]\n", key(name)));
            upstream.lines(name).iter().for_each(|line| out.push_str(&format!("{line}\n")));
        }
        for (name, model) in &self.models {
            out.push_str(&format!("\n[models.{}]\n{}", key(name), model.toml()));
        }
        for (model, sheet) in &self.pricing {
            let row = CatalogueRow { sheet: sheet.clone(), ..CatalogueRow::default() };
            out.push_str(&format!("\n[[pricing]]\nmodel = {}\n{}", quoted(model), row.prices_toml()));
        }
        out
    }
}

impl Model {
    fn toml(&self) -> String {
        let mut out = String::new();
        let lowest = self.targets.iter().map(|t| t.order).min().unwrap_or(0);
        let (first, later): (Vec<_>, Vec<_>) = self.targets.iter().partition(|t| t.order == lowest);
        let weighted = self.weighted && self.strategy.is_none() && first.len() > 1;
        if let Some(strategy) = self.strategy.or(weighted.then_some("weighted")).filter(|_| first.len() > 1) {
            out.push_str(&format!("strategy = \"{strategy}\"\n"));
        }
        out.push_str("targets = [\n");
        for Target { provider, model, weight, concurrency, .. } in &first {
            let weight = if weighted && *weight != 1 { format!(", weight = {weight}") } else { String::new() };
            let most = concurrency.map_or_else(String::new, |most| format!(", concurrency = {most}"));
            out.push_str(&format!(
                "  {{ provider = {}, model = {}{weight}{most} }},\n",
                quoted(provider),
                quoted(model)
            ));
        }
        out.push_str("]\n");
        let mut later = later;
        later.sort_by_key(|t| t.order);
        let failover: Vec<String> =
            later.iter().map(|t| format!("{}/{}", t.provider, t.model)).chain(self.failover.iter().cloned()).collect();
        for (key, names) in [
            ("failover", &failover),
            ("context_failover", &self.context_failover),
            ("content_failover", &self.content_failover),
        ] {
            if !names.is_empty() {
                let list: Vec<String> = names.iter().map(|name| quoted(name)).collect();
                out.push_str(&format!("{key} = [{}]\n", list.join(", ")));
            }
        }
        let waits = [("first_event", &self.first_event), ("whole", &self.whole)];
        let waits: Vec<String> =
            waits.iter().filter_map(|(key, span)| Some(format!("{key} = {}", quoted(span.as_ref()?)))).collect();
        if !waits.is_empty() {
            out.push_str(&format!("timeouts = {{ {} }}\n", waits.join(", ")));
        }
        if let Some(retries) = self.retries {
            out.push_str(&format!("retries = {}\n", retries.min(3)));
        }
        if self.strict {
            out.push_str("strict = true\n");
        }
        out
    }
}

/// Every leaf of a value with its path: what nobody took up is told by these.
pub fn leaves(value: &Value, path: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(key, value)| leaves(value, &format!("{path}.{key}"), out));
        }
        Value::Array(list) if list.iter().any(|v| v.is_object() || v.is_array()) => {
            list.iter().enumerate().for_each(|(n, value)| leaves(value, &format!("{path}[{n}]"), out));
        }
        _ => out.push(path.trim_start_matches('.').to_owned()),
    }
}

/// Seconds as gateway.toml writes spans.
pub fn seconds(value: &Value) -> Option<String> {
    let text = match value {
        Value::Number(n) => n.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let seconds: f64 = text.parse().ok()?;
    let millis = (seconds * 1000.0).round();
    (1.0..=86_400_000.0).contains(&millis).then(|| match millis as u64 {
        whole if whole % 1000 == 0 => format!("{}s", whole / 1000),
        millis => format!("{millis}ms"),
    })
}

/// As a provider's name may be written.
pub fn plain_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.trim().chars().map(plain).take(60).collect();
    if name.is_empty() { "provider".to_owned() } else { name }
}

pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if bare { name.to_owned() } else { quoted(name) }
}

/// Of answers that are kept.
pub const CACHE: &str = "list `builtin/cache` among [[stages]]; `cache.ttl` and its like say how it keeps";

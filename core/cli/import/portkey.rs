//! A Portkey config: targets in groups of groups, each with a strategy. Groups become one public name with targets and
//! failovers; what a strategy says beyond that is told.

use serde_json::Value;

use super::{
    draft::{CACHE, Draft, Model, Target, leaves, seconds},
    upstreams::{Upstream, env_for, plain_url, row_of, usual_env},
};

pub fn read(value: &Value, name: &str) -> Result<Draft, String> {
    if !value.is_object() {
        return Err("it should be one object with a strategy, or a target".to_owned());
    }
    let mut draft = Draft::default();
    let mut model = Model::default();
    let found = group(&mut draft, value, "", &mut model, name);
    model.weighted = found.weighted;
    model.targets = found.first;
    for target in found.later {
        let next = format!("{}/{}", target.provider, target.model);
        if !model.failover.contains(&next) {
            model.failover.push(next);
        }
    }
    if model.targets.is_empty() {
        return Err("it names no provider that could be carried over".to_owned());
    }
    draft.models.insert(name.to_owned(), model);
    draft.finish();
    Ok(draft)
}

/// The targets of a group: those that are tried first, and those after them.
#[derive(Default)]
struct Found {
    weighted: bool,
    first: Vec<Target>,
    later: Vec<Target>,
}

impl Found {
    fn all(self) -> impl Iterator<Item = Target> {
        self.first.into_iter().chain(self.later)
    }
}

fn group(draft: &mut Draft, value: &Value, at: &str, model: &mut Model, name: &str) -> Found {
    settings(draft, value, at, model);
    let Some(targets) = value["targets"].as_array().filter(|targets| !targets.is_empty()) else {
        let target = target(draft, value, at);
        return Found { first: target.into_iter().collect(), ..Found::default() };
    };
    let mode = value["strategy"]["mode"].as_str().unwrap_or("single");
    let field = dotted(at, "strategy.mode");
    if !value["strategy"]["on_status_codes"].is_null() {
        let text = "408, 429, 5xx and what cannot be reached go to the next target, the rest to the caller";
        draft.changed(dotted(at, "strategy.on_status_codes"), text);
    }
    let path = |n: usize| dotted(at, &format!("targets[{n}]"));
    let mut parts: Vec<(Found, u64)> = Vec::new();
    for (n, inner) in targets.iter().enumerate() {
        let weight = inner["weight"].as_f64().map_or(1000, |w| (w.max(0.0) * 1000.0).round() as u64);
        if !inner["weight"].is_null() {
            match mode {
                "loadbalance" => draft.carried(format!("{}.weight", path(n)), "weight"),
                _ => draft.dropped(format!("{}.weight", path(n)), "there is no choice by weight in this strategy"),
            }
        }
        parts.push((group(draft, inner, &path(n), model, name), weight));
    }
    match mode {
        "loadbalance" => {
            draft.carried(&field, "strategy = \"weighted\"");
            let mut out = Found { weighted: true, ..Found::default() };
            for (n, (part, weight)) in parts.into_iter().enumerate() {
                if !part.later.is_empty() {
                    draft.changed(
                        path(n),
                        "of a group inside, the first target takes its weight; the rest are failovers of all",
                    );
                }
                let sum: u64 = part.first.iter().map(|t| if part.weighted { t.weight } else { 1 }).sum();
                for mut target in part.first {
                    let share = if part.weighted { target.weight } else { 1 };
                    target.weight = (weight * share).checked_div(sum).unwrap_or(0).min(1_000_000);
                    out.first.push(target);
                }
                out.later.extend(part.later);
            }
            if out.first.iter().all(|t| t.weight == 0) {
                out.first.iter_mut().for_each(|t| t.weight = 1);
            }
            shorten(&mut out.first);
            out
        }
        "fallback" => {
            draft.carried(&field, "failover");
            let mut parts = parts.into_iter().map(|(part, _)| part);
            let mut out = parts.next().unwrap_or_default();
            for part in parts {
                if part.weighted {
                    draft.changed(&field, "of a group further down, targets are tried in the order written");
                }
                out.later.extend(part.all());
            }
            out
        }
        "conditional" => conditional(draft, value, at, parts.into_iter().map(|(part, _)| part).collect(), name),
        other => {
            let one = other == "single" || value["strategy"].is_null();
            match one {
                true => draft.carried(&field, "the first target"),
                false => draft.dropped(&field, format!("there is no strategy {other:?}: the first target is taken")),
            }
            (1..parts.len()).for_each(|n| draft.dropped(path(n), "only the first target is asked"));
            parts.into_iter().next().map(|(part, _)| part).unwrap_or_default()
        }
    }
}

/// Each target gets a name of its own, for a script that chooses; the default is what is asked without one.
fn conditional(draft: &mut Draft, value: &Value, at: &str, parts: Vec<Found>, name: &str) -> Found {
    let strategy = &value["strategy"];
    draft.dropped(dotted(at, "strategy.conditions"), "write them as `fn route(request, targets, context)` of a script");
    let default = strategy["default"].as_str();
    let mut out = None;
    for (n, part) in parts.into_iter().enumerate() {
        let called = value["targets"][n]["name"].as_str();
        let first = part.first.clone();
        if let Some(called) = called.filter(|c| !c.is_empty()) {
            let public = format!("{name}-{}", super::draft::plain_name(called));
            draft.changed(
                dotted(at, &format!("targets[{n}].name")),
                format!("models.{public}, for the script to choose"),
            );
            if !first.is_empty() {
                let model = Model { weighted: part.weighted, targets: first, ..Model::default() };
                draft.models.insert(public, model);
            }
        }
        if (called.is_some() && called == default) || (out.is_none() && default.is_none()) {
            out = Some(part);
        }
    }
    draft.carried(dotted(at, "strategy.default"), "what is asked where no script chooses");
    out.unwrap_or_default()
}

fn target(draft: &mut Draft, value: &Value, at: &str) -> Option<Target> {
    let text = |key: &str| value[key].as_str().map(str::trim).filter(|t| !t.is_empty());
    let asked = value["override_params"]["model"].as_str().or_else(|| text("model"));
    // `@slug/model` names a provider that Portkey keeps the key of.
    let (slug, model) = match asked.and_then(|m| m.strip_prefix('@')).and_then(|m| m.split_once('/')) {
        Some((slug, model)) => (Some(slug), Some(model)),
        None => (None, asked),
    };
    let called = text("provider").map(|p| p.trim_start_matches('@')).or(slug).or_else(|| text("virtual_key"));
    let Some(called) = called else {
        draft.dropped(if at.is_empty() { "(the config)" } else { at }, "it names no provider");
        return None;
    };
    // Slugs begin with the provider's word as often as not: `openai-prod`.
    let row = row_of(called, model.unwrap_or("")).or_else(|| {
        let words: Vec<&str> = called.split('-').collect();
        (1..words.len()).rev().find_map(|n| row_of(&words[..n].join("-"), model.unwrap_or("")))
    });
    let mut upstream = Upstream { row, ..Upstream::default() };
    if let Some(host) = text("custom_host") {
        match plain_url(host) {
            Some(url) => {
                draft.carried(dotted(at, "custom_host"), "base_url");
                upstream.base_url = Some(url);
            }
            None => draft.dropped(dotted(at, "custom_host"), "it is not a plain address"),
        }
    }
    if row.is_none() && upstream.base_url.is_none() {
        draft.dropped(dotted(at, "provider"), format!("there is no provider {called:?} here, and no custom_host"));
        return None;
    }
    // A vendor's key goes to no other host.
    let own = upstream.base_url.is_some();
    let keyed = text("api_key").is_some() || text("virtual_key").is_some();
    let usual = row.and_then(usual_env).filter(|_| !own);
    let taken: Vec<&str> = draft.upstreams.iter().filter_map(|(_, u)| u.env.as_deref()).collect();
    let same = row.is_some_and(|row| row == called);
    let env = match usual {
        Some(usual) if same || !taken.contains(&usual) && text("api_key").is_none() => usual.to_owned(),
        _ => env_for(called, row.and_then(usual_env).as_slice()),
    };
    for key in ["api_key", "virtual_key"] {
        if text(key).is_some() {
            draft.changed(dotted(at, key), format!("keys are read from the environment: set the variable {env}"));
        }
    }
    if keyed || !own {
        upstream.env = Some(env);
    }
    let lacks = row.is_some_and(|row| !super::upstreams::knows_its_place(row)) && upstream.base_url.is_none();
    if lacks {
        upstream.base_url = Some("https://name.invalid/v1".to_owned());
        draft.changed(dotted(at, "provider"), "it needs an address: base_url is a placeholder");
    }
    let wanted = if text("provider").is_some() || slug.is_some() { called } else { row.unwrap_or(called) };
    let provider = draft.upstream(wanted, upstream);
    if text("provider").is_some() || slug.is_some() {
        draft.carried(dotted(at, if slug.is_some() { "model" } else { "provider" }), format!("providers.{provider}"));
    }
    let model = match model {
        Some(model) => {
            draft.carried(dotted(at, "override_params.model"), format!("{provider}/{model}"));
            model.to_owned()
        }
        None => {
            draft.changed(
                if at.is_empty() { "(the config)" } else { at },
                "it names no model: write one in place of \"name-a-model\"",
            );
            "name-a-model".to_owned()
        }
    };
    Some(Target { provider, model, weight: 1, order: 0, concurrency: None })
}

/// What stands beside the targets.
fn settings(draft: &mut Draft, value: &Value, at: &str, model: &mut Model) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let field = dotted(at, key);
        match key.as_str() {
            "strategy" | "targets" | "weight" | "provider" | "api_key" | "virtual_key" | "custom_host" | "model"
            | "name" => {}
            "retry" => {
                match value["attempts"].as_u64() {
                    Some(attempts) => {
                        model.retries = model.retries.or(Some(attempts));
                        draft.carried(format!("{field}.attempts"), "retries, three at most, four attempts in all");
                    }
                    None => draft.dropped(format!("{field}.attempts"), "it is not a number"),
                }
                if !value["on_status_codes"].is_null() {
                    draft.changed(format!("{field}.on_status_codes"), "408, 429 and 5xx are asked again");
                }
            }
            "request_timeout" => {
                let span = value.as_f64().map(|ms| ms / 1000.0).and_then(serde_json::Number::from_f64);
                match span.and_then(|n| seconds(&Value::Number(n))) {
                    Some(span) => {
                        model.whole.get_or_insert(span);
                        draft.carried(field, "timeouts.whole");
                    }
                    None => draft.dropped(field, "it is not a time in milliseconds"),
                }
            }
            "override_params" => {
                for key in value.as_object().into_iter().flat_map(|map| map.keys()).filter(|key| *key != "model") {
                    draft.dropped(
                        format!("{field}.{key}"),
                        "parameters that callers start from are of a team: `teams.NAME.defaults`",
                    );
                }
            }
            "cache" => each(draft, value, &field, CACHE),
            "before_request_hooks" | "after_request_hooks" | "input_guardrails" | "output_guardrails" => {
                each(draft, value, &field, "guards are stages here: scripts and plugins");
            }
            _ => each(draft, value, &field, "there is no such setting here"),
        }
    }
}

fn each(draft: &mut Draft, value: &Value, field: &str, why: &str) {
    let mut fields = Vec::new();
    leaves(value, field, &mut fields);
    fields.into_iter().for_each(|field| draft.dropped(field, why));
}

/// Weights without a divisor that all have.
fn shorten(targets: &mut [Target]) {
    let divisor = targets.iter().fold(0, |sum, t| gcd(sum, t.weight));
    if divisor > 1 {
        targets.iter_mut().for_each(|t| t.weight /= divisor);
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn dotted(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

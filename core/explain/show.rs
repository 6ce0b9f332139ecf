//! A decision as JSON, and that JSON as text for people: the command prints either, wherever the decision was made.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Cost, Decision};
use crate::{limit::usd, telemetry::trace_json};

impl Decision {
    pub fn json(&self) -> Value {
        let who = &self.caller;
        let trace = trace_json(&self.trace);
        let steps = |kind: &str| steps(&trace, kind).cloned().collect::<Vec<Value>>();
        json!({
            "targets": self.targets,
            "asked": self.asked,
            "model": self.model,
            "chosen": steps("chosen").last().map(|step| step["names"].clone()),
            "status": self.status,
            "code": self.code,
            "message": self.message,
            "text": self.text,
            "caller": {
                "key": Some(&*who.key_id).filter(|id| !id.is_empty()),
                "name": Some(&*who.key_name).filter(|name| !name.is_empty()),
                "team": who.team.as_deref(),
                "user": who.user.as_deref(),
                "organisation": who.organisation.as_deref(),
                "roles": Some(&who.roles).filter(|roles| !roles.is_empty()),
                "models": who.models_of("key"),
                "team_models": who.models_of("team"),
                "user_models": who.models_of("user"),
                "organisation_models": who.models_of("organisation"),
                "defaults": Some(&self.defaults).filter(|defaults| !defaults.is_empty()),
            },
            "limits": steps("limits").last().map_or_else(|| json!([]), |step| step["limits"].clone()),
            "budget": steps("budget").last().map(plain),
            "budgets": steps("budget").iter().map(plain).collect::<Vec<_>>(),
            "stages": steps("stage").iter().map(plain).collect::<Vec<_>>(),
            "parked": steps("parked").iter().map(plain).collect::<Vec<_>>(),
            "notes": steps("note").iter().map(plain).collect::<Vec<_>>(),
            "candidates": candidates(&trace, &self.targets, &self.costs),
            "cost": self.costs.first().map(cost),
            "config": self.config,
            "trace": trace,
        })
    }
}

/// A request's record in the same shape: what was decided, and what came of it.
pub fn recorded(record: &Value) -> Value {
    let trace = &record["trace"];
    let planned = steps(trace, "planned").last().map_or(&Value::Null, |step| &step["targets"]);
    let passed = |name: &Value| steps(trace, "passed_over").any(|step| step["target"] == *name);
    let targets: Vec<Arc<str>> =
        list(planned).filter(|name| !passed(name)).filter_map(Value::as_str).map(Arc::from).collect();
    let plain = |kind: &str| steps(trace, kind).map(plain).collect::<Vec<_>>();
    json!({
        "targets": targets,
        "asked": record["model"],
        "model": record["model"],
        "chosen": steps(trace, "chosen").last().map(|step| step["names"].clone()),
        "status": record["status"],
        "code": record["error_code"],
        "caller": { "key": record["key_id"], "team": record["team"] },
        "limits": steps(trace, "limits").last().map_or_else(|| json!([]), |step| step["limits"].clone()),
        "budget": plain("budget").last(),
        "budgets": plain("budget"),
        "stages": plain("stage"),
        "parked": plain("parked"),
        "notes": plain("note"),
        "candidates": candidates(trace, &targets, &[]),
        "target": record["target"],
        "cost_usd": record["cost_usd"],
        "trace": trace,
    })
}

/// Every target that was considered: how it stood, and what became of it.
fn candidates(trace: &Value, targets: &[Arc<str>], costs: &[Cost]) -> Vec<Value> {
    let mut all: Vec<Map<String, Value>> = Vec::new();
    for step in trace.as_array().into_iter().flatten() {
        let kind = step["step"].as_str().unwrap_or_default();
        if !matches!(kind, "weighed" | "passed_over" | "reserve" | "ranked") {
            continue;
        }
        if kind == "ranked" {
            // The last one counts: a stage may have chosen others.
            all.iter_mut().for_each(|known| drop((known.shift_remove("strategy"), known.shift_remove("why"))));
            for rank in list(&step["targets"]) {
                let facts = rank.as_object().cloned().unwrap_or_default();
                match all.iter_mut().find(|known| known["target"] == rank["target"]) {
                    Some(known) => known.extend(facts),
                    None => all.push(facts),
                }
            }
            continue;
        }
        let at = all.iter().position(|known| known["target"] == step["target"]).unwrap_or_else(|| {
            all.push(Map::from_iter([("target".to_owned(), step["target"].clone())]));
            all.len() - 1
        });
        let mut facts = plain(step);
        if let Some(facts) = facts.as_object_mut() {
            facts.shift_remove("target");
            match kind {
                "reserve" => drop(all[at].insert("reserve".to_owned(), Value::Object(std::mem::take(facts)))),
                _ => all[at].append(facts),
            }
        }
    }
    for candidate in &mut all {
        let place = targets.iter().position(|target| candidate["target"] == **target);
        let verdict = match place {
            Some(0) => "taken",
            Some(_) => "next",
            None if candidate.contains_key("reason") => "passed_over",
            None => "not_reached",
        };
        candidate.insert("verdict".to_owned(), verdict.into());
        if let Some(mine) = costs.iter().find(|cost| candidate["target"] == *cost.target) {
            candidate.insert("cost_usd".to_owned(), mine.nano_usd.map_or(Value::Null, number));
        }
    }
    all.into_iter().map(Value::Object).collect()
}

fn cost(cost: &Cost) -> Value {
    let Cost { target, input_tokens, output_tokens, nano_usd, at_most } = cost;
    json!({
        "target": target,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "usd": nano_usd.map(number),
        "at_most_usd": at_most.map(number),
    })
}

/// All its digits.
fn number(nano: u64) -> Value {
    usd(nano).parse::<serde_json::Number>().map_or(Value::Null, Value::Number)
}

fn steps<'a>(trace: &'a Value, kind: &str) -> impl Iterator<Item = &'a Value> {
    let all = trace.as_array().into_iter().flatten();
    let kind = kind.to_owned();
    all.filter(move |step| step["step"] == *kind)
}

/// A step without the word that says which.
fn plain(step: &Value) -> Value {
    let mut step = step.clone();
    if let Some(fields) = step.as_object_mut() {
        fields.shift_remove("step");
    }
    step
}

/// For a terminal: one fact a line, its kind in front.
pub fn text(told: &Value) -> String {
    let mut lines = Lines::default();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    lines.add("model", word(&told["asked"]));
    caller(&told["caller"], &mut lines);
    list(&told["limits"]).for_each(|limit| lines.add("limit", allowance(limit)));
    list(&told["budgets"]).for_each(|budget| lines.add("budget", funds(budget)));
    for step in list(&told["trace"]) {
        match step["step"].as_str() {
            Some("stage") => lines.add("stage", stage(step)),
            Some("parked") => lines.add("parked", format!("{} fails too often: it rests", word(&step["stage"]))),
            Some("note") => lines.add("note", format!("{}: {}", place(step), word(&step["text"]))),
            Some("chosen") => lines.add("chosen", words(&step["names"])),
            Some("dropped") => lines.add("dropped", word(&step["what"])),
            Some("attempt") => {
                let (number, target, outcome) = (&step["number"], word(&step["target"]), word(&step["outcome"]));
                lines.add("attempt", format!("{number}. {target}: {outcome} [{} µs]", step["took_us"]));
            }
            _ => {}
        }
    }
    if told["model"] != told["asked"] {
        lines.add("renamed", word(&told["model"]));
    }
    let order: Vec<&Value> = list(&told["targets"]).collect();
    let candidates: Vec<&Value> = list(&told["candidates"]).collect();
    for (at, target) in order.iter().enumerate() {
        let facts = candidates.iter().find(|c| c["target"] == **target).map(|c| facts(c)).unwrap_or_default();
        lines.add(if at == 0 { "targets" } else { "" }, format!("{}. {}{facts}", at + 1, word(target)));
    }
    let reasons = order.iter().filter_map(|target| candidates.iter().find(|c| c["target"] == **target));
    for ranked in reasons.filter(|c| c["why"].is_string()) {
        lines.add(
            "why",
            format!("{} ({}): {}", word(&ranked["target"]), word(&ranked["strategy"]), word(&ranked["why"])),
        );
    }
    for passed in candidates.iter().filter(|c| c["verdict"] == "passed_over") {
        let code = passed["code"].as_str().map(|code| format!(" ({code})")).unwrap_or_default();
        lines.add("passed", format!("{}{code}: {}", word(&passed["target"]), word(&passed["reason"])));
    }
    let first = candidates.iter().find(|c| c["verdict"] == "taken").map(|c| &c["reserve"]);
    if let Some(reserve) = first.filter(|reserve| reserve.is_object()) {
        let money = match &reserve["usd"] {
            Value::Null => String::new(),
            usd => format!(", {usd} USD"),
        };
        let (input, output) = (&reserve["input_tokens"], &reserve["output_tokens"]);
        lines.add("reserve", format!("{input} + {output} tokens{money}"));
    }
    if let Some(cost) = Some(&told["cost"]).filter(|cost| cost.is_object()) {
        let (input, output) = (&cost["input_tokens"], &cost["output_tokens"]);
        let money = match (&cost["usd"], &cost["at_most_usd"]) {
            (Value::Null, Value::Null) => "not known".to_owned(),
            (Value::Null, most) => format!("at most {most} USD"),
            (usd, most) => format!("about {usd} USD, at most {most}"),
        };
        lines.add("cost", format!("{money} ({input} + {output} tokens)"));
    }
    match (told["status"].as_u64(), &told["message"], &told["text"]) {
        (Some(status), Value::String(message), _) => lines.add("refused", format!("{status}: {message}")),
        (Some(_), _, Value::String(text)) => lines.add("answered", text.clone()),
        // Of a request that ran.
        (Some(status), ..) => {
            let code = told["code"].as_str().map(|code| format!(" {code}")).unwrap_or_default();
            let cost = Some(&told["cost_usd"]).filter(|usd| !usd.is_null()).map(|usd| format!(", {usd} USD"));
            lines.add("ended", format!("{status}{code}{}", cost.unwrap_or_default()));
        }
        _ => {}
    }
    lines.0
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, kind: &str, text: String) {
        // What came from a caller or a stage must not write into the terminal.
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.0.push_str(&format!("{kind:<9} {text}\n"));
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn words(value: &Value) -> String {
    list(value).filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

/// Who asks, and what follows from that.
fn caller(who: &Value, lines: &mut Lines) {
    let mut told = Vec::new();
    if let Some(key) = who["key"].as_str() {
        let name = who["name"].as_str().map(|name| format!(" ({name})")).unwrap_or_default();
        told.push(format!("{key}{name}"));
    }
    for kind in ["team", "user", "organisation"] {
        told.extend(who[kind].as_str().map(|name| format!("{kind} {name}")));
    }
    if !told.is_empty() {
        lines.add("caller", told.join(", "));
    }
    let lists =
        [("key", "models"), ("user", "user_models"), ("team", "team_models"), ("organisation", "organisation_models")];
    for (whose, field) in lists {
        if who[field].is_array() {
            lines.add("may use", format!("{} (its {whose})", words(&who[field])));
        }
    }
    for (name, value) in who["defaults"].as_object().into_iter().flatten() {
        lines.add("default", format!("{name} = {value}"));
    }
}

fn allowance(of: &Value) -> String {
    let mut parts = Vec::new();
    for (field, what) in [
        ("requests_per_minute", "requests a minute"),
        ("input_tokens_per_minute", "input tokens a minute"),
        ("output_tokens_per_minute", "output tokens a minute"),
        ("tokens_per_minute", "tokens a minute"),
        ("requests_per_day", "requests a day"),
        ("tokens_per_day", "tokens a day"),
    ] {
        let share = &of[field];
        if share.is_object() {
            parts.push(format!("{} {what}{}", share["limit"], left(&share["left"])));
        }
    }
    let share = &of["concurrent"];
    if share.is_object() {
        let under_way = share["in_flight"].as_u64().map(|n| format!(", {n} under way")).unwrap_or_default();
        parts.push(format!("{} at once{under_way}", share["limit"]));
    }
    if of["shadow"] == true {
        parts.push("only reported".to_owned());
    }
    if of["refuses"].is_string() {
        parts.push("would refuse".to_owned());
    }
    let of = |field: &str| of[field].as_str().unwrap_or_default();
    format!("{} {}: {}", of("scope"), of("name"), parts.join("; "))
}

fn left(value: &Value) -> String {
    if value.is_null() { String::new() } else { format!(", {value} left") }
}

fn funds(of: &Value) -> String {
    let word = |field: &str| of[field].as_str().unwrap_or_default();
    let mut text = format!("{} {}: {} USD", word("scope"), word("name"), of["usd"]);
    match of["per"].as_str() {
        Some("total") | None => {}
        Some(per) => text.push_str(&format!(" a {per}")),
    }
    if !of["left_usd"].is_null() {
        let (spent, reserved) = (&of["spent_usd"], &of["reserved_usd"]);
        text.push_str(&format!(", {spent} spent, {reserved} reserved, {} left", of["left_usd"]));
    }
    text
}

/// `scripts/route.rhai:5`.
fn place(step: &Value) -> String {
    let stage = step["stage"].as_str().unwrap_or_default();
    step["line"].as_u64().map_or_else(|| stage.to_owned(), |line| format!("{stage}:{line}"))
}

fn stage(step: &Value) -> String {
    let verdict = step["verdict"].as_str().unwrap_or_default();
    let more = match (&step["status"], &step["reason"]) {
        (Value::Number(status), _) => format!(" {status}"),
        (_, Value::String(reason)) if verdict == "failed" => format!(": {reason}"),
        (_, Value::String(reason)) => format!(" ({reason})"),
        _ => String::new(),
    };
    let mut used = vec![format!("{} µs", step["took_us"])];
    used.extend(step["operations"].as_u64().map(|n| format!("{n} operations")));
    used.extend(step["memory_bytes"].as_u64().filter(|n| *n >= 1024).map(|n| format!("{} KiB", n >> 10)));
    used.extend(step["slow"].as_bool().filter(|slow| *slow).map(|_| "slow".to_owned()));
    let phase = step["phase"].as_str().unwrap_or_default();
    format!("{} ({phase}): {verdict}{more} [{}]", place(step), used.join(", "))
}

/// How a target stands, as far as that is known.
fn facts(of: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(circuit) = of["circuit"].as_str().filter(|circuit| *circuit != "closed") {
        parts.push(format!("breaker {}", circuit.replace('_', " ")));
    }
    if of["weight"].as_u64().is_some() {
        parts.push(format!("weight {}", of["weight"]));
    }
    if !of["latency_ms"].is_null() {
        parts.push(format!("{} ms", of["latency_ms"]));
    }
    if let Some(n @ 1..) = of["in_flight"].as_u64() {
        parts.push(format!("{n} in flight"));
    }
    if let (Some(n @ 1..), keys) = (of["keys_resting"].as_u64(), &of["keys"]) {
        parts.push(format!("{n} of {keys} keys rest"));
    }
    if !of["cost_usd"].is_null() {
        parts.push(format!("about {} USD", of["cost_usd"]));
    }
    if !of["price_input"].is_null() {
        parts.push(format!("{} / {} USD a million tokens", of["price_input"], of["price_output"]));
    }
    if parts.is_empty() { String::new() } else { format!("  [{}]", parts.join(", ")) }
}

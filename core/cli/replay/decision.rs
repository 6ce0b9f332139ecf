//! What was decided on a request, read from a record or from a rehearsal in the same shape, and how two decisions differ.

use serde_json::{Map, Value};

/// Of one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// In the order that was planned.
    pub planned: Vec<String>,
    pub answered: Option<String>,
    pub status: u64,
    pub code: Option<String>,
    /// `stage verdict` of all that is not `continue` and no failure.
    pub verdicts: Vec<String>,
    /// Stages that failed, and in which phase.
    pub failed: Vec<String>,
    /// As its stages left it, where that is known.
    pub asked: Option<Value>,
    /// The first of them was chosen by what was measured of all: latency, load, quotas.
    pub measured: bool,
    /// In nano-dollars, where all of it is known.
    pub cost: Option<i64>,
}

/// One way in which two decisions differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub kind: Kind,
    /// `was → now`.
    pub was: String,
    pub now: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Another target first, or another one answers.
    Target,
    /// What was answered is refused, or the other way; or it is refused otherwise.
    Refused,
    Verdict,
    /// A stage fails that did not, or the other way.
    StageError,
    /// Fields of the request.
    Params,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Target, Kind::Refused, Kind::Verdict, Kind::StageError, Kind::Params];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::Target => "target",
            Kind::Refused => "refused",
            Kind::Verdict => "verdict",
            Kind::StageError => "stage_error",
            Kind::Params => "params",
        }
    }
}

impl Decision {
    /// `asked`: the body as its stages left it.
    pub fn of(row: &Value, asked: Option<Value>) -> Decision {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let mut decision = Decision {
            answered: text(&row["target"]),
            status: row["status"].as_u64().unwrap_or(0),
            code: text(&row["error_code"]),
            asked,
            cost: cost(row),
            ..Decision::default()
        };
        for step in row["trace"].as_array().into_iter().flatten() {
            let word = |key: &str| step[key].as_str().unwrap_or_default();
            match word("step") {
                "planned" => {
                    decision.planned = step["targets"].as_array().into_iter().flatten().filter_map(text).collect()
                }
                "ranked" => {
                    let mut ranks = step["targets"].as_array().into_iter().flatten();
                    decision.measured = ranks.any(|rank| MEASURED.iter().any(|known| rank["strategy"] == **known));
                }
                "stage" => match word("verdict") {
                    "continue" => {}
                    "failed" => decision.failed.push(format!("{} ({})", word("stage"), word("phase"))),
                    verdict => decision.verdicts.push(format!("{} {verdict}", word("stage"))),
                },
                _ => {}
            }
        }
        if decision.status >= 400 {
            decision.answered = None;
        }
        decision
    }

    fn outcome(&self) -> String {
        match (self.status, &self.code) {
            (0..400, _) => "answered".to_owned(),
            (status, Some(code)) => format!("{status} {code}"),
            (status, None) => status.to_string(),
        }
    }

    fn first(&self) -> Option<&String> {
        self.planned.first()
    }
}

fn cost(row: &Value) -> Option<i64> {
    if row["cost_unknown"] == true {
        return None;
    }
    let text = match &row["cost_usd"] {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    crate::config::usd(&text).ok()
}

/// Only figures of then would tell which of the same targets is first: a replay has none, so that it is another one says nothing.
pub fn by_figures(was: &Decision, now: &Decision) -> bool {
    let sorted = |decision: &Decision| {
        let mut names = decision.planned.clone();
        names.sort();
        names
    };
    now.measured && was.first() != now.first() && sorted(was) == sorted(now)
}

/// In the order of kinds. `figures`: see `by_figures`.
pub fn changes(was: &Decision, now: &Decision, figures: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut add = |kind, was: String, now: String| {
        if was != now {
            changes.push(Change { kind, was, now });
        }
    };
    let name = |target: Option<&String>| target.cloned().unwrap_or_else(|| "none".to_owned());
    // A client that left had no answer, which says nothing of the target.
    let both = was.answered.is_some() && now.answered.is_some() && was.status != GONE;
    if figures {
        // Who was first, and so who answered, was not for the configuration to say.
    } else if was.first() != now.first() {
        add(Kind::Target, name(was.first()), name(now.first()));
    } else if both {
        add(Kind::Target, name(was.answered.as_ref()), name(now.answered.as_ref()));
    }
    if was.status != GONE {
        add(Kind::Refused, was.outcome(), now.outcome());
    }
    let list = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    add(Kind::Verdict, list(&was.verdicts), list(&now.verdicts));
    add(Kind::StageError, list(&was.failed), list(&now.failed));
    if let (Some(was), Some(now)) = (&was.asked, &now.asked)
        && let Some((was, now)) = fields(was, now)
    {
        add(Kind::Params, was, now);
    }
    changes
}

/// Top-level fields that differ: values of short ones, else only that they do. Never what a message says.
fn fields(was: &Value, now: &Value) -> Option<(String, String)> {
    let (empty, other) = (Map::new(), Map::new());
    let (was, now) = (was.as_object().unwrap_or(&empty), now.as_object().unwrap_or(&other));
    let mut names: Vec<&String> = was.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    let differ: Vec<&String> = names.into_iter().filter(|name| !alike(was.get(*name), now.get(*name))).collect();
    let shown = |map: &Map<String, Value>, mark: &str| {
        let one = |name: &&String| match map.get(*name) {
            None => format!("{name} absent"),
            Some(value @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => format!("{name} = {value}"),
            Some(Value::String(text)) if *name == "model" => format!("{name} = {text}"),
            Some(_) => format!("{name} {mark}"),
        };
        differ.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    (!differ.is_empty()).then(|| (shown(was, "as it was"), shown(now, "changed")))
}

fn alike(was: Option<&Value>, now: Option<&Value>) -> bool {
    match (was, now) {
        (Some(Value::Number(was)), Some(Value::Number(now))) => was.as_f64() == now.as_f64(),
        (was, now) => was == now,
    }
}

/// Strategies that go by figures.
const MEASURED: [&str; 3] = ["least_latency", "least_busy", "quota"];
/// The client left.
const GONE: u64 = 499;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(target: &str, status: u16) -> Value {
        json!({
            "target": target, "status": status, "error_code": null, "cost_usd": 0.25, "cost_unknown": false,
            "trace": [{ "step": "planned", "targets": [target, "b/y"] }],
        })
    }

    #[test]
    fn equal_decisions_do_not_differ() {
        let one = Decision::of(&row("a/x", 200), None);
        assert_eq!(one.cost, Some(250_000_000));
        assert_eq!(changes(&one, &one, false), []);
    }

    #[test]
    fn each_kind_of_difference_is_told_once() {
        let was = Decision::of(&row("a/x", 200), Some(json!({ "temperature": 1, "messages": ["the secret"] })));
        let mut other = row("c/z", 503);
        other["error_code"] = "no_healthy_target".into();
        other["trace"].as_array_mut().expect("a trace").extend([
            json!({ "step": "stage", "stage": "scripts/a.rhai", "phase": "request", "verdict": "reject" }),
            json!({ "step": "stage", "stage": "scripts/b.rhai", "phase": "route", "verdict": "failed" }),
        ]);
        let now = Decision::of(&other, Some(json!({ "temperature": 0.5, "messages": ["another secret"] })));
        let told: Vec<_> = changes(&was, &now, false).into_iter().map(|c| (c.kind.name(), c.was, c.now)).collect();
        let text = |kind, was: &str, now: &str| (kind, was.to_owned(), now.to_owned());
        assert_eq!(
            told,
            [
                text("target", "a/x", "c/z"),
                text("refused", "answered", "503 no_healthy_target"),
                text("verdict", "none", "scripts/a.rhai reject"),
                text("stage_error", "none", "scripts/b.rhai (route)"),
                text("params", "messages as it was, temperature = 1", "messages changed, temperature = 0.5"),
            ]
        );
    }

    #[test]
    fn a_client_that_left_was_not_refused() {
        let was = Decision::of(&row("a/x", 499), None);
        assert_eq!(changes(&was, &Decision::of(&row("a/x", 200), None), false), []);
    }

    #[test]
    fn another_first_among_the_same_is_no_difference_where_figures_choose() {
        let planned = |targets: [&str; 2], strategy: &str| {
            let mut row = row(targets[0], 200);
            row["trace"] = json!([
                { "step": "ranked", "targets": [{ "target": targets[0], "strategy": strategy, "why": "" }] },
                { "step": "planned", "targets": targets },
            ]);
            Decision::of(&row, None)
        };
        let was = Decision { measured: false, ..planned(["b/y", "a/x"], "least_latency") };
        for strategy in MEASURED {
            let now = planned(["a/x", "b/y"], strategy);
            assert!(by_figures(&was, &now), "{strategy}");
            assert_eq!(changes(&was, &now, true), []);
        }
        assert!(!by_figures(&was, &planned(["a/x", "b/y"], "first")), "the order is the configuration's");
        assert!(!by_figures(&was, &planned(["a/x", "c/z"], "quota")), "other targets are a difference");
        assert!(!by_figures(&was, &planned(["b/y", "a/x"], "quota")), "it is the same one");
    }
}

//! What a case expects against what was decided: one line for each difference, with the actual value.

use serde_json::{Map, Value};

use super::Decision;
use crate::{
    codec::document::Document,
    context::{Context, Step},
};

pub fn compare(expect: &Map<String, Value>, decision: &Decision, cx: &Context, doc: &mut Document) -> Vec<String> {
    let mut failures = Vec::new();
    let mut differ = |key: &str, want: &Value, got: Value| {
        if *want != got {
            failures.push(format!("expected {key} {want}, got {got}{}", why(decision, cx)));
        }
    };
    for (key, want) in expect {
        match key.as_str() {
            "target" => {
                // A script names aliases; a configuration turns them into targets. Either is a good expectation.
                let first = decision.targets.first().cloned();
                let chosen = match &decision.chosen {
                    Some(list) => list.first().cloned(),
                    None => Some(decision.model.clone()),
                };
                let named = chosen.filter(|_| !decision.targets.is_empty()).is_some_and(|c| want.as_str() == Some(&c));
                if !named {
                    differ("target", want, first.map_or(Value::Null, Value::from));
                }
            }
            "targets" => {
                let got = decision.chosen.clone().filter(|c| Value::from(c.clone()) == *want);
                differ("targets", want, Value::from(got.unwrap_or_else(|| decision.targets.clone())));
            }
            "status" => differ("status", want, decision.status.map_or(Value::from(200), Value::from)),
            "message" => differ("message", want, decision.message.clone().map_or(Value::Null, Value::from)),
            "text" => differ("text", want, decision.text.clone().map_or(Value::Null, Value::from)),
            "model" => differ("model", want, Value::from(decision.model.clone())),
            "notes" => differ("notes", want, Value::from(notes(cx))),
            "request" => fields(want, doc, &mut differ),
            _ => {}
        }
    }
    failures
}

/// `expect.request = { temperature = 0.2 }`: fields as the request phase left them.
fn fields(want: &Value, doc: &mut Document, differ: &mut impl FnMut(&str, &Value, Value)) {
    let Value::Object(want) = want else { return };
    let request = match doc.request() {
        Ok(request) => request.clone(),
        Err(error) => return differ("request", &Value::Object(want.clone()), Value::from(error.message.clone())),
    };
    let number = |n: Option<f64>| n.map_or(Value::Null, Value::from);
    for (key, value) in want {
        let got = match key.as_str() {
            "temperature" => number(request.sampling.temperature),
            "top_p" => number(request.sampling.top_p),
            "max_tokens" => request.max_tokens.map_or(Value::Null, Value::from),
            "messages" => {
                Value::from(request.messages.iter().map(crate::model::Message::joined_text).collect::<Vec<_>>())
            }
            "metadata" => Value::Object(request.metadata.clone()),
            _ => continue,
        };
        let same = value.as_f64().is_some() && value.as_f64() == got.as_f64();
        if !same {
            differ(&format!("request.{key}"), value, got);
        }
    }
}

fn why(decision: &Decision, cx: &Context) -> String {
    let fault = cx.trace.steps.iter().find_map(|step| match step {
        Step::Stage { verdict: crate::context::Verdict::Failed(why), .. } => Some(why.to_string()),
        _ => None,
    });
    match (fault, &decision.message) {
        (Some(fault), _) => format!(" ({fault})"),
        (None, Some(message)) => format!(" ({message})"),
        (None, None) => String::new(),
    }
}

fn notes(cx: &Context) -> Vec<String> {
    let note = |step: &Step| if let Step::Note { text, .. } = step { Some(text.clone()) } else { None };
    cx.trace.steps.iter().filter_map(note).collect()
}

//! What a case expects. Keys and shapes are checked when the file is read; `judge` compares.

use serde_json::{Map, Value};

use super::fields::{Book, Fields, Read};

/// Keys of `expect`, and what each is compared with. The reference is made from this.
pub const EXPECT: &[(&str, &str)] = &[
    ("target", "the first target: `provider/model`, or the alias that the script chose"),
    ("targets", "all of them, in the order of trial: `provider/model`, or the names that the script chose"),
    ("model", "the name that the request phase left in force"),
    ("status", "of the answer; 200 where an upstream or a `respond` answered"),
    ("verdict", "`continue`, `respond`, `reject`, `skip`, `next`, `stop` or `failed`: of some stage in some phase"),
    ("reason", "of a `next`, a `stop` or a stage that failed"),
    ("message", "of the error, as the client reads it"),
    ("code", "of the error: `content_refused`, `budget_exceeded`, `upstream_timeout`, …"),
    ("answered", "the target whose answer the client got"),
    ("attempts", "the targets that were called, in order; or tables `{ target, outcome }`"),
    ("passed_over", "a table of targets that were not called, and why"),
    ("text", "of the answer"),
    ("reasoning", "of the answer"),
    ("tool_calls", "of the answer: tables `{ name, arguments }`"),
    ("finish", "why the answer ended: `stop`, `length`, `tool_calls`, `content_filter`"),
    (
        "events",
        "what the client got of a stream, piece by piece: tables as in an answer's `events`, `{ finish }`, `{ error }`",
    ),
    ("request", "fields of the request as its stages left it; dotted paths reach into it (`\"messages.0.content\"`)"),
    ("sent", "the same, of the last request that an upstream heard, in the words of that upstream's format"),
    ("headers", "that the last upstream heard"),
    ("answer_headers", "that the client got"),
    ("notes", "of the script, in order"),
    (
        "questions",
        "what stages asked of models, in order: the models' names; or tables `{ model, target, status, code, system, prompt, texts, text }` (`prompt`: all turns but the system's, `texts`: of a question for vectors, `text`: the answer)",
    ),
    ("tags", "of the record"),
    ("cost", "of the request, in US dollars"),
    ("usage", "of the request: input, output, cached, cache_write, reasoning"),
    ("dropped", "parameters that the target could not take"),
    ("took", "virtual time from the request to its end: a duration, or `{ at_least, at_most }`"),
];

/// Of a text that is not compared whole.
pub const MATCH: &[&str] = &["contains", "not_contains", "starts_with", "ends_with", "matches"];
pub const VERDICTS: &[&str] = &["continue", "respond", "reject", "skip", "next", "stop", "failed"];

/// As it was written, with known keys only.
#[derive(Debug, Clone, Default)]
pub struct Expect(pub Map<String, Value>);

impl Expect {
    pub fn read(value: Value, book: Book<'_>) -> Read<Expect> {
        let keys: Vec<&str> = EXPECT.iter().map(|(key, _)| *key).collect();
        drop(Fields::new(value.clone(), "expect", &keys, book)?);
        let Value::Object(map) = value else { return Ok(Expect::default()) };
        for (key, value) in &map {
            check(key, value, book)?;
        }
        Ok(Expect(map))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn check(key: &str, value: &Value, book: Book<'_>) -> Read<()> {
    let wrong = |wanted: &str| Err(book.bad(key, format!("expect.{key} must be {wanted}")));
    let fine = match key {
        "status" => value.is_u64(),
        "verdict" => value.as_str().is_some_and(|word| VERDICTS.contains(&word)),
        "targets" | "notes" | "events" | "attempts" | "tool_calls" | "questions" | "dropped" => value.is_array(),
        "request" | "sent" | "headers" | "answer_headers" | "tags" | "passed_over" | "usage" => value.is_object(),
        "cost" => super::fields::nano(value).is_ok(),
        "took" => value.is_object() || value.as_str().is_some_and(|text| crate::config::duration(text).is_ok()),
        _ => value.is_string() || is_match(value),
    };
    match (fine, key) {
        (true, _) => {}
        (false, "status") => return wrong("a status such as 200"),
        (false, "verdict") => return wrong(&format!("one of {}", VERDICTS.join(", "))),
        (false, "targets" | "notes" | "events" | "attempts" | "tool_calls" | "questions" | "dropped") => {
            return wrong("an array");
        }
        (false, "request" | "sent" | "headers" | "answer_headers" | "tags" | "passed_over" | "usage") => {
            return wrong("a table");
        }
        (false, "cost") => return wrong("US dollars such as \"0.00125\""),
        (false, "took") => return wrong("a duration such as \"2s\", or { at_least = …, at_most = … }"),
        (false, _) => return wrong(&format!("a string, or a table of {}", MATCH.join(", "))),
    }
    patterns(value, book)
}

/// Is it a way to match a text?
pub fn is_match(value: &Value) -> bool {
    value.as_object().is_some_and(|map| {
        let fits = |(key, value): (&String, &Value)| MATCH.contains(&key.as_str()) && value.is_string();
        !map.is_empty() && map.iter().all(fits)
    })
}

/// Every pattern in it can be read.
fn patterns(value: &Value, book: Book<'_>) -> Read<()> {
    match value {
        Value::Array(list) => list.iter().try_for_each(|item| patterns(item, book)),
        Value::Object(map) => {
            if is_match(value)
                && let Some(pattern) = map.get("matches").and_then(Value::as_str)
                && let Err(why) = regex::Regex::new(pattern)
            {
                let why = why.to_string();
                let last = why.lines().last().unwrap_or_default().trim();
                return Err(book.bad("matches", format!("the pattern {pattern:?} cannot be read: {last}")));
            }
            map.values().try_for_each(|item| patterns(item, book))
        }
        _ => Ok(()),
    }
}

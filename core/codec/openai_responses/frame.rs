//! What stands around an answer's output: in a whole answer, and in the events of a stream that carry it. Twenty fields that nearly
//! always say the same: those are read as one note, and written from a table.

use serde_json::{Map, Value};

use super::wire::{F, SPECIFIC, answer_specific, mark, status, told_usage};
use crate::{
    codec::{ClientView, json::Fields, openai_chat::wire::tier_word, written},
    model::{Extra, Finish, Usage},
};

/// What is left of an answer's fields, with one note in place of all that say what `DEFAULTS` has: of those no tree is built, and who
/// writes the answer writes them again.
pub fn rest(mut f: Fields) -> Map<String, Value> {
    let (said, read) = (sift(&mut f), f.is_read());
    let mut fields = f.rest_map();
    if said > 0 {
        fields.insert(SAID.to_owned(), said.into());
    }
    if !read {
        note_defaults(&mut fields);
    }
    fields
}

/// Takes the fields away that say what `DEFAULTS` has: a bit for each of them.
fn sift(f: &mut Fields) -> u64 {
    // They nearly always come in one order.
    let (mut said, mut next) = (0u64, 0);
    f.sift(|name, value| {
        let named = |(default, _): &(&str, &str)| *default == name;
        let (before, behind) = DEFAULTS.split_at(next);
        let at = behind.iter().position(named).map(|at| next + at).or_else(|| before.iter().position(named));
        let Some(at) = at else { return false };
        next = at + 1;
        let default = DEFAULTS[at].1 == value;
        // Who says nothing is told what was asked.
        said |= u64::from(default && value != "null") << at;
        default
    });
    said
}

/// The same note in place of such fields of a tree.
fn note_defaults(fields: &mut Map<String, Value>) {
    let mut said = fields.get(SAID).and_then(Value::as_u64).unwrap_or(0);
    let before = said;
    fields.retain(|key, value| {
        let Some(at) = DEFAULTS.iter().position(|(name, _)| *name == key.as_str()) else { return true };
        let short = match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.len() <= 2,
            _ => true,
        };
        let is_default = short && serde_json::to_string(value).is_ok_and(|text| text == DEFAULTS[at].1);
        said |= u64::from(is_default) << at;
        !is_default
    });
    if said != before {
        fields.insert(SAID.to_owned(), said.into());
    }
}

/// What stands around an answer's output, whole or in a stream's lifecycle events.
pub struct Frame<'a> {
    pub id: &'a str,
    pub model: &'a str,
    pub created: Option<i64>,
    pub service_tier: Option<&'a str>,
    pub extra: &'a Extra,
    pub view: &'a ClientView,
}

impl Frame<'_> {
    /// While it runs: no output, no usage.
    pub fn running(&self) -> Told<'_> {
        self.write("in_progress", Value::Null, b"[]".to_vec(), Said::Made(Value::Null), None)
    }

    /// `output`: the items' list as it is written.
    pub fn over(
        &self,
        output: Vec<u8>,
        finish: Option<&Finish>,
        refused: bool,
        usage: Option<&Usage>,
        beside: Vec<Value>,
    ) -> Told<'_> {
        let (word, details) = status(finish, refused);
        let usage = usage.map_or(Said::Made(Value::Null), |usage| Said::Written(told_usage(usage).bytes()));
        self.write(word, details, output, usage, answer_specific(finish, beside))
    }

    fn write(
        &self,
        status: &'static str,
        details: Value,
        output: Vec<u8>,
        usage: Said<'static>,
        specific: Option<Value>,
    ) -> Told<'_> {
        let Frame { id, model, created, service_tier, extra, view } = *self;
        let began = created.unwrap_or(view.now);
        let over = status != "in_progress";
        let mut fields = Vec::with_capacity(32);
        let mut tell = |key, said| fields.push((key, said));
        tell("id", Said::Word(id));
        tell("object", Said::Word("response"));
        tell("created_at", Said::Made(began.into()));
        tell("status", Said::Word(status));
        tell("error", Said::Made(Value::Null));
        tell("incomplete_details", Said::Made(details));
        tell("model", Said::Word(if model.is_empty() { &view.model } else { model }));
        tell("output", Said::Written(output));
        tell("usage", usage);
        if let Some(tier) = service_tier {
            tell("service_tier", Said::Word(tier_word(tier)));
        }
        if let Some(specific) = specific {
            tell(SPECIFIC, Said::Made(specific));
        }
        let mut told = Told { status, fields, said: mark(extra, SAID).and_then(Value::as_u64).unwrap_or(0) };
        for (key, value) in extra.of(F).into_iter().flatten() {
            if !key.starts_with('$') && !told.has(key) {
                told.fields.push((key, Said::Lent(value)));
            }
        }
        // What the request said comes back in every answer, and the SDKs' types require the rest.
        for (key, value) in view.echo.iter().flat_map(|echo| echo.iter()) {
            if !told.has(key) {
                let said = if key == "tools" { Said::Made(told_tools(value)) } else { Said::Lent(value) };
                told.fields.push((key, said));
            }
        }
        if !told.has("completed_at") {
            let at = if over { view.now.max(began).into() } else { Value::Null };
            told.fields.push(("completed_at", Said::Made(at)));
        }
        told
    }
}

/// An answer's fields. What nobody said stands in its bytes as `DEFAULTS` has it.
pub struct Told<'a> {
    pub status: &'static str,
    /// So few that looking through them is cheaper than a table.
    fields: Vec<(&'a str, Said<'a>)>,
    /// Which of `DEFAULTS` the answer itself said.
    said: u64,
}

enum Said<'a> {
    Word(&'a str),
    Made(Value),
    Lent(&'a Value),
    Written(Vec<u8>),
}

impl Told<'_> {
    fn has(&self, key: &str) -> bool {
        let default = || DEFAULTS.iter().position(|(name, _)| *name == key);
        self.said > 0 && default().is_some_and(|at| self.said & 1 << at > 0) || self.tells(key)
    }

    fn tells(&self, key: &str) -> bool {
        self.fields.iter().any(|(name, _)| *name == key)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let written = |(_, said): &(&str, Said<'_>)| if let Said::Written(bytes) = said { bytes.len() } else { 0 };
        let mut out = Vec::with_capacity(ROOM + self.fields.iter().map(written).sum::<usize>());
        for (n, (key, said)) in self.fields.iter().enumerate() {
            out.push(if out.is_empty() { b'{' } else { b',' });
            match n < OWN {
                true => ["\"", key, "\""].iter().for_each(|piece| out.extend_from_slice(piece.as_bytes())),
                false => written::text(key, &mut out),
            }
            out.push(b':');
            match said {
                Said::Word(word) => written::text(word, &mut out),
                Said::Made(value) => written::value(value, &mut out),
                Said::Lent(value) => written::value(value, &mut out),
                Said::Written(bytes) => out.extend_from_slice(bytes),
            }
        }
        let others = &self.fields[OWN..];
        for (key, value) in DEFAULTS.iter().filter(|(key, _)| others.iter().all(|(other, _)| other != key)) {
            for piece in [",\"", key, "\":", value] {
                out.extend_from_slice(piece.as_bytes());
            }
        }
        out.push(b'}');
        out
    }
}

/// Tools as answers repeat them: every field of a function, told or not.
fn told_tools(tools: &Value) -> Value {
    let Value::Array(tools) = tools else { return tools.clone() };
    let told = tools.iter().cloned().map(|mut tool| {
        if let Some(function) = tool.as_object_mut().filter(|t| t.get("type").is_some_and(|kind| kind == "function")) {
            for key in ["description", "parameters", "strict"] {
                function.entry(key).or_insert(Value::Null);
            }
        }
        tool
    });
    Value::Array(told.collect())
}

/// A note of which `DEFAULTS` an answer said, a bit each: what it said itself is not told by what was asked.
pub const SAID: &str = "$said";

/// The first fields of each answer, `id` to `usage`: none of them has a default.
const OWN: usize = 9;

/// What stands around an answer's output.
pub const ROOM: usize = 1500;

/// What an answer says where nobody said otherwise: clients check that every field is there.
const DEFAULTS: [(&str, &str); 22] = [
    ("background", "false"),
    ("frequency_penalty", "0.0"),
    ("instructions", "null"),
    ("max_output_tokens", "null"),
    ("max_tool_calls", "null"),
    ("metadata", "{}"),
    ("parallel_tool_calls", "true"),
    ("presence_penalty", "0.0"),
    ("previous_response_id", "null"),
    ("prompt_cache_key", "null"),
    ("reasoning", r#"{"effort":null,"summary":null}"#),
    ("safety_identifier", "null"),
    ("service_tier", "\"default\""),
    ("store", "false"),
    ("temperature", "1.0"),
    ("text", r#"{"format":{"type":"text"}}"#),
    ("tool_choice", "\"auto\""),
    ("tools", "[]"),
    ("top_logprobs", "0"),
    ("top_p", "1.0"),
    ("truncation", "\"disabled\""),
    ("user", "null"),
];

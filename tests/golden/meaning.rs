//! What must survive a way through another format: the meaning of requests and answers, without the parts that formats
//! are free to write differently (ids, block borders in requests, key order).

use std::collections::BTreeSet;

use portcullis::model::{
    Choice, Citation, Format, Media, MediaKind, MediaSource, Message, Output, Part, Request, Response, Role, Tool,
    ToolChoice, ToolKind, Usage,
};
use serde_json::Value;

/// Named facts that can be compared one by one.
pub type Facts = Vec<(&'static str, Vec<String>)>;

/// Facts of `before` that `after` does not have, in words.
pub fn lost(before: &Facts, after: &Facts, skip: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut out = Vec::new();
    for ((name, was), (_, is)) in before.iter().zip(after) {
        // Where a document came from may stand before its words.
        let said = matches!(*name, "turns" | "tool results");
        if was != is && !skip(name) && !(said && contains(is, was)) {
            out.push(format!("{name}: was {}, is {}", short(was), short(is)));
        }
    }
    out
}

/// Everything said is still there, by the same speakers in the same order, with notes of the gateway's own between.
fn contains(is: &[String], was: &[String]) -> bool {
    is.len() == was.len()
        && is.iter().zip(was).all(|(is, was)| {
            let is = is.replace(BORDER, "");
            let mut rest = is.as_str();
            was.split(BORDER).all(|piece| match rest.find(piece) {
                Some(at) => {
                    rest = &rest[at + piece.len()..];
                    true
                }
                None => false,
            })
        })
}

/// Between the pieces of a turn.
const BORDER: char = '\u{1f}';

fn short(list: &[String]) -> String {
    let text = format!("{list:?}");
    if text.chars().count() > 400 { text.chars().take(400).chain("…".chars()).collect() } else { text }
}

pub fn of_request(request: &Request, own: Format) -> Facts {
    let choice = request.tool_choice.clone().map(plain_choice);
    let allowed = match &request.tool_choice {
        Some(ToolChoice::Allowed { names, .. }) if names.len() > 1 => Some(names.clone()),
        _ => None,
    };
    let mut walk = Walk::default();
    let leading = request.messages.iter().take_while(|m| is_system(m)).count();
    let system: String = request.messages[..leading].iter().map(|m| squeeze(&m.joined_text())).collect();
    for message in &request.messages[leading..] {
        walk.message(message, own);
    }
    let (mut tools, mut descriptions) = (Vec::new(), Vec::new());
    for tool in &request.tools {
        match tool {
            Tool::Function(f) if allowed.as_ref().is_none_or(|names| names.contains(&f.name)) => {
                let shape = if f.custom { ".input!".to_owned() } else { schema_shape(f.parameters.as_ref()) };
                tools.push(format!("{} {shape}", f.name));
                // Some wires refuse empty ones, which say nothing.
                descriptions.extend(f.description.clone().filter(|text| !text.is_empty()));
                descriptions.extend(if f.custom { Vec::new() } else { schema_descriptions(f.parameters.as_ref()) });
            }
            Tool::Function(_) => {}
            Tool::Hosted { kind, .. } => tools.push(format!("hosted {kind}")),
        }
    }
    vec![
        ("system", vec![system]),
        ("turns", walk.turns.into_iter().map(|(who, text)| format!("{who} {text}")).collect()),
        ("tool calls", walk.calls.iter().map(|(_, call)| call.clone()).collect()),
        ("tool results", walk.results),
        ("media", walk.media),
        ("own signatures", walk.signatures),
        ("tools", tools),
        ("tool descriptions", descriptions),
        // What is the rule need not be said.
        ("tool_choice", choice.into_iter().filter(|choice| choice != "auto").collect()),
        ("output", request.output.iter().map(output).collect()),
    ]
}

/// Knobs by the name under which they may be dropped.
pub fn knobs(request: &Request) -> Facts {
    let s = &request.sampling;
    let one = |v: Option<String>| v.into_iter().collect();
    vec![
        ("temperature", one(s.temperature.map(|v| v.to_string()))),
        ("top_p", one(s.top_p.map(|v| v.to_string()))),
        ("top_k", one(s.top_k.map(|v| v.to_string()))),
        ("frequency_penalty", one(s.frequency_penalty.map(|v| v.to_string()))),
        ("presence_penalty", one(s.presence_penalty.map(|v| v.to_string()))),
        ("seed", one(s.seed.map(|v| v.to_string()))),
        ("stop", s.stop.clone()),
        ("logit_bias", one(s.logit_bias.as_ref().map(|v| format!("{v:?}")))),
        ("n", one(request.n.filter(|n| *n > 1).map(|v| v.to_string()))),
        ("max_tokens", one(request.max_tokens.map(|v| v.to_string()))),
        ("user", one(request.user.clone())),
        ("verbosity", one(request.verbosity.clone())),
        ("stream", vec![request.stream.to_string()]),
        (
            "reasoning_effort",
            one(request
                .reasoning
                .as_ref()
                .filter(|r| r.effort.is_some() || r.budget.is_some())
                .map(|_| "asked".to_owned())),
        ),
        ("parallel_tool_calls", one(request.parallel_tool_calls.filter(|p| !p).map(|p| p.to_string()))),
    ]
}

#[derive(Default)]
struct Walk {
    turns: Vec<(char, String)>,
    /// (id, call)
    calls: Vec<(String, String)>,
    answered: usize,
    results: Vec<String>,
    media: Vec<String>,
    signatures: Vec<String>,
}

impl Walk {
    fn message(&mut self, message: &Message, own: Format) {
        let who = if message.role == Role::Assistant { 'a' } else { 'u' };
        for part in &message.parts {
            match part {
                Part::Text(t) => self.text(who, &t.text),
                Part::Refusal(t) => self.text(who, t),
                Part::Media(media) => self.media(who, media),
                Part::ToolCall(call) => {
                    let call_fact = format!("{} {}", call.name, arguments(&call.arguments, call.kind));
                    self.calls.push((call.id.clone(), call_fact));
                }
                Part::ToolResult(result) => {
                    // Which call it answers: the same id may have been used in earlier turns.
                    let at = self.calls.iter().rposition(|(id, _)| *id == result.call_id);
                    let mut text = String::new();
                    for part in &result.parts {
                        match part {
                            Part::Text(t) => text.push_str(&squeeze(&t.text)),
                            Part::Media(media) => match document_text(media) {
                                // What was found says where; wires without blocks for it say so before its words.
                                Some(words) => {
                                    let place = media
                                        .context
                                        .iter()
                                        .chain(media.name.iter().filter(|_| media.context.is_some()));
                                    place.for_each(|said| text.push_str(&squeeze(said)));
                                    text.push_str(&squeeze(&words));
                                }
                                None => self.media(who, media),
                            },
                            other => text.push_str(&format!("{other:?}")),
                        }
                    }
                    self.results.push(format!("{at:?} {BORDER}{}", result_text(&text)));
                    self.answered += 1;
                }
                Part::Reasoning(r) => {
                    for s in r.signature.iter().chain(&r.sealed).filter(|s| s.origin == own) {
                        self.signatures.push(s.data.clone());
                    }
                }
                Part::Native { format, kind, .. } => self.text(who, &format!("[{} {kind}]", format.name())),
            }
        }
    }

    /// A document of text may go on as text: then only its words count.
    fn media(&mut self, who: char, media: &Media) {
        if media.kind == MediaKind::Document {
            self.text(who, media.context.as_deref().unwrap_or_default());
        }
        match document_text(media) {
            Some(text) => self.text(who, &text),
            None => self.media.push(media_fact(media)),
        }
    }

    /// Neighbours of one speaker are one turn; white space at borders is free.
    fn text(&mut self, who: char, text: &str) {
        let text = squeeze(&text.replace("<system>", "").replace("</system>", ""));
        if text.is_empty() {
            return;
        }
        match self.turns.last_mut() {
            Some((last, all)) if *last == who => {
                all.push(BORDER);
                all.push_str(&text);
            }
            _ => self.turns.push((who, text)),
        }
    }
}

fn is_system(message: &Message) -> bool {
    matches!(message.role, Role::System | Role::Developer)
}

fn squeeze(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// A wire that takes objects only wraps text in one.
fn result_text(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(map)) if map.len() == 1 => match map.iter().next() {
            Some((key, Value::String(inner))) if matches!(key.as_str(), "result" | "output" | "error") => inner.clone(),
            _ => text.to_owned(),
        },
        _ => text.to_owned(),
    }
}

fn arguments(text: &str, kind: ToolKind) -> String {
    if kind == ToolKind::Custom {
        return serde_json::json!({"input": text}).to_string();
    }
    match serde_json::from_str::<Value>(if text.trim().is_empty() { "{}" } else { text }) {
        Ok(value @ Value::Object(_)) => sorted(&value),
        _ => sorted(&serde_json::json!({"arguments": text})),
    }
}

/// JSON with sorted keys: formats may reorder an object, nothing more.
pub fn sorted(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<String> = map.iter().map(|(k, v)| format!("{k:?}:{}", sorted(v))).collect();
            entries.sort();
            format!("{{{}}}", entries.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(sorted).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

fn media_fact(media: &Media) -> String {
    let source = match &media.source {
        MediaSource::Base64(data) => format!("bytes {data}"),
        // Of a URL without a type a wire may not tell what it is.
        MediaSource::Url(url) => return format!("url {url}"),
        MediaSource::File { format, id } => format!("file {} {id}", format.name()),
        MediaSource::Text(text) => format!("text {text}"),
        MediaSource::Parts(parts) => format!("parts {parts:?}"),
    };
    format!("{:?} {source}", media.kind)
}

fn document_text(media: &Media) -> Option<String> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    match &media.source {
        MediaSource::Text(text) => Some(text.clone()),
        MediaSource::Parts(parts) => {
            parts.iter().map(|p| if let Part::Text(t) = p { Some(t.text.clone()) } else { None }).collect()
        }
        MediaSource::Base64(data) if media.mime.as_deref().is_some_and(|m| m.starts_with("text/")) => {
            BASE64_STANDARD.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok())
        }
        _ => None,
    }
}

fn plain_choice(choice: ToolChoice) -> String {
    match choice {
        ToolChoice::Allowed { names, required: true } if names.len() == 1 => format!("tool {}", names[0]),
        ToolChoice::Tool { name, custom: _ } => format!("tool {name}"),
        ToolChoice::Required | ToolChoice::Allowed { required: true, .. } => "required".to_owned(),
        ToolChoice::Auto | ToolChoice::Allowed { required: false, .. } => "auto".to_owned(),
        ToolChoice::None => "none".to_owned(),
    }
}

fn output(output: &Output) -> String {
    match output {
        Output::Text => "text".to_owned(),
        Output::Json => "json".to_owned(),
        Output::Schema { schema, .. } => format!("schema {}", schema_shape(Some(schema))),
    }
}

/// Property names at every depth, and which of them are required: what a wire may not change whatever it does to
/// keywords.
fn schema_shape(schema: Option<&Value>) -> String {
    let mut names = BTreeSet::new();
    if let Some(schema) = schema {
        walk_schema(schema, "", &mut names);
    }
    names.into_iter().collect::<Vec<_>>().join(" ")
}

fn walk_schema(schema: &Value, path: &str, out: &mut BTreeSet<String>) {
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let mark = if required.contains(&name.as_str()) { "!" } else { "" };
        out.insert(format!("{path}.{name}{mark}"));
        walk_schema(inner, &format!("{path}.{name}"), out);
    }
    if let Some(items) = schema.get("items") {
        walk_schema(items, &format!("{path}[]"), out);
    }
}

fn schema_descriptions(schema: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    let properties = schema.and_then(|s| s.get("properties")).and_then(Value::as_object);
    for inner in properties.into_iter().flatten().map(|(_, inner)| inner) {
        // Keywords that a wire refuses may be told in the description, behind what stood there.
        let text = inner.get("description").and_then(Value::as_str);
        out.extend(text.map(|t| t.split(" (").next().unwrap_or(t).to_owned()).filter(|t| !t.starts_with('(')));
        out.extend(schema_descriptions(Some(inner)));
    }
    out
}

pub fn of_response(response: &Response) -> Facts {
    let mut facts = response.choices.first().map_or_else(|| of_choice(&Choice::default()), of_choice);
    facts.push(("usage", response.usage.iter().map(usage).collect()));
    facts.push((
        "cache writes",
        response.usage.iter().filter_map(|u| u.cache_write_tokens).filter(|n| *n > 0).map(|n| n.to_string()).collect(),
    ));
    facts
}

fn of_choice(choice: &Choice) -> Facts {
    let (mut text, mut reasoning) = (String::new(), String::new());
    let (mut calls, mut signatures, mut citations, mut media) = (Vec::new(), Vec::new(), BTreeSet::new(), Vec::new());
    let mut sign = |s: Option<&portcullis::model::Signature>| {
        signatures.extend(s.map(|s| format!("{} {}", s.origin.name(), s.data)));
    };
    for part in &choice.parts {
        match part {
            Part::Text(t) => {
                text.push_str(&t.text);
                citations.extend(t.citations.iter().filter_map(url_citation));
                sign(t.signature.as_ref());
            }
            Part::Refusal(t) => text.push_str(t),
            Part::Reasoning(r) => {
                reasoning.push_str(&r.text);
                sign(r.signature.as_ref());
                sign(r.sealed.as_ref());
            }
            Part::ToolCall(call) => {
                calls.push(format!("{} {}", call.name, arguments(&call.arguments, call.kind)));
                sign(call.signature.as_ref());
            }
            Part::Media(m) => media.push(media_fact(m)),
            Part::ToolResult(_) | Part::Native { .. } => {}
        }
    }
    let refused = choice.parts.iter().any(|p| matches!(p, Part::Refusal(_)));
    let finish =
        choice.finish.as_ref().map(|f| if refused { "ContentFilter".to_owned() } else { format!("{:?}", f.reason) });
    vec![
        ("text", vec![text]),
        ("tool calls", calls),
        ("reasoning", vec![reasoning]),
        ("signatures", signatures),
        ("citations", citations.into_iter().collect()),
        ("media", media),
        ("finish", finish.into_iter().collect()),
    ]
}
/// A wire that requires a title repeats the address there.
fn url_citation(citation: &Citation) -> Option<String> {
    citation
        .url
        .as_ref()
        .map(|url| format!("{url} {}", citation.title.as_deref().filter(|t| !t.is_empty()).unwrap_or(url)))
}

/// Figures that are zero or unknown say the same about cost.
fn usage(usage: &Usage) -> String {
    let n = |v: Option<u64>| v.unwrap_or(0);
    format!(
        "in {} out {} cached {} reasoning {}",
        n(usage.input_tokens),
        n(usage.output_tokens),
        n(usage.cache_read_tokens),
        n(usage.reasoning_tokens)
    )
}

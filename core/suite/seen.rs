//! An outcome as cases speak of it: the client's bytes read back into text, tool calls and events, the trace into verdicts
//! and notes. Knows no expectation.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{
    codec::{Dialect, codec},
    context::{Step, Verdict},
    error::Error,
    model::{Delta, Event, Format, Operation, Part, PartStart, Response, fold::Fold},
    rehearse::Put,
    rehearse::{Outcome, Scene},
};

/// What a client made of its answer.
#[derive(Debug, Default)]
pub struct Seen {
    pub text: Option<String>,
    pub reasoning: Option<String>,
    pub tool_calls: Vec<Value>,
    pub finish: Option<&'static str>,
    /// Of a stream; of a whole answer the events that it stands for.
    pub events: Vec<Value>,
    /// Refused, or broken off with an error.
    pub error: Option<Error>,
}

impl Seen {
    pub fn of(scene: &Scene, outcome: &Outcome) -> Seen {
        let format = scene.format;
        if outcome.status >= 400 {
            let headers = &outcome.headers;
            let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let mut error = codec(format).decode_error(outcome.status, &header, &outcome.body);
            read_message(&outcome.body, &mut error);
            return Seen { error: Some(error), ..Seen::default() };
        }
        if scene.operation != Operation::Chat {
            return Seen::default();
        }
        let kind = outcome.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (events, error) = if kind.starts_with(crate::codec::JSON) && !outcome.record.stream {
            match codec(format).decode_response(&outcome.body) {
                Ok(response) => (crate::model::fold::unfold(&response), None),
                Err(error) => (Vec::new(), Some(error)),
            }
        } else {
            streamed(format, &outcome.body)
        };
        let mut seen = Seen { error, events: shown(&events), ..Seen::default() };
        if let Some(error) = &seen.error {
            seen.events.push(json!({ "error": error.message }));
        }
        let mut fold = Fold::default();
        events.into_iter().for_each(|event| fold.push(event));
        seen.answer(&fold.finish());
        seen
    }

    fn answer(&mut self, response: &Response) {
        let Some(choice) = response.choices.first() else { return };
        self.text = Some(choice.text());
        let thoughts: String = choice
            .parts
            .iter()
            .filter_map(|p| if let Part::Reasoning(r) = p { Some(r.text.as_str()) } else { None })
            .collect();
        self.reasoning = Some(thoughts);
        self.finish = choice.finish.as_ref().map(|finish| finish.reason.name());
        let calls = choice.parts.iter().filter_map(|p| if let Part::ToolCall(call) = p { Some(call) } else { None });
        self.tool_calls = calls
            .map(|call| {
                let text = || Value::String(call.arguments.clone());
                let arguments = serde_json::from_str(&call.arguments).unwrap_or_else(|_| text());
                json!({ "id": call.id, "name": call.name, "arguments": arguments })
            })
            .collect();
    }
}

fn streamed(format: Format, bytes: &Bytes) -> (Vec<Event>, Option<Error>) {
    let mut decoder = codec(format).stream_decoder(&Dialect::of(""), MOST_EVENT);
    let mut events = Vec::new();
    let end = decoder.push(bytes, &mut events).and_then(|()| decoder.finish(&mut events));
    let error = end.err().map(|mut error| {
        read_message(bytes, &mut error);
        error
    });
    (events, error)
}

/// A codec reads an error as an upstream's, whose words it may not pass on; a client reads what stands there: in a body, or in
/// the last frame of a stream that has an error in it.
fn read_message(bytes: &[u8], error: &mut Error) {
    let message = |line: &str| {
        let value: Value = serde_json::from_str(line.trim_start_matches("data:").trim()).ok()?;
        let value = if value.is_array() { &value[0] } else { &value };
        let told = [&value["error"]["message"], &value["error"], &value["message"]];
        told.into_iter().find_map(Value::as_str).map(str::to_owned)
    };
    let text = String::from_utf8_lossy(bytes);
    if let Some(told) = message(&text).or_else(|| text.lines().rev().find_map(message)) {
        error.message = told;
    }
}

/// As an answer's `events` are written.
fn shown(events: &[Event]) -> Vec<Value> {
    let mut kinds: Vec<(u32, &'static str)> = Vec::new();
    let mut out = Vec::new();
    for event in events {
        match event {
            Event::PartStart { index, part, .. } => {
                let kind = match part {
                    PartStart::Reasoning { .. } => "reasoning",
                    PartStart::ToolCall { name, .. } => {
                        out.push(json!({ "tool": name }));
                        "arguments"
                    }
                    PartStart::Refusal => "refusal",
                    _ => "text",
                };
                kinds.push((*index, kind));
            }
            Event::Delta { index, delta: Delta::Text(text), .. } => {
                let kind = kinds.iter().rev().find(|(known, _)| known == index).map_or("text", |(_, kind)| *kind);
                out.push(json!({ kind: text }));
            }
            Event::Finish { finish, .. } => out.push(json!({ "finish": finish.reason.name() })),
            _ => {}
        }
    }
    out
}

/// Verdicts of stages, with their reasons.
pub fn verdicts(outcome: &Outcome) -> Vec<(&'static str, Option<String>)> {
    let word = |verdict: &Verdict| match verdict {
        Verdict::Continue => ("continue", None),
        Verdict::Respond => ("respond", None),
        Verdict::Reject(_) => ("reject", None),
        Verdict::Next(why) => ("next", Some(why.to_string())),
        Verdict::Skip => ("skip", None),
        Verdict::Stop(why) => ("stop", Some(why.to_string())),
        Verdict::Failed(why) => ("failed", Some(why.to_string())),
    };
    let steps = outcome.trace.steps.iter();
    steps.filter_map(|step| if let Step::Stage { verdict, .. } = step { Some(word(verdict)) } else { None }).collect()
}

/// What stages asked, and what came of it.
pub fn questions(outcome: &Outcome) -> Vec<Value> {
    let told = |put: &Put| {
        json!({
            "model": put.model,
            "target": put.target.as_deref(),
            "status": put.status,
            "code": put.code,
            "system": put.system,
            "prompt": put.prompt,
            "texts": put.texts,
            "text": put.text,
        })
    };
    outcome.questions.iter().map(told).collect()
}

/// Of stages: the gateway's own notes, and what it tells of their questions, are not theirs.
pub fn notes(outcome: &Outcome) -> Vec<String> {
    let steps = outcome.trace.steps.iter();
    let told = |text: &str| outcome.questions.iter().any(|put| put.note == text);
    let note = |step: &Step| match step {
        Step::Note { stage, text, .. } if stage.contains(['/', '.']) && !told(text) => Some(text.clone()),
        _ => None,
    };
    steps.filter_map(note).collect()
}

/// The last order that was planned.
pub fn planned(outcome: &Outcome) -> Vec<String> {
    let steps = outcome.trace.steps.iter().rev();
    let planned =
        steps.filter_map(|step| if let Step::Planned { targets } = step { Some(targets) } else { None }).next();
    planned.into_iter().flatten().map(ToString::to_string).collect()
}

/// Names that a stage chose in place of the strategy's order.
pub fn chosen(outcome: &Outcome) -> Option<Vec<String>> {
    let steps = outcome.trace.steps.iter().rev();
    let mut chosen = steps.filter_map(|step| if let Step::Chosen { names } = step { Some(names) } else { None });
    chosen.next().map(|names| names.iter().map(ToString::to_string).collect())
}

pub fn attempts(outcome: &Outcome) -> Vec<Value> {
    let steps = outcome.trace.steps.iter();
    let attempt = |step: &Step| match step {
        Step::Attempt { target, outcome, .. } => Some(json!({ "target": **target, "outcome": **outcome })),
        _ => None,
    };
    steps.filter_map(attempt).collect()
}

pub fn passed_over(outcome: &Outcome) -> Map<String, Value> {
    let steps = outcome.trace.steps.iter();
    let passed = |step: &Step| match step {
        Step::PassedOver { target, reason, .. } => Some((target.to_string(), Value::String(reason.to_string()))),
        _ => None,
    };
    steps.filter_map(passed).collect()
}

/// Of one event of the client's.
const MOST_EVENT: usize = 64 << 20;

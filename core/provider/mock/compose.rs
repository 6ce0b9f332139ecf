//! What the mock says: a canonical answer to a canonical request, and the events that make it. No bytes here.

use serde_json::{Value, json};

use super::{
    control::{Control, Counts, without},
    seed as hash, shape,
};
use crate::{
    error::{Error, Result},
    model::{
        Choice, Delta, EmbeddingInput, EmbeddingRequest, EmbeddingResponse, Event, Finish, FinishReason, Format,
        LogprobsAsk, Output, Part, Reasoning, Request, Response, Role, Signature, Tool, ToolCall, ToolChoice, ToolKind,
        Usage, fold, tool::Function,
    },
};

pub(super) fn response(request: &Request, control: &Control, format: Format, seed: u64) -> Response {
    let mut parts = Vec::new();
    if control.reasoning || wants_reasoning(request) {
        parts.push(reasoning(request, format));
    }
    let (answer, mut finish) = answer(request, control, format, seed);
    parts.extend(answer);
    if let Some(reason) = control.finish {
        finish = Finish::new(reason, raw(reason, format));
    }
    let usage = usage(request, &parts, control);
    let count = request.n.unwrap_or(1).clamp(1, MOST_CHOICES) as u32;
    let logprobs = request.logprobs.as_ref().filter(|_| format == Format::OpenaiChat).map(|ask| logprobs(&parts, ask));
    let choice = |index| Choice {
        index,
        parts: parts.clone(),
        finish: Some(finish.clone()),
        logprobs: logprobs.clone(),
        ..Choice::default()
    };
    Response {
        id: match format {
            Format::OpenaiChat => format!("chatcmpl-mock{seed:016x}"),
            Format::AnthropicMessages => format!("msg_mock{seed:016x}"),
            Format::OpenaiResponses => format!("resp_mock{seed:016x}"),
            Format::Gemini | Format::BedrockConverse | Format::Cohere | Format::Ollama => format!("mock{seed:016x}"),
        },
        model: request.model.clone(),
        created: Some(CREATED),
        choices: (0..count).map(choice).collect(),
        usage: Some(usage),
        ..Response::default()
    }
}

/// As a stream says it: text word by word, arguments in pieces.
pub(super) fn events(response: &Response) -> Vec<Event> {
    let mut out = Vec::new();
    for event in fold::unfold(response) {
        match event {
            Event::Delta { choice, index, delta: Delta::Text(text) } => {
                let pieces = words(&text).into_iter().map(|w| Event::Delta { choice, index, delta: Delta::Text(w) });
                out.extend(pieces);
            }
            // Writing the end is the encoder's own `finish`.
            Event::End => {}
            other => out.push(other),
        }
    }
    out
}

pub(super) fn last_user_text(request: &Request) -> String {
    let last = request.messages.iter().rev().find(|m| m.role == Role::User && !m.joined_text().is_empty());
    last.map(|m| m.joined_text()).unwrap_or_default()
}

/// About four characters a token.
pub(super) fn input_tokens(request: &Request) -> u64 {
    let bytes: usize = request.messages.iter().flat_map(|m| &m.parts).map(part_bytes).sum();
    tokens(bytes)
}

pub(super) fn embedding_text(request: &EmbeddingRequest) -> String {
    match request.inputs.first() {
        Some(EmbeddingInput::Text(text)) => text.clone(),
        Some(EmbeddingInput::Tokens(_) | EmbeddingInput::Native { .. }) | None => String::new(),
    }
}

pub(super) fn vectors(request: &EmbeddingRequest, control: &Control) -> Result<EmbeddingResponse> {
    let dimensions = request.dimensions.unwrap_or(DIMENSIONS);
    if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
        let message = format!("`dimensions` must be from 1 to {MOST_DIMENSIONS} here");
        return Err(Error::invalid("dimensions", message));
    }
    let mut bytes = 0;
    let vectors = request
        .inputs
        .iter()
        .map(|input| {
            let text = match input {
                EmbeddingInput::Text(text) => text.clone().into_bytes(),
                EmbeddingInput::Tokens(list) => list.iter().flat_map(|t| (*t as u32).to_le_bytes()).collect(),
                EmbeddingInput::Native { value, .. } => value.to_string().into_bytes(),
            };
            bytes += text.len();
            unit(hash(&text), dimensions as usize)
        })
        .collect();
    let input = control.usage.map_or(tokens(bytes), |u| u.input);
    let usage = Usage { input_tokens: Some(input), ..Usage::default() };
    Ok(EmbeddingResponse { model: request.model.clone(), vectors, usage: Some(usage), ..EmbeddingResponse::default() })
}

fn answer(request: &Request, control: &Control, format: Format, seed: u64) -> (Vec<Part>, Finish) {
    let asked = without(&last_user_text(request));
    let calls = called(request, control, &asked);
    if !calls.is_empty() {
        let calls = calls.iter().enumerate().map(|(at, f)| call(f, &asked, format, seed, at)).collect();
        return (calls, Finish::new(FinishReason::ToolCalls, raw(FinishReason::ToolCalls, format)));
    }
    let text = match (&control.text, control.tokens, &request.output) {
        (Some(text), _, _) => text.clone(),
        (None, Some(count), _) => spoken(count),
        (None, None, Some(Output::Schema { schema, .. })) => shape::fill(schema, "mock").to_string(),
        (None, None, Some(Output::Json)) => json!({ "model": request.model, "heard": shorten(&asked) }).to_string(),
        (None, None, Some(Output::Text) | None) => heard(request, &asked),
    };
    let (text, finish) = bounded(text, request, format);
    (vec![Part::text(text)], finish)
}

fn heard(request: &Request, asked: &str) -> String {
    let name = request.model.strip_prefix("mock/").unwrap_or(&request.model);
    match (tool_answer(request), remembered(request, asked)) {
        (Some(result), _) => format!("mock/{name} read the tool's answer: {}", shorten(&result)),
        (None, Some(told)) => format!("mock/{name} remembers: {}", shorten(&told)),
        (None, None) => format!("mock/{name} heard: {}", shorten(asked)),
    }
}

/// `What is my NAME?` is answered from the last turn that said `My NAME is …`.
fn remembered(request: &Request, asked: &str) -> Option<String> {
    let lower = asked.to_ascii_lowercase();
    let (_, rest) = lower.split_once("what is my ")?;
    let thing = rest.split(|c: char| !c.is_alphanumeric()).next().filter(|thing| !thing.is_empty())?;
    let said = format!("my {thing} is ");
    request.messages.iter().rev().filter(|m| m.role == Role::User).find_map(|m| {
        let text = m.joined_text();
        // ASCII alone changes its case here: places stay the same.
        let at = text.to_ascii_lowercase().find(&said)? + said.len();
        text[at..]
            .split(['.', ',', ';', '!', '?', '\n'])
            .next()
            .map(|told| told.trim().to_owned())
            .filter(|t| !t.is_empty())
    })
}

/// Stop sequences and the token bound act as they would upstream.
fn bounded(mut text: String, request: &Request, format: Format) -> (String, Finish) {
    let mut finish = Finish::new(FinishReason::Stop, raw(FinishReason::Stop, format));
    let stops = request.sampling.stop.iter().filter(|s| !s.is_empty());
    if let Some((at, stop)) = stops.filter_map(|s| text.find(s.as_str()).map(|at| (at, s.clone()))).min() {
        text.truncate(at);
        if format == Format::AnthropicMessages {
            "stop_sequence".clone_into(&mut finish.raw);
        }
        finish.stop_sequence = Some(stop);
    }
    if let Some(most) = request.max_tokens {
        let all = words(&text);
        if (all.len() as u64) > most {
            text = all[..most as usize].concat();
            finish = Finish::new(FinishReason::Length, raw(FinishReason::Length, format));
        }
    }
    (text, finish)
}

/// The tools to call: the forced one, those that the steering or the last user text names. None when a tool has answered.
fn called<'a>(request: &'a Request, control: &Control, asked: &str) -> Vec<&'a Function> {
    let functions: Vec<_> = request
        .tools
        .iter()
        .filter_map(|t| match t {
            Tool::Function(function) => Some(function),
            Tool::Hosted { .. } => None,
        })
        .collect();
    let named = |name: &str| functions.iter().copied().find(|f| f.name == name);
    if let Some(name) = &control.tool {
        return named(name).into_iter().collect();
    }
    let answered = tool_answer(request).is_some();
    let allowed = |f: &&'a Function| match &request.tool_choice {
        Some(ToolChoice::Allowed { names, .. }) => names.contains(&f.name),
        _ => true,
    };
    let mut mentioned: Vec<_> = functions.iter().copied().filter(allowed).filter(|f| asked.contains(&f.name)).collect();
    if request.parallel_tool_calls == Some(false) {
        mentioned.truncate(1);
    }
    match &request.tool_choice {
        Some(ToolChoice::None) => Vec::new(),
        Some(ToolChoice::Tool { name, .. }) => named(name).into_iter().collect(),
        Some(ToolChoice::Required | ToolChoice::Allowed { required: true, .. }) if mentioned.is_empty() => {
            functions.into_iter().find(allowed).into_iter().collect()
        }
        Some(ToolChoice::Required) => mentioned,
        _ if answered => Vec::new(),
        _ => mentioned,
    }
}

fn call(function: &Function, asked: &str, format: Format, seed: u64, at: usize) -> Part {
    let arguments = match (&function.parameters, function.custom) {
        (_, true) => shorten(asked),
        (Some(schema), false) => match shape::fill(schema, "mock") {
            object @ Value::Object(_) => object.to_string(),
            _ => "{}".to_owned(),
        },
        (None, false) => "{}".to_owned(),
    };
    let mark = seed.wrapping_add(at as u64);
    Part::ToolCall(ToolCall {
        id: match format {
            Format::OpenaiChat | Format::OpenaiResponses => format!("call_mock{mark:016x}"),
            Format::AnthropicMessages => format!("toolu_mock{mark:016x}"),
            Format::BedrockConverse => format!("tooluse_mock{mark:016x}"),
            Format::Gemini | Format::Cohere | Format::Ollama => format!("mock{mark:016x}"),
        },
        name: function.name.clone(),
        kind: if function.custom { ToolKind::Custom } else { ToolKind::Function },
        arguments,
        signature: None,
        cache: None,
        extra: Default::default(),
    })
}

/// The text of the tool results since the last answer, if there are any. Some formats put each into a message of its own,
/// and a result's media after them.
fn tool_answer(request: &Request) -> Option<String> {
    let since = request.messages.iter().rposition(|m| m.role == Role::Assistant).map_or(0, |at| at + 1);
    let texts: Vec<_> = request.messages[since..]
        .iter()
        .flat_map(|m| &m.parts)
        .filter_map(|p| match p {
            Part::ToolResult(result) => Some(result.parts.iter().map(part_text).collect::<Vec<_>>().join(" ")),
            _ => None,
        })
        .collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn wants_reasoning(request: &Request) -> bool {
    request.reasoning.as_ref().is_some_and(|r| {
        r.budget != Some(0) && r.effort.as_deref() != Some("none") && (r.effort.is_some() || r.budget.is_some())
    })
}

fn reasoning(request: &Request, format: Format) -> Part {
    let text = format!("The caller asks {} to speak. A mock repeats what it heard.", request.model);
    let signs = !matches!(format, Format::OpenaiChat | Format::Cohere | Format::Ollama);
    let signature = signs.then(|| Signature { origin: format, data: "bW9jayBzaWduYXR1cmU=".to_owned() });
    Part::Reasoning(Reasoning { text, signature, ..Reasoning::default() })
}

fn usage(request: &Request, parts: &[Part], control: &Control) -> Usage {
    let thought: usize = parts.iter().filter(|p| matches!(p, Part::Reasoning(_))).map(part_bytes).sum();
    let said: usize = parts.iter().map(part_bytes).sum();
    // A bound on tokens bounds thinking too, as it would upstream.
    let output = request.max_tokens.map_or(tokens(said), |most| tokens(said).min(most));
    let made = Counts { input: input_tokens(request), output, cached: None };
    let Counts { input, output, cached } = control.usage.unwrap_or(made);
    Usage {
        input_tokens: Some(input),
        output_tokens: Some(output),
        cache_read_tokens: cached,
        reasoning_tokens: (thought > 0).then(|| tokens(thought).min(output)),
        ..Usage::default()
    }
}

/// A word is a token here, and a sure one; what else it could have been is less likely the further down it stands.
fn logprobs(parts: &[Part], ask: &LogprobsAsk) -> Value {
    let token = |token: &str, logprob: f64| json!({ "token": token, "logprob": logprob, "bytes": token.as_bytes() });
    let text: String = parts.iter().filter(|p| matches!(p, Part::Text(_))).map(part_text).collect();
    let content = words(&text).into_iter().map(|word| {
        let others = (0..ask.top.unwrap_or(0).min(MOST_LOGPROBS)).map(|rank| match rank {
            0 => token(&word, -0.1),
            rank => token(&format!(" other{rank}"), -2.5 - rank as f64),
        });
        let mut entry = token(&word, -0.1);
        entry["top_logprobs"] = others.collect();
        entry
    });
    json!({ "content": content.collect::<Vec<_>>(), "refusal": null })
}

/// The format's own word.
fn raw(reason: FinishReason, format: Format) -> &'static str {
    match (format, reason) {
        (Format::OpenaiChat | Format::Ollama, FinishReason::Length) => "length",
        (Format::OpenaiChat, FinishReason::ToolCalls) => "tool_calls",
        (Format::OpenaiChat | Format::OpenaiResponses, FinishReason::ContentFilter) => "content_filter",
        (Format::OpenaiChat | Format::Ollama, _) => "stop",
        (Format::OpenaiResponses, FinishReason::Length) => "max_output_tokens",
        (Format::OpenaiResponses, _) => "completed",
        (Format::BedrockConverse, FinishReason::ContentFilter) => "content_filtered",
        (Format::BedrockConverse, FinishReason::Length) => "max_tokens",
        (Format::BedrockConverse, FinishReason::ToolCalls) => "tool_use",
        (Format::BedrockConverse, _) => "end_turn",
        (Format::Cohere, FinishReason::ToolCalls) => "TOOL_CALL",
        (Format::Cohere, FinishReason::ContentFilter) => "ERROR",
        (Format::Cohere, FinishReason::Length) => "MAX_TOKENS",
        (Format::Cohere, _) => "COMPLETE",
        (Format::AnthropicMessages, FinishReason::Length) => "max_tokens",
        (Format::AnthropicMessages, FinishReason::ToolCalls) => "tool_use",
        (Format::AnthropicMessages, FinishReason::ContentFilter) => "refusal",
        (Format::AnthropicMessages, _) => "end_turn",
        (Format::Gemini, FinishReason::Length) => "MAX_TOKENS",
        (Format::Gemini, FinishReason::ContentFilter) => "SAFETY",
        (Format::Gemini, _) => "STOP",
    }
}

fn part_text(part: &Part) -> String {
    match part {
        Part::Text(t) => t.text.clone(),
        Part::Refusal(text) => text.clone(),
        Part::Reasoning(r) => r.text.clone(),
        Part::ToolCall(c) => c.arguments.clone(),
        Part::ToolResult(r) => r.parts.iter().map(part_text).collect(),
        Part::Media(_) | Part::Native { .. } => String::new(),
    }
}

fn part_bytes(part: &Part) -> usize {
    match part {
        // About what vendors charge for a small picture.
        Part::Media(_) => 1024,
        other => part_text(other).len(),
    }
}

fn tokens(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(4).max(1)
}

/// Words with the space before them.
fn words(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for c in text.chars() {
        match out.last_mut() {
            Some(word) if !c.is_whitespace() || word.chars().all(char::is_whitespace) => word.push(c),
            _ => out.push(c.to_string()),
        }
    }
    out
}

fn spoken(count: usize) -> String {
    const WORDS: [&str; 8] = ["the", "gate", "opens", "and", "the", "stream", "runs", "on"];
    (0..count).map(|at| WORDS[at % WORDS.len()]).collect::<Vec<_>>().join(" ")
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MOST_ECHO) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A unit vector from a seed.
fn unit(seed: u64, dimensions: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    let raw: Vec<f64> = (0..dimensions).map(|_| random.f64() * 2.0 - 1.0).collect();
    let length = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
    if length == 0.0 {
        return raw.iter().enumerate().map(|(at, _)| if at == 0 { 1.0 } else { 0.0 }).collect();
    }
    raw.into_iter().map(|x| (x / length) as f32).collect()
}

/// 2026-01-01: the mock has no clock.
pub(super) const CREATED: i64 = 1_767_225_600;
const MOST_CHOICES: u64 = 8;
const MOST_LOGPROBS: u64 = 20;
const MOST_ECHO: usize = 2000;
const DIMENSIONS: u64 = 256;
const MOST_DIMENSIONS: u64 = 8192;

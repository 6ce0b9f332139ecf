//! Recorded traffic, when `$PORTCULLIS_CORPUS` names a file of it: read, never copied into the repository. Each record of
//! a format that is built is crossed with every format and the table printed. A fifth of the records, by hash of the id,
//! stays unread unless `$PORTCULLIS_CORPUS_ALL` is set, so that there is something left to be surprised by.

use std::{collections::BTreeMap, fs, io::Write};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use portcullis::{
    codec::{Dialect, Inbound, codec},
    model::{Format, fold::unfold},
};
use serde_json::Value;

use super::{
    answers, errors,
    requests::{self, Outcome},
    streams,
};

#[test]
#[allow(clippy::disallowed_methods, reason = "a test run is told by its environment where recordings lie")]
fn recorded_traffic_keeps_its_meaning() {
    let Ok(path) = std::env::var("PORTCULLIS_CORPUS") else {
        say("skipped: no PORTCULLIS_CORPUS");
        return;
    };
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let all = std::env::var("PORTCULLIS_CORPUS_ALL").is_ok();
    let mut table = Table::default();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let record: Value = serde_json::from_str(line).unwrap();
        let Some(format) = format_of(&record) else { continue };
        if !all && held_out(record["id"].as_str().unwrap_or_default()) {
            continue;
        }
        walk(&record, format, &mut table);
    }
    say(&table.to_string());
    super::cases::report(&table.faults);
}

fn format_of(record: &Value) -> Option<Format> {
    match record["endpoint"].as_str()? {
        "chat_completions" => Some(Format::OpenaiChat),
        "responses" => Some(Format::OpenaiResponses),
        // Other interfaces have endpoints of that name too.
        "messages" if record["path"].as_str()?.starts_with("/v1/messages") => Some(Format::AnthropicMessages),
        "generateContent" | "streamGenerateContent" => Some(Format::Gemini),
        "converse" | "converse-stream" => Some(Format::BedrockConverse),
        // Another vendor's endpoint has that name too, and an older version of this one.
        "cohere_chat" if record["path"] == "/v2/chat" => Some(Format::Cohere),
        "ollama_chat" => Some(Format::Ollama),
        _ => None,
    }
}

fn held_out(id: &str) -> bool {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    hash.is_multiple_of(5)
}

fn walk(record: &Value, format: Format, table: &mut Table) {
    let id = record["id"].as_str().unwrap_or("?");
    let status = record["status"].as_u64().unwrap_or(200) as u16;
    let failed = status >= 400;
    request(record, format, id, failed, table);
    let body = record["response_body"].as_str().unwrap_or_default();
    let bytes = match record["response_body_encoding"].as_str() {
        Some("base64") => BASE64_STANDARD.decode(body).unwrap(),
        _ => body.as_bytes().to_vec(),
    };
    if failed {
        let header = |name: &str| record["response_headers"][name].as_str().map(str::to_owned);
        let error = codec(format).decode_error(status, &header, &Bytes::from(body.to_owned()));
        for client in Format::ALL {
            table.count("errors", format, client, id, errors::told(&error, status, client));
        }
        return;
    }
    // What a provider's row would say: small local servers end their streams without a terminal.
    let terminal_optional = record["provider"] == "local_openai_compat";
    let dialect = Dialect { terminal_optional, ..Dialect::of("golden-model") };
    let (events, whole) = match record["response_kind"].as_str() {
        Some("sse" | "eventstream" | "ndjson") => match answers::decode_stream_of(format, &bytes, &dialect) {
            Ok(events) => {
                if let Err(e) = streams::survives_splits(format, &bytes, &dialect) {
                    table.faults.push(format!("{id}: {e}"));
                }
                (events.clone(), answers::fold(events))
            }
            // An error that came inside the stream, after its 200.
            Err(e) if e.upstream.is_some() => {
                let status = e.upstream.as_ref().map_or(0, |fault| fault.status);
                for client in Format::ALL {
                    table.count("errors", format, client, id, errors::told(&e, status, client));
                }
                return;
            }
            Err(e) => return table.faults.push(format!("{id}: the stream does not decode: {e}")),
        },
        Some("json") => match codec(format).decode_response(body.as_bytes()) {
            Ok(whole) => (unfold(&whole), whole),
            Err(e) => return table.faults.push(format!("{id}: the answer does not decode: {e}")),
        },
        _ => return,
    };
    for client in Format::ALL {
        table.count("answers", format, client, id, answers::whole(&whole, client));
        table.count("streams", format, client, id, answers::streamed(&events, &whole, client));
    }
}

/// A request that its own provider refused may be refused here as well.
fn request(record: &Value, format: Format, id: &str, failed: bool, table: &mut Table) {
    if !record["request_body"].is_object() {
        return;
    }
    let model = record["model"].as_str().unwrap_or("golden-model");
    let stream = record["stream"].as_bool();
    let inbound = Inbound { model: Some(model), stream, ..Inbound::default() };
    let request = match codec(format).decode_request(record["request_body"].to_string().as_bytes(), inbound) {
        Ok(request) => request,
        Err(_) if failed => return,
        Err(e) => return table.faults.push(format!("{id}: the request does not decode: {e}")),
    };
    for target in Format::ALL {
        match requests::cross(&request, format, target) {
            Outcome::Kept => table.count("requests", format, target, id, Vec::new()),
            Outcome::Refused(feature) => table.refuse(format, target, feature),
            Outcome::Lost(what) => table.count("requests", format, target, id, what),
        }
    }
}

#[derive(Default)]
struct Table {
    /// (what, from, to) → (kept, lost)
    cells: BTreeMap<(&'static str, &'static str, &'static str), (u32, u32)>,
    /// (from, to, feature) → how often
    refused: BTreeMap<(&'static str, &'static str, String), u32>,
    faults: Vec<String>,
}

impl Table {
    fn count(&mut self, what: &'static str, from: Format, to: Format, id: &str, lost: Vec<String>) {
        let cell = self.cells.entry((what, from.name(), to.name())).or_default();
        if lost.is_empty() {
            cell.0 += 1;
        } else {
            cell.1 += 1;
            self.faults.push(format!("{id} {what} {} → {}: {}", from.name(), to.name(), lost.join("; ")));
        }
    }

    fn refuse(&mut self, from: Format, to: Format, feature: String) {
        self.cells.entry(("requests", from.name(), to.name())).or_default();
        *self.refused.entry((from.name(), to.name(), feature)).or_default() += 1;
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "\n{:9} {:20} {:20} {:>5} {:>8} {:>5}", "what", "from", "to", "kept", "refused", "lost")?;
        for ((what, from, to), (kept, lost)) in &self.cells {
            let refused: u32 = match *what {
                "requests" => self.refused.iter().filter(|((a, b, _), _)| a == from && b == to).map(|(_, n)| n).sum(),
                _ => 0,
            };
            writeln!(f, "{what:9} {from:20} {to:20} {kept:>5} {refused:>8} {lost:>5}")?;
        }
        for ((from, to, feature), n) in &self.refused {
            writeln!(f, "refused   {from:20} {to:20} {n:>5} × {feature}")?;
        }
        Ok(())
    }
}

/// To the terminal, past the test harness's capture: the table is the point.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

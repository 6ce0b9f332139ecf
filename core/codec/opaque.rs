//! Requests and answers that no codec translates, as far as anybody must know them: the texts that stages see, the figures that
//! are charged, and the two shapes that rerankers answer in.

use serde_json::{Map, Value, json};

use super::{codec, skim::Skim};
use crate::{
    error::{Error, Kind, Result},
    model::{Extra, Format, Message, Operation, Part, Request, Role, Units, Usage},
};

/// Top-level fields of an answer that are looked at.
pub const FIELDS: &[&str] = &["usage", "usageMetadata", "meta", "message", "response", "type", "error"];

/// What a request says that its answer is charged by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// Pictures to be made.
    pub pictures: u64,
    /// Of text to be spoken.
    pub characters: u64,
}

impl Asked {
    pub fn of(operation: Operation, fields: &Map<String, Value>) -> Asked {
        let makes = matches!(operation, Operation::GenerateImage | Operation::EditImage | Operation::VaryImage);
        let number = |v: &Value| v.as_u64().or_else(|| v.as_str()?.parse().ok());
        let spoken = fields.get("input").and_then(Value::as_str).filter(|_| operation == Operation::Speech);
        Asked {
            pictures: if makes { fields.get("n").and_then(number).unwrap_or(1).clamp(1, MOST_PICTURES) } else { 0 },
            characters: spoken.map_or(0, |text| text.chars().count() as u64),
        }
    }

    /// The same as it is charged.
    pub fn units(self) -> Units {
        let some = |n: u64| (n > 0).then_some(n);
        Units { output_images: some(self.pictures), characters: some(self.characters), ..Units::default() }
    }
}

/// The request as stages see it: its texts as one user turn, every other field beside it.
pub fn as_turns(operation: Operation, body: &[u8], model: &str, stream: bool) -> Result<Request> {
    let mut fields = object(body)?;
    let mut parts = Vec::new();
    texts(operation, &mut fields, &mut |text| parts.push(Part::text(text.clone())));
    let rest = fields.into_iter().filter(|(name, _)| name != "model" && !is_text(operation, name)).collect();
    Ok(Request {
        model: model.to_owned(),
        stream,
        messages: vec![Message::new(Role::User, parts)],
        extra: Extra::new(Format::OpenaiChat, rest),
        ..Request::default()
    })
}

/// The body with what stages left of its texts and other fields.
pub fn rewritten(operation: Operation, body: &[u8], request: &Request) -> Result<Map<String, Value>> {
    let mut fields = object(body)?;
    let mut fresh = request.messages.iter().flat_map(|m| &m.parts).filter_map(|p| match p {
        Part::Text(text) => Some(text.text.clone()),
        _ => None,
    });
    let mut missing = false;
    texts(operation, &mut fields, &mut |text| match fresh.next() {
        Some(fresh) => *text = fresh,
        None => missing = true,
    });
    if missing || fresh.next().is_some() {
        let message = format!(
            "a stage changed how many texts a request for {} has, which cannot be written back",
            operation.name()
        );
        return Err(Error::new(Kind::Internal, message).with_code("stage_failed"));
    }
    if let Some(extra) = request.extra.of(Format::OpenaiChat) {
        for (name, value) in extra.iter().filter(|(name, _)| fields.contains_key(*name)).collect::<Vec<_>>() {
            fields.insert(name.clone(), value.clone());
        }
    }
    Ok(fields)
}

/// A body's fields.
pub fn object(body: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(body).map_err(|e| Error::invalid("body", format!("the body cannot be read: {e}")))
}

/// Every text that stages see.
fn texts(operation: Operation, fields: &mut Map<String, Value>, each: &mut dyn FnMut(&mut String)) {
    for (name, value) in fields.iter_mut().filter(|(name, _)| is_text(operation, name)) {
        match operation {
            Operation::Realtime => said(name, value, each),
            _ => walk(value, each),
        }
    }
}

/// Of a session's message: what was written, instructed or handed back by a tool, and neither sound nor pictures.
fn said(name: &str, value: &mut Value, each: &mut dyn FnMut(&mut String)) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| said(name, value, each)),
        Value::Array(list) => list.iter_mut().for_each(|value| said(name, value, each)),
        Value::String(text) if SAID.contains(&name) => each(text),
        _ => {}
    }
}

fn is_text(operation: Operation, name: &str) -> bool {
    if operation == Operation::Realtime {
        return !["type", "event_id"].contains(&name);
    }
    let names: &[&str] = match operation {
        Operation::Rerank => &["query", "documents"],
        Operation::Moderations => &["input"],
        Operation::Speech => &["input", "instructions"],
        Operation::Passthrough => &[
            "messages",
            "contents",
            "system",
            "systemInstruction",
            "instructions",
            "prompt",
            "input",
            "query",
            "documents",
            "text",
            "texts",
            "queries",
        ],
        _ => &["prompt"],
    };
    names.contains(&name)
}

/// Every text below `value`, but for the words that say what a part is.
fn walk(value: &mut Value, each: &mut dyn FnMut(&mut String)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(list) => list.iter_mut().for_each(|v| walk(v, each)),
        Value::Object(fields) => {
            fields
                .iter_mut()
                .filter(|(name, _)| !["type", "role", "id"].contains(&name.as_str()))
                .for_each(|(_, v)| walk(v, each));
        }
        _ => {}
    }
}

/// What an answer says that it used, and what its request says when the answer does not. `format`: whose words they are.
pub fn usage(format: Format, operation: Operation, skim: &Skim, asked: Asked) -> Option<Usage> {
    let told = told(format, operation, skim);
    let Asked { pictures, characters } = asked;
    if pictures == 0 && characters == 0 {
        return told;
    }
    let mut usage = told.unwrap_or_default();
    let units = usage.units.get_or_insert_default();
    if pictures > 0 {
        units.output_images = Some(pictures);
    }
    if characters > 0 {
        units.characters = Some(characters);
    }
    Some(usage)
}

fn told(format: Format, operation: Operation, skim: &Skim) -> Option<Usage> {
    // What a batch used is charged once, at its end; whoever looks at it uses nothing.
    if operation.keeps() || operation == Operation::CreateBatch {
        return None;
    }
    if operation == Operation::Passthrough
        && let Some(usage) = native(format, skim)
    {
        return Some(usage);
    }
    let parsed = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
    if let Some(usage) = skim.field("usage").and_then(parsed).filter(Value::is_object) {
        return Some(figures(&usage));
    }
    let meta = skim.field("meta").and_then(parsed)?;
    let billed = &meta["billed_units"];
    let tokens = |name: &str| billed[name].as_u64().or_else(|| meta["tokens"][name].as_u64());
    let mut usage =
        Usage { input_tokens: tokens("input_tokens"), output_tokens: tokens("output_tokens"), ..Usage::default() };
    if let Some(units) = billed["search_units"].as_u64() {
        usage.units = Some(Box::new(Units { search_units: Some(units), ..Units::default() }));
    }
    (usage != Usage::default()).then_some(usage)
}

/// In a format's own words, whole or from the events of its stream.
fn native(format: Format, skim: &Skim) -> Option<Usage> {
    let read = |bytes: &[u8]| codec(format).read_usage(bytes);
    let inside = |name: &str| {
        let outer: Value = serde_json::from_slice(skim.field(name)?).ok()?;
        read(outer.get("usage")?.to_string().as_bytes())
    };
    let found = [
        inside("message"),
        inside("response"),
        skim.field("usage").and_then(read),
        skim.field("usageMetadata").and_then(read),
    ];
    found.into_iter().flatten().reduce(|mut all, later| {
        all.merge(&later);
        all
    })
}

/// The words of pictures, sound, vectors and scores, and of chats in a batch.
pub fn figures(usage: &Value) -> Usage {
    let number = |names: &[&str]| names.iter().find_map(|n| usage[*n].as_u64());
    let detail = |side: &[&str], name: &str| side.iter().find_map(|s| usage[*s][name].as_u64());
    let (inputs, outputs) = (
        ["input_tokens_details", "input_token_details", "prompt_tokens_details"],
        ["output_tokens_details", "output_token_details", "completion_tokens_details"],
    );
    let output = number(&["output_tokens", "completion_tokens"]);
    let cached_sound = inputs.iter().find_map(|s| usage[*s]["cached_tokens_details"]["audio_tokens"].as_u64());
    let seconds = usage["seconds"].as_f64().filter(|s| *s >= 0.0 && *s < 1e9);
    let units = Units {
        input_image_tokens: detail(&inputs, "image_tokens"),
        output_image_tokens: detail(&outputs, "image_tokens"),
        input_audio_ms: seconds.map(|s| (s * 1000.0).ceil() as u64),
        search_units: number(&["search_units"]),
        cache_read_audio_tokens: cached_sound,
        ..Units::default()
    };
    Usage {
        // Where nothing is made, the total is what went in.
        input_tokens: number(&["input_tokens", "prompt_tokens", "total_tokens"]),
        output_tokens: output,
        cache_read_tokens: detail(&inputs, "cached_tokens"),
        input_audio_tokens: detail(&inputs, "audio_tokens"),
        reasoning_tokens: detail(&outputs, "reasoning_tokens"),
        output_audio_tokens: detail(&outputs, "audio_tokens"),
        units: (units != Units::default()).then(|| Box::new(units)),
        ..Usage::default()
    }
}

/// For a reranker that speaks of `top_k` and takes plain texts.
pub fn to_list(mut fields: Map<String, Value>) -> Map<String, Value> {
    if let Some(top) = fields.remove("top_n") {
        fields.insert("top_k".to_owned(), top);
    }
    fields.remove("max_tokens_per_doc");
    if let Some(Value::Array(documents)) = fields.get_mut("documents") {
        for document in documents {
            if let Some(text) = document.get("text").cloned() {
                *document = text;
            }
        }
    }
    fields
}

/// Its answer in the shape that callers of `/rerank` expect.
pub fn from_list(body: &[u8]) -> Result<Vec<u8>> {
    let broken = || Error::new(Kind::Upstream, "the upstream's ranking cannot be read");
    let mut answer: Map<String, Value> = serde_json::from_slice(body).map_err(|e| broken().because(e))?;
    let Some(Value::Array(mut results)) = answer.remove("data") else { return Err(broken()) };
    for result in &mut results {
        if let Some(document) = result.get_mut("document").filter(|d| d.is_string()) {
            *document = json!({ "text": document.take() });
        }
    }
    let mut out = Map::new();
    out.insert("results".to_owned(), Value::Array(results));
    answer.remove("object");
    out.extend(answer);
    Ok(Value::Object(out).to_string().into_bytes())
}

/// Fields of a session's messages that hold texts.
const SAID: [&str; 6] = ["text", "instructions", "output", "arguments", "transcript", "prompt"];

/// No maker of pictures makes more at once; who asks for more is refused by it.
const MOST_PICTURES: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn told_by(operation: Operation, body: &str, events: bool) -> Option<Usage> {
        let mut skim = Skim::new(events, FIELDS);
        skim.push(body.as_bytes());
        usage(Format::OpenaiChat, operation, &skim, Asked::default())
    }

    #[test]
    fn every_vendors_figures_are_read() {
        let images = r#"{"created":1,"data":[{"b64_json":"AAAA"}],"usage":{"input_tokens":50,"output_tokens":4160,"total_tokens":4210,"input_tokens_details":{"text_tokens":10,"image_tokens":40}}}"#;
        let usage = told_by(Operation::GenerateImage, images, false).expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens), (Some(50), Some(4160)));
        assert_eq!(usage.units.expect("units").input_image_tokens, Some(40));
        let timed =
            told_by(Operation::Transcription, r#"{"text":"x","usage":{"type":"duration","seconds":7.5}}"#, false);
        assert_eq!(timed.and_then(|u| u.units?.input_audio_ms), Some(7500));
        let searched =
            told_by(Operation::Rerank, r#"{"results":[],"meta":{"billed_units":{"search_units":2}}}"#, false);
        assert_eq!(searched.and_then(|u| u.units?.search_units), Some(2));
        let total = told_by(Operation::Rerank, r#"{"results":[],"usage":{"total_tokens":31}}"#, false);
        assert_eq!(total.and_then(|u| u.input_tokens), Some(31));
        let spoken = "data: {\"type\":\"transcript.text.delta\"}\n\ndata: {\"type\":\"transcript.text.done\",\"usage\":{\"input_tokens\":9,\"output_tokens\":3,\"input_token_details\":{\"audio_tokens\":8}}}\n\n";
        let usage = told_by(Operation::Transcription, spoken, true).expect("usage");
        assert_eq!((usage.input_tokens, usage.output_tokens, usage.input_audio_tokens), (Some(9), Some(3), Some(8)));
        assert_eq!(told_by(Operation::Moderations, r#"{"results":[]}"#, false), None);
    }

    #[test]
    fn pictures_and_characters_are_counted_by_the_request() {
        let fields = object(br#"{"prompt":"x","n":3}"#).expect("fields");
        let asked = Asked::of(Operation::GenerateImage, &fields);
        assert_eq!(asked.pictures, 3);
        let spoken = Asked::of(Operation::Speech, &object("{\"input\":\"héllo\"}".as_bytes()).expect("fields"));
        assert_eq!(spoken, Asked { pictures: 0, characters: 5 });
        let usage = usage(Format::OpenaiChat, Operation::Speech, &Skim::default(), spoken).expect("usage");
        assert_eq!(usage.units.and_then(|u| u.characters), Some(5));
    }

    #[test]
    fn stages_see_texts_and_may_change_them() {
        let body = br#"{"model":"m","query":"who","documents":["a",{"text":"b","type":"t"}],"top_n":1.50,"user":"u"}"#;
        let mut request = as_turns(Operation::Rerank, body, "m", false).expect("a request");
        assert_eq!(request.messages[0].joined_text(), "who\na\nb");
        let Part::Text(text) = &mut request.messages[0].parts[2] else { unreachable!() };
        text.text = "c".into();
        let fields = rewritten(Operation::Rerank, body, &request).expect("written");
        let wanted = r#"{"model":"m","query":"who","documents":["a",{"text":"c","type":"t"}],"top_n":1.50,"user":"u"}"#;
        assert_eq!(Value::Object(fields).to_string(), wanted);
        request.messages[0].parts.pop();
        assert!(rewritten(Operation::Rerank, body, &request).is_err());
    }

    #[test]
    fn of_a_sessions_message_stages_see_what_was_written() {
        let body = br#"{"type":"conversation.item.create","event_id":"e1","item":{"type":"message","role":"user","id":"i1","content":[{"type":"input_text","text":"hello"},{"type":"input_audio","audio":"UklG","transcript":"spoken"},{"type":"input_image","image_url":"data:image/png;base64,AA"}]}}"#;
        let mut request = as_turns(Operation::Realtime, body, "m", false).expect("a request");
        assert_eq!(request.messages[0].joined_text(), "hello\nspoken");
        let Part::Text(text) = &mut request.messages[0].parts[0] else { unreachable!() };
        text.text = "[name]".into();
        let fields = rewritten(Operation::Realtime, body, &request).expect("written");
        let wanted = String::from_utf8_lossy(body).replace("\"hello\"", "\"[name]\"");
        assert_eq!(Value::Object(fields).to_string(), wanted);
        let update = br#"{"type":"session.update","session":{"instructions":"be kind","tools":[{"type":"function","name":"f"}],"audio":{"input":{"transcription":{"prompt":"names"}}}}}"#;
        let request = as_turns(Operation::Realtime, update, "m", false).expect("a request");
        assert_eq!(request.messages[0].joined_text(), "be kind\nnames");
        let result = br#"{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"c","output":"{\"a\":1}"}}"#;
        let request = as_turns(Operation::Realtime, result, "m", false).expect("a request");
        assert_eq!(request.messages[0].joined_text(), "{\"a\":1}");
    }

    #[test]
    fn a_list_of_scores_becomes_results() {
        let fields = object(br#"{"model":"m","query":"q","documents":["a",{"text":"b"}],"top_n":2}"#).expect("fields");
        assert_eq!(
            Value::Object(to_list(fields)).to_string(),
            r#"{"model":"m","query":"q","documents":["a","b"],"top_k":2}"#
        );
        let answer = br#"{"object":"list","data":[{"relevance_score":0.50,"index":1,"document":"b"}],"model":"m","usage":{"total_tokens":3}}"#;
        let wanted = r#"{"results":[{"relevance_score":0.50,"index":1,"document":{"text":"b"}}],"model":"m","usage":{"total_tokens":3}}"#;
        assert_eq!(String::from_utf8_lossy(&from_list(answer).expect("results")), wanted);
        assert!(from_list(b"{}").is_err() && from_list(b"x").is_err());
    }
}

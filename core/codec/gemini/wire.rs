//! Words and small shapes that both directions of the Gemini wire share: finish reasons, call ids, base64, signatures,
//! MIME types. No knowledge of whole bodies lives here.

use std::{borrow::Cow, hash::Hasher};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use crate::{
    codec::{
        json::{Fields, Item},
        signature,
    },
    error::{Error, Result},
    model::{FinishReason, Format, MediaKind, Signature},
};

/// This format.
pub const GEMINI: Format = Format::Gemini;

/// Ids made here because the wire had none. They never go to a Gemini upstream.
pub use crate::codec::signature::MADE as MADE_ID;

/// What Gemini takes in place of a thought signature on calls it did not make itself.
pub const SKIP_SIGNATURE: &str = "skip_thought_signature_validator";

/// The same place and the same call give the same id, so that a replayed history matches.
pub fn make_id(seed: &str, position: usize, name: &str) -> String {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.write(seed.as_bytes());
    hash.write_u8(0xff);
    hash.write(&(position as u64).to_le_bytes());
    hash.write(name.as_bytes());
    format!("{MADE_ID}{:016x}", hash.finish())
}

/// FNV-1a: stable across versions and machines, unlike the standard library's hasher. Not for secrets.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// The unified reason behind Gemini's word. Gemini says STOP when it calls tools, too.
pub fn finish_reason(word: &str, called: bool) -> FinishReason {
    match word {
        "STOP" if called => FinishReason::ToolCalls,
        "STOP" => FinishReason::Stop,
        "MAX_TOKENS" | "CONTINUATION" => FinishReason::Length,
        "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "LANGUAGE" | "MODEL_ARMOR"
        | "JAILBREAK" | "ESCALATION" => FinishReason::ContentFilter,
        "NO_IMAGE" | "IMAGE_OTHER" => FinishReason::Other,
        "MALFORMED_FUNCTION_CALL"
        | "UNEXPECTED_TOOL_CALL"
        | "TOO_MANY_TOOL_CALLS"
        | "MISSING_THOUGHT_SIGNATURE"
        | "MALFORMED_RESPONSE" => FinishReason::Malformed,
        image if image.starts_with("IMAGE_") => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    }
}

/// Gemini's word for a reason; its own word is given back where it still means the same.
pub fn finish_word(reason: FinishReason, raw: &str) -> &str {
    let called = reason == FinishReason::ToolCalls;
    let ours = !raw.is_empty() && raw.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    if ours && finish_reason(raw, called) == reason {
        return raw;
    }
    match reason {
        FinishReason::Stop | FinishReason::ToolCalls => "STOP",
        FinishReason::Length => "MAX_TOKENS",
        FinishReason::ContentFilter => "SAFETY",
        FinishReason::Malformed => "MALFORMED_FUNCTION_CALL",
        FinishReason::Other => "OTHER",
    }
}

/// A list, or one object where a list is meant (Gemini's own examples write `"parts": {…}`).
pub fn list(fields: &mut Fields, keys: &[&str]) -> Result<Vec<Value>> {
    for key in keys {
        match fields.peek(key) {
            None => continue,
            Some(Value::Object(_)) => return Ok(fields.take(key).into_iter().collect()),
            Some(_) => return Ok(fields.array(key)?.unwrap_or_default()),
        }
    }
    Ok(Vec::new())
}

/// The first of several spellings, as a string.
pub fn string_any(fields: &mut Fields, keys: &[&str]) -> Result<Option<String>> {
    for key in keys {
        if fields.peek(key).is_some() {
            return fields.string(key);
        }
    }
    Ok(None)
}

/// The spelling that is present, or the first.
pub fn spelling<'a>(fields: &Fields, keys: &[&'a str]) -> &'a str {
    keys.iter().copied().find(|k| fields.peek(k).is_some()).unwrap_or(keys[0])
}

/// Base64 of either alphabet, with or without padding, as the standard alphabet with padding.
pub fn standard_base64(data: String, path: &str) -> Result<String> {
    let clean = data.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
    if clean && data.len().is_multiple_of(4) {
        return Ok(data);
    }
    let mut out: String = data
        .chars()
        .filter(|c| !c.is_ascii_whitespace() && *c != '=')
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            other => other,
        })
        .collect();
    if !out.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')) || out.len() % 4 == 1 {
        let hint = if data.starts_with("data:") { ": send the bytes alone, without the `data:` head" } else { "" };
        return Err(Error::invalid(path, format!("`{path}` is not valid base64{hint}")));
    }
    while !out.len().is_multiple_of(4) {
        out.push('=');
    }
    Ok(out)
}

/// Sealed reasoning stands in a thought signature behind this mark, so that it is told from a plain signature.
const SEALED: &str = "sealed:";

/// A signature for a Gemini client. The wire's field is base64 and official SDKs decode it: a foreign one is wrapped so.
pub fn write_signature(given: &Signature) -> String {
    if given.origin == GEMINI { given.data.clone() } else { signature::wrap(given, "") }
}

/// Sealed reasoning for a Gemini client.
pub fn write_sealed(given: &Signature) -> String {
    signature::wrap(given, SEALED)
}

/// A thought signature as it came: `(signature, sealed)`, one of the two.
pub fn read_signature(text: String) -> (Option<Signature>, Option<Signature>) {
    if text.is_empty() {
        return (None, None);
    }
    match (signature::unwrap(&text, ""), signature::unwrap(&text, SEALED)) {
        (_, sealed @ Some(_)) => (None, sealed),
        (signed @ Some(_), None) => (signed, None),
        (None, None) => (Some(signature::read(&text, GEMINI)), None),
    }
}

pub fn media_kind(mime: &str) -> MediaKind {
    match mime.split('/').next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "image" => MediaKind::Image,
        "audio" => MediaKind::Audio,
        "video" => MediaKind::Video,
        _ => MediaKind::Document,
    }
}

/// What a URL's ending says. Gemini wants a type with files it has not seen.
pub fn mime_of_url(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let name = path.rsplit('/').next()?;
    let ending = name.rsplit_once('.')?.1.to_ascii_lowercase();
    MIME_BY_ENDING.iter().find(|(e, _)| *e == ending).map(|(_, mime)| *mime)
}

const MIME_BY_ENDING: &[(&str, &str)] = &[
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("webp", "image/webp"),
    ("gif", "image/gif"),
    ("heic", "image/heic"),
    ("pdf", "application/pdf"),
    ("txt", "text/plain"),
    ("md", "text/markdown"),
    ("html", "text/html"),
    ("csv", "text/csv"),
    ("mp3", "audio/mpeg"),
    ("wav", "audio/wav"),
    ("flac", "audio/flac"),
    ("ogg", "audio/ogg"),
    ("mp4", "video/mp4"),
    ("mov", "video/quicktime"),
    ("webm", "video/webm"),
];

/// What the first bytes say, seen through their base64; else the commonest type of that kind.
pub fn mime_of_base64(data: &str, kind: MediaKind) -> &'static str {
    match MAGIC.iter().find(|(head, _)| data.starts_with(head)) {
        Some((_, mime)) => mime,
        None => match kind {
            MediaKind::Image => "image/png",
            MediaKind::Document => "application/pdf",
            MediaKind::Audio => "audio/wav",
            MediaKind::Video => "video/mp4",
        },
    }
}

const MAGIC: &[(&str, &str)] = &[
    ("iVBORw0KGgo", "image/png"),
    ("/9j/", "image/jpeg"),
    ("R0lGOD", "image/gif"),
    ("JVBERi", "application/pdf"),
    ("SUQz", "audio/mpeg"),
    ("//uQ", "audio/mpeg"),
    ("//vQ", "audio/mpeg"),
    ("ZkxhQ", "audio/flac"),
    ("T2dnUw", "audio/ogg"),
];

pub fn base64_of_text(text: &str) -> String {
    STANDARD.encode(text)
}

/// Arguments as the wire's object. Empty means `{}`; what is no object is kept under `arguments`.
pub fn args_object(text: &str) -> Value {
    if text.trim().is_empty() {
        return Value::Object(Map::new());
    }
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(map)) => Value::Object(map),
        _ => json!({ "arguments": text }),
    }
}

/// `models/x`, `publishers/google/models/x` and `x` are one name.
pub fn bare_model(name: &str) -> &str {
    name.strip_prefix("models/").or_else(|| name.strip_prefix("publishers/google/models/")).unwrap_or(name)
}

pub fn model_path(name: &str) -> String {
    format!("models/{}", bare_model(name))
}

/// The generation of a Gemini model's name (`gemini-2.5-pro` is 2.5); moving names (`gemini-flash-latest`) count as the
/// newest known. `None`: no Gemini name.
pub fn generation(model: &str) -> Option<f32> {
    let name = bare_model(model).rsplit('/').next()?.to_ascii_lowercase();
    let rest = name.strip_prefix("gemini-")?;
    let number = rest.split('-').next()?;
    number.parse().ok().or(Some(3.0))
}

/// Gemini 3 and later: thinking levels instead of budgets, and signatures that are checked on function calls.
pub fn is_gemini_3(model: &str) -> bool {
    generation(model).is_some_and(|g| g >= 3.0)
}

/// Adds `fields` where nothing stands yet.
pub fn fill(map: &mut Map<String, Value>, fields: Option<&Map<String, Value>>) {
    for (key, value) in fields.into_iter().flatten() {
        if !map.contains_key(key) {
            map.insert(key.clone(), value.clone());
        }
    }
}

/// An object, read without complaint: upstreams are not lectured.
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

pub fn take_array(map: &mut Map<String, Value>, key: &str) -> Vec<Value> {
    match map.get(key) {
        Some(Value::Array(_)) => match map.shift_remove(key) {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Upstreams are not lectured: what is no list or no object is left out.
pub fn items(item: Option<Item>) -> Vec<Item> {
    item.and_then(|item| item.items().ok()).unwrap_or_default()
}

pub fn fields(item: Option<Item>) -> Option<Fields> {
    Fields::new(item.filter(Item::is_object)?, "").ok()
}

/// The text of a part that says nothing else.
pub fn only_text<'t>(part: &'t Item) -> Option<Cow<'t, str>> {
    match part {
        Item::Tree(value) => {
            let text = value.as_object().filter(|part| part.len() == 1)?.get("text")?;
            text.as_str().map(Cow::Borrowed)
        }
        Item::Read(node) => {
            let mut members = node.members();
            let (Some(("text", text)), None) = (members.next(), members.next()) else { return None };
            text.text()
        }
    }
}

/// The call of a part that says nothing else: its id, its name, its arguments.
pub fn only_call<'t>(part: &Item<'t>) -> Option<(String, String, String)> {
    let Item::Read(node) = part else { return None };
    let mut members = node.members();
    let (Some(("functionCall", call)), None) = (members.next(), members.next()) else { return None };
    let (mut id, mut name, mut arguments) = (None, None, None);
    for (key, value) in call.members() {
        let twice = match key {
            "id" => id.replace(value.text()?.into_owned()).is_some(),
            "name" => name.replace(value.text()?.into_owned()).is_some(),
            "args" if value.is_object() => arguments.replace(value.tree().to_string()).is_some(),
            _ => true,
        };
        if twice {
            return None;
        }
    }
    Some((id.unwrap_or_default(), name?, arguments?))
}

/// RFC 3339 to Unix seconds, and back.
pub fn seconds(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(|t| t.as_second())
}

pub fn time(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

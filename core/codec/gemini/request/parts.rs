//! Parts of a content, both ways on the request side, and the rule by which parts of one model turn join.

use serde_json::{Map, Value};

use super::decode::not_a_part;
use crate::{
    codec::{
        gemini::wire::{GEMINI, list, media_kind, mime_of_url, read_signature, spelling, standard_base64, string_any},
        json::{Fields, missing},
    },
    error::Result,
    model::{
        CacheHint, Extra, Media, MediaKind, MediaSource, Part, Reasoning, Signature, Text, ToolCall, ToolKind,
        ToolResult,
    },
};

pub fn decode_list(content: &mut Fields) -> Result<Vec<Part>> {
    let base = content.path("parts");
    if let Some(Value::String(_)) = content.peek("parts") {
        return Ok(content.string("parts")?.map(Part::text).into_iter().collect());
    }
    list(content, &["parts"])?.into_iter().enumerate().map(|(i, part)| decode(part, format!("{base}[{i}]"))).collect()
}

/// One part.
pub fn decode(value: Value, path: String) -> Result<Part> {
    match &value {
        Value::Object(_) => {}
        Value::String(text) => return Ok(Part::text(text.as_str())),
        other => return Err(not_a_part(&path, other)),
    }
    if let Some(kind) = native_kind(&value) {
        return Ok(Part::Native { format: GEMINI, kind, value });
    }
    let mut part = Fields::new(value, path)?;
    let thought = part.bool("thought")?.unwrap_or(false);
    let signature = string_any(&mut part, &["thoughtSignature", "thought_signature"])?;
    let (signature, sealed) = signature.map(read_signature).unwrap_or_default();
    for keys in [["inlineData", "inline_data"], ["fileData", "file_data"]] {
        let key = spelling(&part, &keys);
        if let Some(data) = part.object(key)? {
            return media(data, part, keys[0] == "inlineData", signature).map(Part::Media);
        }
    }
    let key = spelling(&part, &["functionCall", "function_call"]);
    if let Some(call) = part.object(key)? {
        return function_call(call, part, signature);
    }
    let key = spelling(&part, &["functionResponse", "function_response"]);
    if let Some(response) = part.object(key)? {
        return function_response(response, part);
    }
    let text = part.string("text")?.unwrap_or_default();
    let extra = part.rest(GEMINI);
    Ok(if thought || sealed.is_some() {
        Part::Reasoning(Reasoning { text, signature, sealed, extra })
    } else {
        Part::Text(Text { text, signature, extra, ..Text::default() })
    })
}

/// Kinds that only this wire knows: named ones, and whatever comes next.
fn native_kind(value: &Value) -> Option<String> {
    let map = value.as_object()?;
    let mut unknown = None;
    for (key, value) in map {
        match key.as_str() {
            _ if value.is_null() => {}
            "text" | "inlineData" | "inline_data" | "fileData" | "file_data" | "functionCall" | "function_call"
            | "functionResponse" | "function_response" => return None,
            "thought" | "thoughtSignature" | "thought_signature" | "videoMetadata" | "video_metadata"
            | "mediaResolution" | "media_resolution" | "partMetadata" | "part_metadata" => {}
            "executableCode" | "executable_code" => return Some("executableCode".to_owned()),
            "codeExecutionResult" | "code_execution_result" => return Some("codeExecutionResult".to_owned()),
            "toolCall" | "tool_call" => return Some("toolCall".to_owned()),
            "toolResponse" | "tool_response" => return Some("toolResponse".to_owned()),
            other => unknown = Some(other.to_owned()),
        }
    }
    unknown
}

fn media(mut data: Fields, part: Fields, inline: bool, signature: Option<Signature>) -> Result<Media> {
    let mime = string_any(&mut data, &["mimeType", "mime_type"])?;
    let name = data.peek_str("displayName").or_else(|| data.peek_str("display_name")).map(str::to_owned);
    let (source, mime) = if inline {
        let path = data.path("data");
        let bytes = standard_base64(data.required_string("data")?, &path)?;
        (MediaSource::Base64(bytes), mime.ok_or_else(|| missing(&data.path("mimeType")))?.into())
    } else {
        let path = data.path("fileUri");
        let uri = string_any(&mut data, &["fileUri", "file_uri"])?.ok_or_else(|| missing(&path))?;
        let source =
            if lives_here(&uri) { MediaSource::File { format: GEMINI, id: uri } } else { MediaSource::Url(uri) };
        (source, mime)
    };
    let kind = match (&mime, &source) {
        (Some(mime), _) => media_kind(mime),
        (None, MediaSource::File { id, .. }) if is_film(id) => MediaKind::Video,
        (None, MediaSource::Url(url)) => mime_of_url(url).map_or(MediaKind::Document, media_kind),
        (None, _) => MediaKind::Document,
    };
    let detail = match part.peek("mediaResolution").or_else(|| part.peek("media_resolution")) {
        Some(resolution) => detail_word(resolution),
        None => None,
    };
    let mut extra = part.rest(GEMINI);
    for (key, value) in data.rest_map() {
        // Beside the bytes, not beside the part: kept under a name of its own.
        let mut inner = match extra.of(GEMINI).and_then(|m| m.get(INNER)) {
            Some(Value::Object(map)) => map.clone(),
            _ => Map::new(),
        };
        inner.insert(key, value);
        extra.insert(GEMINI, INNER, Value::Object(inner));
    }
    Ok(Media {
        kind,
        mime,
        source,
        name,
        detail,
        context: None,
        cite: None,
        cache: None::<CacheHint>,
        signature,
        extra,
    })
}

/// Where unknown fields of `inlineData`, `fileData`, `functionCall` and `functionResponse` themselves are kept.
pub const INNER: &str = "#inner";

/// Files at the provider, and films of its sister: others cannot fetch them.
fn lives_here(uri: &str) -> bool {
    is_film(uri)
        || uri.starts_with("gs://")
        || uri.starts_with("files/")
        || (uri.starts_with("https://generativelanguage.googleapis.com/") && uri.contains("/files/"))
}

/// A page of YouTube's stands for its film here.
fn is_film(uri: &str) -> bool {
    let Some(place) = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://")) else { return false };
    let host = place.split('/').next().unwrap_or_default();
    ["youtu.be", "youtube.com", "www.youtube.com", "m.youtube.com"].contains(&host)
}

fn detail_word(resolution: &Value) -> Option<String> {
    let level = resolution.as_str().or_else(|| resolution.get("level").and_then(Value::as_str))?;
    match level {
        "MEDIA_RESOLUTION_LOW" => Some("low".to_owned()),
        "MEDIA_RESOLUTION_HIGH" | "MEDIA_RESOLUTION_ULTRA_HIGH" => Some("high".to_owned()),
        _ => None,
    }
}

fn with_inner(part: Fields, inner: Fields) -> Extra {
    let mut extra = part.rest(GEMINI);
    let inner = inner.rest_map();
    if !inner.is_empty() {
        extra.insert(GEMINI, INNER, Value::Object(inner));
    }
    extra
}

fn function_call(mut call: Fields, part: Fields, signature: Option<Signature>) -> Result<Part> {
    let name = call.required_string("name")?;
    let id = call.string("id")?.unwrap_or_default();
    let arguments = match call.map("args")? {
        Some(args) => Value::Object(args).to_string(),
        // Left out means `{}`: said aloud, so that no wire writes an empty string.
        None => "{}".to_owned(),
    };
    let extra = with_inner(part, call);
    Ok(Part::ToolCall(ToolCall { id, name, kind: ToolKind::Function, arguments, signature, cache: None, extra }))
}

fn function_response(mut response: Fields, part: Fields) -> Result<Part> {
    let name = response.required_string("name")?;
    let call_id = response.string("id")?.unwrap_or_default();
    let object = response.map("response")?.unwrap_or_default();
    let (text, is_error) = result_text(&object);
    let mut parts = vec![Part::text(text)];
    parts.extend(decode_list(&mut response)?);
    let extra = with_inner(part, response);
    Ok(Part::ToolResult(ToolResult {
        call_id,
        name: Some(name),
        kind: ToolKind::Function,
        parts,
        object: Some(object),
        is_error,
        cache: None,
        extra,
    }))
}

/// The text of a result object, and whether it tells an error. `output`, `result` and `error` are the wire's habits for
/// "the result is this text".
pub fn result_text(object: &Map<String, Value>) -> (String, Option<bool>) {
    if let (1, Some((key, Value::String(text)))) = (object.len(), object.iter().next()) {
        match key.as_str() {
            "result" | "output" => return (text.clone(), None),
            "error" => return (text.clone(), Some(true)),
            _ => {}
        }
    }
    let failed = object.len() == 1 && object.get("error").is_some_and(|error| !error.is_null());
    (serde_json::to_string(object).unwrap_or_default(), failed.then_some(true))
}

/// Adds a part to a model turn. Plain text continues plain text; a signature with no text of its own signs what stands
/// before it, thoughts that came in pieces included: only then does the text fit its signature again.
pub fn join(parts: &mut Vec<Part>, part: Part) {
    match part {
        Part::Text(t) if t.extra.is_empty() && t.citations.is_empty() && t.cache.is_none() => {
            if let Some(Part::Text(last)) = parts.last_mut()
                && last.signature.is_none()
                && last.extra.is_empty()
                && last.cache.is_none()
            {
                last.text.push_str(&t.text);
                last.signature = t.signature;
            } else if !t.text.is_empty() || t.signature.is_some() {
                parts.push(Part::Text(t));
            }
        }
        Part::Reasoning(r) if r.extra.is_empty() && r.sealed.is_none() => {
            if let Some(Part::Reasoning(last)) = parts.last_mut()
                && last.signature.is_none()
                && last.sealed.is_none()
                && last.extra.is_empty()
            {
                last.text.push_str(&r.text);
                last.signature = r.signature;
            } else if !r.text.is_empty() || r.signature.is_some() {
                parts.push(Part::Reasoning(r));
            }
        }
        other => parts.push(other),
    }
}

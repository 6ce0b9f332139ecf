//! The mock's answers where no codec speaks: rankings, moderations, pictures, sound, files and batches. It keeps nothing: a file
//! or a batch is what its id says.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::{Map, Value, json};

use super::{Chunk, MockAnswer, compose::CREATED, control::Control, lay_out, refusal, seed, streamed, whole};
use crate::{
    codec::{
        EVENT_STREAM, JSON,
        form::{Scanner, Seen, boundary},
    },
    error::{Error, Kind, Result},
    model::{Format, Operation},
};

/// What a path asks for, and of which thing.
pub(super) struct Asked<'a> {
    operation: Operation,
    id: &'a str,
}

/// `…/rerank`, `…/files/{id}/content`.
pub(super) fn find<'a>(method: &Method, path: &'a str) -> Option<Asked<'a>> {
    let path = path.split('?').next().unwrap_or_default();
    let asked = |operation| Some(Asked { operation, id: "" });
    for (tail, operation) in [
        ("/rerank", Operation::Rerank),
        ("/moderations", Operation::Moderations),
        ("/images/generations", Operation::GenerateImage),
        ("/images/edits", Operation::EditImage),
        ("/images/variations", Operation::VaryImage),
        ("/audio/speech", Operation::Speech),
        ("/audio/transcriptions", Operation::Transcription),
        ("/audio/translations", Operation::Translation),
    ] {
        if path.ends_with(tail) {
            return asked(operation);
        }
    }
    let post = *method == Method::POST;
    if path.ends_with("/files") {
        return asked(if post { Operation::UploadFile } else { Operation::ListFiles });
    }
    if path.ends_with("/batches") {
        return asked(if post { Operation::CreateBatch } else { Operation::ListBatches });
    }
    let of = |head: &str| path.rsplit_once(head).map(|(_, rest)| rest);
    if let Some(rest) = of("/files/") {
        let (id, operation) = match rest.split_once('/') {
            Some((id, "content")) => (id, Operation::FileContent),
            Some(_) => return None,
            None if *method == Method::DELETE => (rest, Operation::DeleteFile),
            None => (rest, Operation::OneFile),
        };
        return Some(Asked { operation, id });
    }
    let rest = of("/batches/")?;
    Some(match rest.split_once('/') {
        Some((id, "cancel")) => Asked { operation: Operation::CancelBatch, id },
        Some(_) => return None,
        None => Asked { operation: Operation::OneBatch, id: rest },
    })
}

pub(super) fn answer(asked: &Asked<'_>, given: &str, headers: &HeaderMap, body: &Bytes) -> Result<MockAnswer> {
    let fields = fields(headers, body)?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let said = [text("input"), text("prompt"), text("query")].concat();
    let control = Control::read(given, &said)?;
    if let Some(error) = control.refusal() {
        return Ok(refusal(Format::OpenaiChat, &error, &control));
    }
    let seed = seed(body);
    let streams = fields.get("stream").is_some_and(|v| *v == true || *v == "true");
    let tokens = |bytes: usize| bytes.div_ceil(4) as u64;
    let (input, output) = control.usage.map_or((tokens(said.len()).max(1), 2), |u| (u.input, u.output));
    let counted = json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output});
    let json = |value: Value| Ok(whole(value.to_string().into_bytes(), JSON, &control));
    match asked.operation {
        Operation::Rerank if fields.get("documents").and_then(Value::as_array).is_none_or(Vec::is_empty) => {
            Err(Error::invalid("documents", "`documents` must hold one or more"))
        }
        Operation::Rerank => json(ranking(&fields, input)),
        Operation::Moderations => {
            let flagged = said.contains("kill");
            let result = json!({"flagged": flagged, "categories": {"violence": flagged, "harassment/threatening": flagged},
                "category_scores": {"violence": if flagged { 0.9 } else { 0.01 }, "harassment/threatening": 0.02}});
            json(json!({"id": format!("modr-mock{seed:016x}"), "model": text("model"), "results": [result]}))
        }
        Operation::GenerateImage | Operation::EditImage | Operation::VaryImage if streams => {
            let what = if asked.operation == Operation::EditImage { "image_edit" } else { "image_generation" };
            let part = json!({"type": format!("{what}.partial_image"), "partial_image_index": 0, "b64_json": STANDARD.encode(PNG)});
            let last = json!({"type": format!("{what}.completed"), "b64_json": STANDARD.encode(PNG), "usage": counted});
            Ok(streamed(events(&[part, last]), EVENT_STREAM, &control))
        }
        Operation::GenerateImage | Operation::EditImage | Operation::VaryImage => {
            let number = |v: &Value| v.as_u64().or_else(|| v.as_str()?.parse().ok());
            let n = fields.get("n").and_then(number).unwrap_or(1).clamp(1, 10);
            let data: Vec<_> = (0..n).map(|_| json!({"b64_json": STANDARD.encode(PNG)})).collect();
            json(json!({"created": CREATED, "data": data, "usage": counted, "output_format": "png"}))
        }
        Operation::Speech if text("stream_format") == "sse" => {
            let part = json!({"type": "speech.audio.delta", "audio": STANDARD.encode(wav())});
            let last = json!({"type": "speech.audio.done", "usage": counted});
            Ok(streamed(events(&[part, last]), EVENT_STREAM, &control))
        }
        Operation::Speech => Ok(bytes(wav(), "audio/wav", &control)),
        Operation::Transcription | Operation::Translation => Ok(heard(&fields, streams, &counted, &control)),
        Operation::UploadFile => {
            let name = fields.get("\0filename").and_then(Value::as_str).unwrap_or("mock.jsonl");
            let size = fields.get("\0size").and_then(Value::as_u64).unwrap_or(0);
            json(file(&format!("file-mock{seed:016x}"), name, size, text("purpose")))
        }
        Operation::OneFile => json(file(asked.id, "mock.jsonl", 0, "batch")),
        Operation::DeleteFile => json(json!({"id": asked.id, "object": "file", "deleted": true})),
        Operation::FileContent => {
            let line = format!("{{\"custom_id\": \"1\", \"file\": \"{}\"}}\n", asked.id);
            Ok(bytes(line.into_bytes(), "application/octet-stream", &control))
        }
        Operation::ListFiles | Operation::ListBatches => json(json!({"object": "list", "data": [], "has_more": false})),
        Operation::CreateBatch => {
            if !text("input_file_id").starts_with("file-mock") {
                return Err(Error::new(Kind::InvalidRequest, "the mock has no such input file").at("input_file_id"));
            }
            json(batch(&format!("batch_mock{seed:016x}"), "validating", text("input_file_id"), text("endpoint")))
        }
        Operation::OneBatch => json(batch(asked.id, "completed", "file-mockin", "/v1/chat/completions")),
        Operation::CancelBatch => json(batch(asked.id, "cancelling", "file-mockin", "/v1/chat/completions")),
        _ => Err(Error::new(Kind::NotFound, "the mock does not know this")),
    }
}

fn ranking(fields: &Map<String, Value>, input: u64) -> Value {
    let documents = fields.get("documents").and_then(Value::as_array).cloned().unwrap_or_default();
    let top = fields.get("top_n").or(fields.get("top_k")).and_then(Value::as_u64).unwrap_or(u64::MAX);
    let with = fields.get("return_documents") == Some(&Value::Bool(true));
    // The later, the less.
    let result = |(index, document): (usize, &Value)| {
        let mut result = json!({"index": index, "relevance_score": 1.0 / (index as f64 + 2.0)});
        if with {
            result["document"] = if document.is_string() { json!({"text": document}) } else { document.clone() };
        }
        result
    };
    let results: Vec<_> =
        documents.iter().enumerate().take(usize::try_from(top).unwrap_or(usize::MAX)).map(result).collect();
    json!({"id": "rerank-mock", "results": results, "usage": {"total_tokens": input}, "meta": {"billed_units": {"search_units": 1}}})
}

fn heard(fields: &Map<String, Value>, streams: bool, usage: &Value, control: &Control) -> MockAnswer {
    let size = fields.get("\0size").and_then(Value::as_u64).unwrap_or(0);
    let said = format!("mock heard {size} bytes");
    if streams {
        let part = json!({"type": "transcript.text.delta", "delta": said});
        let last = json!({"type": "transcript.text.done", "text": said, "usage": usage});
        return streamed(events(&[part, last]), EVENT_STREAM, control);
    }
    match fields.get("response_format").and_then(Value::as_str).unwrap_or("json") {
        "text" => bytes(format!("{said}\n").into_bytes(), "text/plain; charset=utf-8", control),
        "srt" => {
            bytes(format!("1\n00:00:00,000 --> 00:00:01,000\n{said}\n\n").into_bytes(), "application/x-subrip", control)
        }
        "vtt" => {
            bytes(format!("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{said}\n\n").into_bytes(), "text/vtt", control)
        }
        "verbose_json" => {
            let value = json!({"task": "transcribe", "language": "english", "duration": 1.0, "text": said, "usage": {"type": "duration", "seconds": 1}});
            whole(value.to_string().into_bytes(), JSON, control)
        }
        _ => whole(json!({"text": said, "usage": usage}).to_string().into_bytes(), JSON, control),
    }
}

fn file(id: &str, name: &str, size: u64, purpose: &str) -> Value {
    json!({"id": id, "object": "file", "bytes": size, "created_at": CREATED, "filename": name, "purpose": purpose, "status": "processed"})
}

fn batch(id: &str, status: &str, input: &str, endpoint: &str) -> Value {
    let output = (status == "completed").then(|| format!("file-mockout{}", id.len()));
    json!({"id": id, "object": "batch", "endpoint": endpoint, "input_file_id": input, "completion_window": "24h", "status": status,
        "output_file_id": output, "error_file_id": null, "created_at": CREATED, "request_counts": {"total": 1, "completed": 1, "failed": 0}})
}

fn events(list: &[Value]) -> Vec<Vec<u8>> {
    let name = |e: &Value| e["type"].as_str().unwrap_or_default().to_owned();
    list.iter().map(|e| format!("event: {}\ndata: {e}\n\n", name(e)).into_bytes()).collect()
}

fn bytes(body: Vec<u8>, kind: &'static str, control: &Control) -> MockAnswer {
    lay_out(http::StatusCode::OK, kind, vec![Chunk { delay: control.pace, bytes: body.into() }], control)
}

/// A body's fields, of a form as well; the first file's name and size under names that no field has.
fn fields(headers: &HeaderMap, body: &Bytes) -> Result<Map<String, Value>> {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("multipart/") {
        return if body.is_empty() { Ok(Map::new()) } else { crate::codec::opaque::object(body) };
    }
    let mut seen = Vec::new();
    // A long file's end may be missing here.
    Scanner::new(&boundary(kind)?).push(body, &mut seen)?;
    let mut fields = Map::new();
    let mut events = seen.into_iter().peekable();
    while let Some(Seen::Part { name, file, at, .. }) = events.next() {
        let end = match events.next() {
            Some(Seen::End { at }) => at,
            _ => body.len() as u64,
        };
        let content = &body[at as usize..end as usize];
        if file {
            fields.insert("\0size".to_owned(), Value::from(content.len()));
        } else {
            fields.insert(name, Value::from(String::from_utf8_lossy(content).into_owned()));
        }
    }
    Ok(fields)
}

/// A tenth of a second of silence: 8 kHz, 16 bits, one channel.
fn wav() -> Vec<u8> {
    let size: u32 = 1600;
    let mut out = Vec::with_capacity(44 + size as usize);
    out.extend_from_slice(b"RIFF");
    out.extend_from_slice(&(36 + size).to_le_bytes());
    out.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data");
    out.extend_from_slice(&size.to_le_bytes());
    out.resize(44 + size as usize, 0);
    out
}

/// One transparent pixel.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\0\0\0\rIDATx\xdac\xfc\xcf\xc0P\x0f\0\x04\x85\x01\x80\x84\xa9\x8c!\0\0\0\0IEND\xaeB`\x82";

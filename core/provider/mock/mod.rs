//! The built-in upstream: answers every format's paths with real wire bytes, in this process (`run`) or behind a socket
//! (`portcullis mock`). Deterministic: the same request gives the same bytes. `answer` is pure; only `run` waits.
//!
//! Answers say what they heard: `mock/<model> heard: <the last user text>`. A forced tool, or one whose name the last user
//! text mentions, is called with arguments made from its JSON Schema; an output schema gets JSON that fits it; `What is my
//! name?` is answered from an earlier `My name is …`; embeddings are unit vectors made from the text.
//!
//! A request steers it in the header `x-portcullis-mock`, or in its last user text inside `[mock: …]`, which passes through
//! any SDK and any other gateway. Items stand between commas:
//!
//! | item | meaning |
//! |---|---|
//! | `latency=200ms` | wait before the head |
//! | `pace=20ms` | wait before each stream event |
//! | `status=429` | refuse in the format's own error shape |
//! | `retry_after=2` | seconds, with `status` |
//! | `cut=3` | the connection dies after three stream events (a whole answer: after half of its bytes) |
//! | `stall=2` | silence after two stream events, for ever |
//! | `chunk=5` | bytes travel in pieces of five |
//! | `usage=10/20` | input and output tokens; `10/20/4` has cached ones too |
//! | `tokens=50` | an answer of so many words |
//! | `reasoning` | thinking before the answer, signed where the format signs |
//! | `finish=length` | `stop`, `length`, `tool_calls` or `content_filter` |
//! | `tool=name` | call this tool |
//! | `text=hello` | say this; must be the last item, it may hold commas |

mod compose;
mod control;
mod others;
mod realtime;
mod shape;

#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    cell::OnceCell,
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header::CONTENT_TYPE};
use serde_json::json;
use tokio::time::Sleep;

use self::control::Control;
pub use self::realtime::realtime;
use crate::{
    codec::{ClientView, Inbound, JSON, ModelCard, codec, framing::Framing, mended},
    error::{Error, Kind, Result},
    model::{EmbeddingRequest, Format, Operation, Request},
};

/// The header that steers it.
pub const CONTROL: &str = "x-portcullis-mock";

/// A whole exchange, laid out.
#[derive(Debug)]
pub struct MockAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Wait before the head.
    pub latency: Duration,
    pub chunks: Vec<Chunk>,
    pub end: End,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    pub delay: Duration,
    pub bytes: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Clean,
    /// The connection dies.
    Cut,
    /// Nothing comes any more, and it stays open.
    Stall,
}

/// What a path asks for.
struct Ask<'a> {
    format: Format,
    operation: Operation,
    model: Option<&'a str>,
    stream: Option<bool>,
    single: bool,
    json_array: bool,
    /// A legacy completion.
    legacy: bool,
}

/// The answer to a request. `path` may have a query; an empty body on a models path is a GET.
pub fn answer(method: &Method, path: &str, headers: &HeaderMap, body: &Bytes) -> MockAnswer {
    if let Some(asked) = others::find(method, path) {
        let given = headers.get(CONTROL).and_then(|v| v.to_str().ok()).unwrap_or("");
        let outcome = others::answer(&asked, given, headers, body);
        return outcome.unwrap_or_else(|error| refusal(Format::OpenaiChat, &error, &Control::default()));
    }
    let Some(ask) = ask(path, headers) else {
        let error =
            Error::new(Kind::NotFound, format!("the mock knows no path {}", path.split('?').next().unwrap_or("")));
        return refusal(Format::OpenaiChat, &error, &Control::default());
    };
    let given = headers.get(CONTROL).and_then(|v| v.to_str().ok()).unwrap_or("");
    // As servers do that know half a character when they see one.
    let body = &match mended(body, None) {
        Cow::Owned(mended) => mended.into(),
        Cow::Borrowed(_) => body.clone(),
    };
    let outcome = match ask.operation {
        Operation::Chat => chat(&ask, given, body),
        Operation::CountTokens => count(&ask, given, body),
        Operation::Compact => compact(&ask, given, body),
        Operation::Embeddings => embeddings(&ask, given, body),
        _ => models(&ask, given),
    };
    outcome.unwrap_or_else(|error| refusal(ask.format, &error, &Control::default()))
}

/// Whose error shape a path's callers expect.
pub fn family(path: &str, headers: &HeaderMap) -> Format {
    ask(path, headers).map_or(Format::OpenaiChat, |a| a.format)
}

/// The same in this process: waits as the answer says. The body's frames come with `MockBody::frame`.
pub async fn run(method: &Method, path: &str, headers: &HeaderMap, body: Bytes) -> (StatusCode, HeaderMap, MockBody) {
    let MockAnswer { status, headers, latency, chunks, end } = answer(method, path, headers, &body);
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    (status, headers, MockBody { chunks: chunks.into(), end, wait: None })
}

/// A body that arrives as the answer's plan says. Dropping it ends the exchange.
#[derive(Debug)]
pub struct MockBody {
    chunks: VecDeque<Chunk>,
    end: End,
    wait: Option<Pin<Box<Sleep>>>,
}

impl MockBody {
    /// The next bytes; `None` at a clean end; an error where the connection died. May be dropped and called again.
    pub async fn frame(&mut self) -> Option<Result<Bytes>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let Some(Chunk { delay, .. }) = self.chunks.front() else { return self.poll_end(cx) };
        if !delay.is_zero() {
            let wait = self.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(*delay)));
            std::task::ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        Poll::Ready(self.chunks.pop_front().map(|c| Ok(c.bytes)))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        match self.end {
            End::Clean => Poll::Ready(None),
            // Nobody wakes it: the reader's own clock or its leaving ends this.
            End::Stall => Poll::Pending,
            End::Cut => {
                // A server that hears of the end and the last bytes at once may send neither.
                let wait = self.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(BEFORE_CUT)));
                std::task::ready!(wait.as_mut().poll(cx));
                self.wait = None;
                self.end = End::Clean;
                let message = "the upstream closed the connection before its answer was complete";
                Poll::Ready(Some(Err(Error::new(Kind::Upstream, message))))
            }
        }
    }
}

fn chat(ask: &Ask<'_>, given: &str, body: &Bytes) -> Result<MockAnswer> {
    let codec = codec(ask.format);
    let mut request: Request = codec.decode_request(body, inbound(ask, false))?;
    let control = Control::read(given, &last_user_text(&request))?;
    if let Some(error) = control.refusal() {
        return Ok(refusal(ask.format, &error, &control));
    }
    if let Some(stream) = ask.stream {
        request.stream = stream;
    }
    let response = compose::response(&request, &control, ask.format, seed(body));
    let mut view = view(ask, &request.model, seed(body), request.include_usage);
    let fields = OnceCell::new();
    view.echo = codec.echo(&|name| {
        let read = || serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(body).unwrap_or_default();
        fields.get_or_init(read).get(name).cloned()
    });
    if !request.stream {
        return Ok(whole(codec.encode_response(&response, &view)?, JSON, &control));
    }
    let mut encoder = codec.stream_encoder(&view);
    let mut events = Vec::new();
    for event in compose::events(&response) {
        let mut bytes = Vec::new();
        encoder.push(&event, &mut bytes);
        if !bytes.is_empty() {
            events.push(bytes);
        }
    }
    let mut last = Vec::new();
    encoder.finish(&mut last);
    if !last.is_empty() {
        events.push(last);
    }
    let kind = if ask.json_array { JSON } else { Framing::of(ask.format).content_type() };
    Ok(streamed(events, kind, &control))
}

fn count(ask: &Ask<'_>, given: &str, body: &Bytes) -> Result<MockAnswer> {
    let codec = codec(ask.format);
    let request = codec.decode_request(body, inbound(ask, true))?;
    let control = Control::read(given, &last_user_text(&request))?;
    if let Some(error) = control.refusal() {
        return Ok(refusal(ask.format, &error, &control));
    }
    let tokens = control.usage.map_or_else(|| compose::input_tokens(&request), |u| u.input);
    Ok(whole(codec.encode_count_response(tokens), JSON, &control))
}

/// The last thing the user said, and an item that nobody can read.
fn compact(ask: &Ask<'_>, given: &str, body: &Bytes) -> Result<MockAnswer> {
    let request = codec(ask.format).decode_request(body, inbound(ask, false))?;
    let said = last_user_text(&request);
    let control = Control::read(given, &said)?;
    if let Some(error) = control.refusal() {
        return Ok(refusal(ask.format, &error, &control));
    }
    let input = control.usage.map_or_else(|| compose::input_tokens(&request), |u| u.input);
    let seed = seed(body);
    let answer = json!({
        "id": format!("resp_mock{seed:016x}"),
        "object": "response.compaction",
        "created_at": 1_700_000_000,
        "output": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": said}]},
            {"type": "compaction", "id": format!("cmp_mock{seed:016x}"), "encrypted_content": format!("mock{seed:016x}")},
        ],
        "usage": {"input_tokens": input, "output_tokens": 4, "total_tokens": input + 4},
    });
    Ok(whole(answer.to_string().into_bytes(), JSON, &control))
}

fn embeddings(ask: &Ask<'_>, given: &str, body: &Bytes) -> Result<MockAnswer> {
    let codec = codec(ask.format);
    let request: EmbeddingRequest = codec.decode_embeddings(body, inbound(ask, false))?;
    let control = Control::read(given, &compose::embedding_text(&request))?;
    if let Some(error) = control.refusal() {
        return Ok(refusal(ask.format, &error, &control));
    }
    let response = compose::vectors(&request, &control)?;
    let mut view = view(ask, &request.model, seed(body), false);
    view.single = request.single || ask.single;
    view.base64 = request.encoding == crate::model::Encoding::Base64;
    Ok(whole(codec.encode_embeddings_response(&response, &view)?, JSON, &control))
}

fn models(ask: &Ask<'_>, given: &str) -> Result<MockAnswer> {
    let control = Control::read(given, "")?;
    if let Some(error) = control.refusal() {
        return Ok(refusal(ask.format, &error, &control));
    }
    let card = |id: &str| ModelCard {
        id: id.to_owned(),
        owner: "mock".to_owned(),
        created: compose::CREATED,
        context_window: Some(128_000),
        max_output: Some(16_384),
    };
    let codec = codec(ask.format);
    let body = match ask.model {
        Some(model) => codec.encode_model(&card(model)),
        None => codec.encode_models(&[card("mock")]),
    };
    Ok(whole(body, JSON, &control))
}

fn inbound<'a>(ask: &Ask<'a>, counting: bool) -> Inbound<'a> {
    Inbound { model: ask.model, stream: ask.stream, version: None, counting, legacy: ask.legacy }
}

fn view(ask: &Ask<'_>, model: &str, seed: u64, include_usage: bool) -> ClientView {
    ClientView {
        model: model.to_owned(),
        request_id: format!("mock{seed:016x}"),
        now: compose::CREATED,
        include_usage,
        json_array: ask.json_array,
        echo: None,
        legacy: ask.legacy,
        strict_sdk: false,
        base64: false,
        single: ask.single,
    }
}

fn whole(body: Vec<u8>, kind: &'static str, control: &Control) -> MockAnswer {
    let faulty = control.cut.or(control.stall).is_some();
    let kept = if faulty { body.len() / 2 } else { body.len() };
    let bytes = Bytes::from(body).slice(..kept);
    lay_out(StatusCode::OK, kind, vec![Chunk { delay: Duration::ZERO, bytes }], control)
}

fn streamed(events: Vec<Vec<u8>>, kind: &'static str, control: &Control) -> MockAnswer {
    let keep = control.cut.or(control.stall).unwrap_or(usize::MAX);
    let chunks = events.into_iter().take(keep).map(|e| Chunk { delay: control.pace, bytes: e.into() }).collect();
    lay_out(StatusCode::OK, kind, chunks, control)
}

fn lay_out(status: StatusCode, kind: &'static str, chunks: Vec<Chunk>, control: &Control) -> MockAnswer {
    let end = match (control.cut, control.stall) {
        (Some(_), _) => End::Cut,
        (None, Some(_)) => End::Stall,
        (None, None) => End::Clean,
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(HeaderName::from_static("x-request-id"), HeaderValue::from_static("mock"));
    MockAnswer { status, headers, latency: control.latency, chunks: cut_up(chunks, control.chunk), end }
}

/// Pieces of `size` bytes, over the borders of events: what a network does.
fn cut_up(chunks: Vec<Chunk>, size: Option<usize>) -> Vec<Chunk> {
    let Some(size) = size else { return chunks };
    let mut out = Vec::new();
    for Chunk { mut delay, mut bytes } in chunks {
        while !bytes.is_empty() {
            let piece = bytes.split_to(size.min(bytes.len()));
            out.push(Chunk { delay: std::mem::take(&mut delay), bytes: piece });
        }
    }
    out
}

fn refusal(format: Format, error: &Error, control: &Control) -> MockAnswer {
    let body = Bytes::from(codec(format).encode_error(error, "mock"));
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let clean = Control { latency: control.latency, chunk: control.chunk, ..Control::default() };
    let mut answer = lay_out(status, JSON, vec![Chunk { delay: Duration::ZERO, bytes: body }], &clean);
    if let Some((name, value)) = codec(format).error_header(error) {
        answer.headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some(wait) = error.retry_after {
        answer.headers.insert(http::header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
    }
    answer
}

/// Paths with any prefix: `…/chat/completions`, `…/messages`, `…/models/{model}:generateContent`.
fn ask<'a>(path: &'a str, headers: &HeaderMap) -> Option<Ask<'a>> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let plain = |format, operation| Ask {
        format,
        operation,
        model: None,
        stream: None,
        single: false,
        json_array: false,
        legacy: false,
    };
    for (tail, format, operation) in [
        ("/chat/completions", Format::OpenaiChat, Operation::Chat),
        ("/embeddings", Format::OpenaiChat, Operation::Embeddings),
        ("/responses", Format::OpenaiResponses, Operation::Chat),
        ("/responses/compact", Format::OpenaiResponses, Operation::Compact),
        ("/responses/input_tokens", Format::OpenaiResponses, Operation::CountTokens),
        ("/messages", Format::AnthropicMessages, Operation::Chat),
        ("/messages/count_tokens", Format::AnthropicMessages, Operation::CountTokens),
        ("/v2/chat", Format::Cohere, Operation::Chat),
        ("/v2/embed", Format::Cohere, Operation::Embeddings),
        ("/api/chat", Format::Ollama, Operation::Chat),
        ("/api/embed", Format::Ollama, Operation::Embeddings),
    ] {
        if path.ends_with(tail) {
            return Some(plain(format, operation));
        }
    }
    if path.ends_with("/completions") {
        return Some(Ask { legacy: true, ..plain(Format::OpenaiChat, Operation::Chat) });
    }
    if let Some((_, rest)) = path.rsplit_once("/models/")
        && let Some((model, verb)) = rest.rsplit_once(':')
    {
        let base = Ask { model: Some(model), ..plain(Format::Gemini, Operation::Chat) };
        return Some(match verb {
            "generateContent" => Ask { stream: Some(false), ..base },
            "streamGenerateContent" => {
                Ask { stream: Some(true), json_array: !query.split('&').any(|q| q == "alt=sse"), ..base }
            }
            "embedContent" => Ask { operation: Operation::Embeddings, single: true, ..base },
            "batchEmbedContents" => Ask { operation: Operation::Embeddings, ..base },
            "countTokens" => Ask { operation: Operation::CountTokens, ..base },
            _ => return None,
        });
    }
    if let Some((_, rest)) = path.rsplit_once("/model/") {
        let base = |model, stream| Ask {
            model: Some(model),
            stream: Some(stream),
            ..plain(Format::BedrockConverse, Operation::Chat)
        };
        return match (rest.strip_suffix("/converse"), rest.strip_suffix("/converse-stream")) {
            (Some(model), _) => Some(base(model, false)),
            (_, Some(model)) => Some(base(model, true)),
            (None, None) => None,
        };
    }
    let family = if headers.contains_key("anthropic-version") {
        Format::AnthropicMessages
    } else if path.contains("/v1beta") || headers.contains_key("x-goog-api-key") {
        Format::Gemini
    } else {
        Format::OpenaiChat
    };
    if path.ends_with("/models") {
        return Some(plain(family, Operation::ListModels));
    }
    let (_, model) = path.rsplit_once("/models/").filter(|(_, m)| !m.is_empty())?;
    Some(Ask { model: Some(model), ..plain(family, Operation::OneModel) })
}

fn last_user_text(request: &Request) -> String {
    compose::last_user_text(request)
}

/// Time for the bytes before a cut to leave.
const BEFORE_CUT: Duration = Duration::from_millis(5);

/// FNV-1a: the same request gives the same ids.
fn seed(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

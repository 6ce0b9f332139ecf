//! Answers on their way out: heads, whole bodies, errors. Knows headers; decides nothing.

mod cached;
mod mould;
mod rates;
mod timing;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use serde_json::Value;

use self::{
    mould::{Head, Slot},
    timing::server_timing,
};
use crate::{
    account::{Record, price::write_usd},
    answer::Streaming,
    call::Call,
    clock,
    codec::{
        ClientView, JSON, codec,
        document::Document,
        envelope::Envelope,
        framing::Framing,
        glance::{Glance, glance},
    },
    context::Trace,
    error::{Error, Kind, Result},
    exchange::Exchange,
    follow::{Following, Lead},
    long_input::Pieces,
    model::{self, Format, Operation, fold::unfold},
    opaque::answer::Through,
    pipeline::{Candidate, ResponseFlow},
    realtime::Session,
    route::Table,
    server::{Body, BodyPermit},
};

/// What the client gets.
pub enum Reply {
    Whole {
        content_type: &'static str,
        body: Bytes,
        headers: Vec<(HeaderName, HeaderValue)>,
    },
    Stream(Box<Streaming>),
    /// An answer that nobody translates: all of it when it has ended, else its beginning.
    Through(Box<Through>),
    /// A stream that begins before its request is ready to be sent.
    Pieces(Box<Pieces>),
    /// A WebSocket that is open upstream.
    Session(Box<Session>),
    /// It goes on in a task of its own, because others may wait for its answer.
    Lead(Box<Lead>),
    /// The answer of another request, as it comes.
    Follow(Box<Following>),
}

impl Reply {
    pub fn json(body: Bytes) -> Reply {
        Reply::Whole { content_type: JSON, body, headers: Vec::new() }
    }

    /// A whole body counts until the client has it.
    pub fn hold(&mut self, share: BodyPermit) {
        if let Reply::Whole { body, .. } = self {
            *body = share.around(std::mem::take(body));
        }
    }

    pub fn with(mut self, name: &'static str, value: &'static str) -> Reply {
        if let Reply::Whole { headers, .. } = &mut self {
            headers.push((HeaderName::from_static(name), HeaderValue::from_static(value)));
        }
        self
    }
}

/// `/health/live` and `/health/ready` on the data port; probes that want no body ask with HEAD.
pub fn health(parts: &Parts, ready: impl FnOnce() -> (bool, Value)) -> Option<Response<Body>> {
    let path = parts.uri.path();
    if !path.starts_with("/health/") || !(parts.method == Method::GET || parts.method == Method::HEAD) {
        return None;
    }
    let (ok, body) = match path {
        "/health/live" => (true, serde_json::json!({"status": "live"})),
        "/health/ready" => ready(),
        _ => return None,
    };
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    Some(response)
}

/// The head of every answer.
pub fn head(exchange: &Exchange) -> Head {
    let mut head = Head::default();
    let cx = &exchange.cx;
    let record = &exchange.record;
    head.text(Slot::REQUEST_ID, &cx.id);
    match cx.format {
        Format::AnthropicMessages => head.text(Slot::FAMILY_REQUEST_ID, &cx.id),
        Format::BedrockConverse => head.text(Slot::AMZN_REQUEST_ID, &cx.id),
        _ => {}
    }
    if !record.model.is_empty() {
        head.text(Slot::MODEL, &record.model);
    }
    if let Some(target) = &record.target {
        head.text(Slot::TARGET, target);
        head.put(Slot::ATTEMPTS, HeaderValue::from(cx.attempt));
    }
    cached::told(&mut head, exchange);
    if let Some(mark) = &record.experiment {
        head.text(Slot::ARM, &mark.arm);
    }
    if let Some(id) = &exchange.upstream_id {
        head.put(Slot::UPSTREAM_ID, id.clone());
    }
    if !exchange.dropped.is_empty() {
        head.text(Slot::DROPPED, &exchange.dropped.join(","));
    }
    if !exchange.capped.is_empty() {
        head.text(Slot::CAPPED, &exchange.capped.join(","));
    }
    if let Some(tokens) = exchange.max_tokens {
        head.put(Slot::MAX_TOKENS, HeaderValue::from(tokens));
    }
    if exchange.fell_back {
        head.put(Slot::BUDGET_FALLBACK, HeaderValue::from_static("true"));
    }
    head.put(Slot::TIMING, server_timing(exchange, Duration::ZERO));
    if cx.explain {
        head.text(Slot::EXPLAIN, &explained(&cx.trace));
    }
    if let Some(rates) = exchange.rates() {
        rates::put(&mut head, cx.format, rates, cx.now + exchange.lasted());
    }
    head
}

/// The trace as a header: as many of its steps as clients take in one.
fn explained(trace: &Trace) -> String {
    let steps = crate::telemetry::trace_json(trace);
    let mut out = String::from("[");
    for step in steps.as_array().into_iter().flatten().map(Value::to_string) {
        let last = out.len() + step.len() > MAX_TRACE;
        if out.len() > 1 {
            out.push(',');
        }
        if last {
            out.push_str(r#"{"step":"cut"}"#);
            break;
        }
        out.push_str(&step);
    }
    out.push(']');
    out
}

pub fn whole(
    exchange: &Exchange,
    content_type: &'static str,
    body: Bytes,
    more: Vec<(HeaderName, HeaderValue)>,
) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    let mut head = head(exchange);
    head.put(Slot::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(cost) = cost(&exchange.record).or_else(|| cached::free(exchange)) {
        head.put(Slot::COST, cost);
    }
    *response.headers_mut() = head.cast();
    response.headers_mut().extend(more);
    response
}

/// What the request has cost, when all of it is known.
fn cost(record: &Record) -> Option<HeaderValue> {
    if record.ledger.is_empty() || record.cost_unknown {
        return None;
    }
    let mut text = Vec::with_capacity(24);
    write_usd(record.cost_nano_usd?, &mut text);
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
}

/// The head of a stream, `upstream` after its call was sent. Buffering proxies are told to leave it alone.
pub fn stream_head(exchange: &Exchange, json_array: bool, upstream: Duration) -> Response<()> {
    let mut response = Response::new(());
    let mut head = head(exchange);
    head.put(Slot::TIMING, server_timing(exchange, upstream));
    let content_type = if json_array { JSON } else { Framing::of(exchange.cx.format).content_type() };
    head.put(Slot::CONTENT_TYPE, HeaderValue::from_static(content_type));
    head.put(Slot::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    head.put(Slot::UNBUFFERED, HeaderValue::from_static("no"));
    *response.headers_mut() = head.cast();
    response
}

/// An answer that nobody translates; it goes on streaming unless it has ended.
pub fn through(exchange: &Exchange, through: &mut Through) -> Response<Body> {
    let headers = std::mem::take(&mut through.headers);
    let mut response = if through.ended {
        whole(exchange, JSON, through.body(), Vec::new())
    } else {
        let mut response = Response::new(Body::Empty);
        let mut head = head(exchange);
        head.put(Slot::TIMING, server_timing(exchange, clock::since(through.began)));
        head.put(Slot::UNBUFFERED, HeaderValue::from_static("no"));
        *response.headers_mut() = head.cast();
        response
    };
    for (name, value) in headers {
        response.headers_mut().insert(name, value);
    }
    *response.status_mut() = through.status;
    response
}

/// The answer to a WebSocket's handshake.
pub fn session(exchange: &Exchange, session: &Session) -> Response<Body> {
    let spoken = session.upgrade.protocols().iter().find(|p| *p == "realtime");
    let mut response = session.upgrade.response(spoken.map(String::as_str));
    response.headers_mut().extend(head(exchange).cast());
    response
}

/// An error in the client's own format.
pub fn error(exchange: &Exchange, error: &Error) -> Response<Body> {
    let format = exchange.cx.format;
    // The methods that a path takes travel as a header, not as a field at fault.
    let mut other = (error.kind == Kind::MethodNotAllowed).then(|| error.copy());
    let allow = other.as_mut().and_then(|other| other.param.take());
    let error = other.as_ref().unwrap_or(error);
    let own = error.upstream.as_ref().and_then(|u| u.body.clone()).filter(|_| error.kind == Kind::UpstreamRefused);
    let body = own.unwrap_or_else(|| codec(format).encode_error(error, &exchange.cx.id).into());
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut head = head(exchange);
    head.put(Slot::CONTENT_TYPE, HeaderValue::from_static(JSON));
    let mut headers = head.cast();
    if let Some((name, value)) = codec(format).error_header(error) {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some(wait) = error.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil() as u64));
    }
    // The gateway has spent its own retries, what states no wait does not change by asking again, and the end of a
    // budget's window is nothing to sleep for.
    let long = error.retry_after.is_none_or(|wait| wait > LONGEST_WAIT);
    if exchange.cx.attempt > 0 || long {
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
    }
    if let Some(allow) = allow.and_then(|a| HeaderValue::try_from(a).ok()) {
        headers.insert(header::ALLOW, allow);
    }
    *response.headers_mut() = headers;
    response
}

/// An answer made here, by a stage: it passes the answer side of the stages before that one.
pub async fn made(exchange: &mut Exchange, mut response: model::Response, stream: bool) -> Result<Reply> {
    let operation = exchange.cx.operation;
    if operation != Operation::Chat {
        let message = format!("a stage answered with text where {} was asked for", operation.name());
        return Err(Error::new(Kind::Internal, message).with_code("stage_failed"));
    }
    let inner = &mut **exchange;
    let here = Candidate::default();
    // With no target there is no next one: the answer stands.
    if let ResponseFlow::Next(_) = inner.chain.response(&mut inner.cx, &here, &mut response).await? {
        inner.record.tags.push(quality_unmet());
    }
    if let Some(finish) = response.choices.first().and_then(|c| c.finish.as_ref()) {
        inner.record.finish_reason = Some(finish.reason.name());
    }
    in_shape(exchange.cx.format, &response, &exchange.view(), stream)
}

/// Stages may reword an error, or answer in its place.
pub async fn refused(exchange: &mut Exchange, mut error: Error) -> Result<Reply> {
    let inner = &mut **exchange;
    match inner.chain.error(&mut inner.cx, &mut error).await {
        // There is no saying a vector or a count in an answer's shape.
        Some(response) if exchange.cx.operation == Operation::Chat => {
            let stream = exchange.record.stream;
            made(exchange, *response, stream).await
        }
        _ => Err(error),
    }
}

/// The answers that stages found wanting are all there is: the last complete one is delivered and marked.
pub async fn unmet(exchange: &mut Exchange, from: &Candidate, stream: bool) -> Result<Reply> {
    let inner = &mut **exchange;
    let response = inner
        .chain
        .unmet(&mut inner.cx, from)
        .await?
        .ok_or_else(|| Error::new(Kind::Upstream, "no target's answer was good enough; try again later"))?;
    inner.record.tags.push(quality_unmet());
    inner.record.target = Some(from.name.clone());
    in_shape(exchange.cx.format, &response, &exchange.view(), stream)
}

/// The mark of an answer that stages found wanting and that was delivered all the same.
pub fn quality_unmet() -> (String, String) {
    ("quality_unmet".to_owned(), "true".to_owned())
}

/// A canonical answer, whole or as the stream that was asked for.
pub fn in_shape(format: Format, response: &model::Response, view: &ClientView, stream: bool) -> Result<Reply> {
    if stream {
        return Ok(stream_of(format, response, view));
    }
    Ok(Reply::json(codec(format).encode_response(response, view)?.into()))
}

/// A whole answer in the shape of a stream.
fn stream_of(format: Format, response: &model::Response, view: &ClientView) -> Reply {
    let mut encoder = codec(format).stream_encoder(view);
    let mut out = Vec::new();
    for event in unfold(response).iter().filter(|e| **e != model::Event::End) {
        encoder.push(event, &mut out);
    }
    encoder.finish(&mut out);
    let content_type = if view.json_array { JSON } else { Framing::of(format).content_type() };
    Reply::Whole { content_type, body: out.into(), headers: Vec::new() }
}

/// A count made here: the text's bytes by a ratio, marked as an estimate.
pub fn estimate(exchange: &Exchange, document: &Document) -> Reply {
    // Four bytes a token is the middle of the tokenizers in use for English text; the ledger learns better ones.
    let tokens = document.text_bytes().div_ceil(4).max(1);
    Reply::json(codec(exchange.cx.format).encode_count_response(tokens).into()).with("x-portcullis-estimated", "true")
}

/// The model list in the caller's family.
pub fn models(exchange: &Exchange, routes: &Table) -> Reply {
    Reply::json(codec(exchange.cx.format).encode_models(&routes.models(&exchange.cx.principal)).into())
}

pub fn one_model(exchange: &Exchange, routes: &Table, name: Option<&str>) -> Result<Reply> {
    let name = name.unwrap_or_default();
    let card = routes.model(name, &exchange.cx.principal).ok_or_else(|| {
        Error::new(Kind::ModelNotFound, format!("there is no model `{name}` for this key; GET /v1/models lists them"))
    })?;
    Ok(Reply::json(codec(exchange.cx.format).encode_model(&card).into()))
}

/// Embeddings, token counts and compacted conversations.
pub fn other(exchange: &mut Exchange, document: &Document, call: &Call, body: Bytes) -> Result<Reply> {
    let (from, to) = (codec(call.format), codec(exchange.cx.format));
    match exchange.cx.operation {
        Operation::CountTokens => {
            if call.same_format {
                return Ok(Reply::json(body));
            }
            Ok(Reply::json(to.encode_count_response(from.decode_count(&body)?).into()))
        }
        Operation::Compact => {
            let broken = || Error::new(Kind::Upstream, "the upstream's answer is no compacted conversation");
            let envelope = Envelope::fields(&body).map_err(|e| broken().because(e))?;
            envelope.value(&body, "output").ok_or_else(broken)?;
            if let Some(usage) = envelope.value(&body, "usage").and_then(|at| from.read_usage(&body[at])) {
                exchange.used(&usage);
            }
            Ok(Reply::json(body))
        }
        _ if call.same_format && !exchange.wire.strict_sdk => {
            note_facts(exchange, document.format(), &body)?;
            Ok(Reply::json(body))
        }
        _ => {
            let response = from.decode_embeddings_response(&body)?;
            if let Some(usage) = &response.usage {
                exchange.used(usage);
            }
            Ok(Reply::json(to.encode_embeddings_response(&response, &exchange.view())?.into()))
        }
    }
}

/// Of an answer that goes through as it came: is it one, what did it use, how did it end?
pub fn note_facts(exchange: &mut Exchange, format: Format, body: &[u8]) -> Result<()> {
    let searches = exchange.size.rates.as_ref().is_some_and(|rates| rates.sells_searches());
    let Glance { usage, finish } = glance(format, exchange.cx.operation, body, searches)?;
    if let Some(usage) = &usage {
        exchange.used(usage);
    }
    if let Some(finish) = finish {
        exchange.finished(finish);
    }
    Ok(())
}

/// A minute is what a rate limit takes to come back.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Common clients refuse heads of 16 KiB.
const MAX_TRACE: usize = 8 << 10;

//! All upstreams of a rehearsal: hears every call, and answers in the words of its target's format as it was told. Sends
//! nothing, waits in virtual time only.

use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::Value;

use super::answers::{Answer, Answers, Fault, Pieces};
use crate::{
    clock,
    codec::{ClientView, Inbound, JSON, codec, framing::Framing},
    error::{Error, Kind, Result},
    model::{EmbeddingResponse, Event, Format, Operation, Usage, fold::Fold},
    route::Target,
    transport::{Incoming, Outbound, Upstreams},
    upstream,
};

/// One call, as its upstream heard it.
#[derive(Debug, Clone)]
pub struct Heard {
    pub target: Arc<str>,
    pub format: Format,
    /// Null where it is no JSON.
    pub body: Value,
    /// Without the key.
    pub headers: HeaderMap,
}

pub struct Stage {
    client: Format,
    operation: Operation,
    answers: Answers,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    heard: Vec<Heard>,
    by_target: BTreeMap<Arc<str>, usize>,
}

impl Stage {
    /// For one request in the format `client`.
    pub fn new(client: Format, operation: Operation, answers: Answers) -> Stage {
        Stage { client, operation, answers, said: Mutex::default() }
    }

    pub fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut self.lock().heard)
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the call and finds what it is told.
    fn next(&self, target: &Target, format: Format, call: &Outbound) -> Answer {
        let mut said = self.lock();
        let mut headers = call.headers.clone();
        for name in KEYS {
            headers.remove(name);
        }
        let body = serde_json::from_slice(&call.body).unwrap_or_default();
        said.heard.push(Heard { target: target.name.clone(), format, body, headers });
        let attempt = said.heard.len() - 1;
        let turn = said.by_target.entry(target.name.clone()).or_default();
        let (now, answers) = (*turn, &self.answers);
        *turn += 1;
        let own = answers.by_target.get(&*target.name);
        let own = own.and_then(|list| list.get(now).or(list.last()));
        let told = answers.by_attempt.get(attempt).or(own).or(answers.others.as_ref());
        told.cloned().unwrap_or_else(|| Answer::text(USUAL))
    }

    async fn play(&self, target: &Target, call: Outbound) -> Result<Incoming> {
        let format = target.provider.speaks(self.client);
        let answer = self.next(target, format, &call);
        clock::sleep(answer.latency).await;
        let mut headers = HeaderMap::new();
        for (name, value) in &answer.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
        match &answer.fault {
            Some(Fault::Refused) => {
                let message = format!("{} could not be reached: the connection was refused", target.provider.name);
                return Err(Error::new(Kind::Upstream, message).with_code("connection_refused"));
            }
            Some(Fault::Silent) => return pending().await,
            Some(Fault::Status { status, message, retry_after }) => {
                return Ok(refusal(format, *status, message.as_deref(), *retry_after, headers));
            }
            Some(Fault::Bytes(bytes)) => {
                headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(JSON));
                return Ok(incoming(
                    StatusCode::OK,
                    headers,
                    VecDeque::from([whole(bytes.clone().into())]),
                    End::Clean,
                ));
            }
            Some(Fault::Cut(_) | Fault::Stall(_)) | None => {}
        }
        let view = ClientView {
            model: target.model.to_string(),
            request_id: "rehearsed".to_owned(),
            include_usage: true,
            ..ClientView::default()
        };
        let asked: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        let streams = asked["stream"] == true || call.url.path().to_ascii_lowercase().contains("stream");
        let events = answer.stream(&target.model, self.answers.pieces);
        let usage = || answer.usage.clone().unwrap_or_default();
        let (kind, frames) = match self.operation {
            Operation::Chat if streams && !target.provider.framed() => {
                (Framing::of(format).content_type(), streamed(format, &view, &events, &answer, self.answers.pieces))
            }
            Operation::Chat => {
                let mut fold = Fold::default();
                events.into_iter().for_each(|event| fold.push(event));
                let mut body = codec(format).encode_response(&fold.finish(), &view)?;
                if answer.fault.is_some() {
                    body.truncate(body.len() / 2);
                }
                (JSON, VecDeque::from([whole(body)]))
            }
            Operation::Embeddings => (JSON, VecDeque::from([whole(vectors(format, &call.body, usage(), &view)?)])),
            _ => {
                let tokens = usage().input_tokens.unwrap_or(call.body.len() as u64 / 4);
                (JSON, VecDeque::from([whole(codec(format).encode_count_response(tokens))]))
            }
        };
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(kind));
        let end = match answer.fault {
            Some(Fault::Cut(_)) => End::Cut,
            Some(Fault::Stall(_)) => End::Stall,
            _ => End::Clean,
        };
        Ok(incoming(StatusCode::OK, headers, frames, end))
    }
}

impl Upstreams for Stage {
    fn answer<'a>(&'a self, target: &'a Target, call: Outbound) -> BoxFuture<'a, Result<Incoming>> {
        Box::pin(self.play(target, call))
    }
}

/// Bytes, and the wait before them.
type Piece = (Duration, Bytes);

#[derive(Clone, Copy)]
enum End {
    Clean,
    Cut,
    Stall,
}

fn whole(bytes: Vec<u8>) -> Piece {
    (Duration::ZERO, bytes.into())
}

/// An event a piece, as far as the answer goes.
fn streamed(format: Format, view: &ClientView, events: &[Event], answer: &Answer, pieces: Pieces) -> VecDeque<Piece> {
    let mut encoder = codec(format).stream_encoder(view);
    let mut out = VecDeque::new();
    let mut push = |bytes: Vec<u8>| match pieces {
        _ if bytes.is_empty() => {}
        Pieces::Bytes => {
            let bytes = Bytes::from(bytes);
            out.extend(
                (0..bytes.len()).map(|at| (if at == 0 { answer.pace } else { Duration::ZERO }, bytes.slice(at..=at))),
            );
        }
        _ => out.push_back((answer.pace, bytes.into())),
    };
    let most = match answer.fault {
        Some(Fault::Cut(most) | Fault::Stall(most)) => Some(most),
        _ => None,
    };
    let mut said = 0;
    for event in events.iter().filter(|event| **event != Event::End) {
        let counts = matches!(event, Event::Delta { .. });
        if most.is_some_and(|most| said >= most && !matches!(event, Event::Start(_))) {
            return out;
        }
        said += usize::from(counts);
        let mut bytes = Vec::new();
        encoder.push(event, &mut bytes);
        push(bytes);
    }
    let mut last = Vec::new();
    encoder.finish(&mut last);
    push(last);
    out
}

fn incoming(status: StatusCode, headers: HeaderMap, pieces: VecDeque<Piece>, end: End) -> Incoming {
    let frames = stream::unfold((pieces, end, false), |(mut pieces, end, over)| async move {
        if over {
            return None;
        }
        if let Some((wait, bytes)) = pieces.pop_front() {
            clock::sleep(wait).await;
            return Some((Ok(Frame::data(bytes)), (pieces, end, false)));
        }
        match end {
            End::Clean => None,
            End::Cut => {
                let message = "the upstream closed the connection before its answer was complete";
                Some((Err(Error::new(Kind::Upstream, message)), (pieces, end, true)))
            }
            End::Stall => pending().await,
        }
    });
    Incoming { status, headers, body: upstream::Answer::body(StreamBody::new(frames)), reused: true }
}

/// In the format's own error shape.
fn refusal(
    format: Format,
    status: u16,
    message: Option<&str>,
    wait: Option<Duration>,
    mut headers: HeaderMap,
) -> Incoming {
    let kind = match status {
        401 => Kind::Unauthenticated,
        403 => Kind::Forbidden,
        404 => Kind::ModelNotFound,
        408 => Kind::RequestTimeout,
        413 => Kind::TooLarge,
        429 => Kind::RateLimited,
        503 | 529 => Kind::Overloaded,
        504 => Kind::UpstreamTimeout,
        400..=499 => Kind::InvalidRequest,
        _ => Kind::Internal,
    };
    let told = message.map_or_else(|| format!("the upstream answers {status}"), str::to_owned);
    let error = Error::new(kind, told).with_status(status);
    if let Some((name, value)) = codec(format).error_header(&error) {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some(wait) = wait {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil() as u64));
    }
    headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(JSON));
    let body = codec(format).encode_error(&error, "rehearsed");
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    incoming(status, headers, VecDeque::from([whole(body)]), End::Clean)
}

/// The same vector for each input.
fn vectors(format: Format, body: &[u8], usage: Usage, view: &ClientView) -> Result<Vec<u8>> {
    let inputs = codec(format).decode_embeddings(body, Inbound { model: Some(&view.model), ..Inbound::default() });
    let count = inputs.map_or(1, |request| request.inputs.len().max(1));
    let usage = Usage { input_tokens: usage.input_tokens.or(Some(10)), ..Usage::default() };
    let vectors = vec![vec![0.6, 0.8]; count];
    let response =
        EmbeddingResponse { model: view.model.clone(), vectors, usage: Some(usage), ..EmbeddingResponse::default() };
    codec(format).encode_embeddings_response(&response, view)
}

/// Of an upstream that was told nothing.
const USUAL: &str = "a short answer";
const KEYS: [&str; 5] = ["authorization", "x-api-key", "api-key", "x-goog-api-key", "x-amz-security-token"];

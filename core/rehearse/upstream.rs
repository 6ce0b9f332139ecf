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
    model::{EmbeddingInput, EmbeddingResponse, Event, Format, Operation, Usage, fold::Fold},
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
    operation: Operation,
    answers: Answers,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    heard: Vec<Heard>,
    by_target: BTreeMap<Arc<str>, usize>,
    /// A stage's question is under way: what it asks for, and who heard it last.
    aside: Option<(Operation, Option<Arc<str>>)>,
}

/// While it lives, what upstreams hear is a stage's question and no attempt of the request at hand.
pub struct Aside(Arc<Stage>);

impl Aside {
    /// Who heard the question last.
    pub fn target(&self) -> Option<Arc<str>> {
        self.0.lock().aside.as_ref().and_then(|(_, target)| target.clone())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.lock().aside = None;
    }
}

impl Stage {
    /// For one request.
    pub fn new(operation: Operation, answers: Answers) -> Stage {
        Stage { operation, answers, said: Mutex::default() }
    }

    pub fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut self.lock().heard)
    }

    /// Questions come one at a time: their request waits for each.
    pub fn aside(self: &Arc<Stage>, operation: Operation) -> Aside {
        self.lock().aside = Some((operation, None));
        Aside(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the call and finds what it is told.
    fn next(&self, target: &Target, call: &Outbound) -> (Operation, Answer) {
        let mut said = self.lock();
        let mut operation = self.operation;
        // A place among the attempts; a question has none.
        let mut attempt = None;
        if let Some((asked, heard_by)) = &mut said.aside {
            operation = *asked;
            *heard_by = Some(target.name.clone());
        } else {
            let mut headers = call.headers.clone();
            for name in KEYS {
                headers.remove(name);
            }
            let body = serde_json::from_slice(&call.body).unwrap_or_default();
            attempt = Some(said.heard.len());
            said.heard.push(Heard { target: target.name.clone(), format: call.format, body, headers });
        }
        let turn = said.by_target.entry(target.name.clone()).or_default();
        let (now, answers) = (*turn, &self.answers);
        *turn += 1;
        let own = answers.by_target.get(&*target.name);
        let own = own.and_then(|list| list.get(now).or(list.last()));
        let told = attempt.and_then(|at| answers.by_attempt.get(at)).or(own).or(answers.others.as_ref());
        (operation, told.cloned().unwrap_or_else(|| Answer::text(USUAL)))
    }

    async fn play(&self, target: &Target, call: Outbound) -> Result<Incoming> {
        let format = call.format;
        let (operation, answer) = self.next(target, &call);
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
        let (kind, frames) = match operation {
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
            Operation::Embeddings => (JSON, VecDeque::from([whole(vectors(format, &call.body, &answer, &view)?)])),
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

/// A vector for each input: as the answer tells it by a word of the text, else by the text's own words, so that texts which share
/// some are near each other.
fn vectors(format: Format, body: &[u8], answer: &Answer, view: &ClientView) -> Result<Vec<u8>> {
    let asked = codec(format).decode_embeddings(body, Inbound { model: Some(&view.model), ..Inbound::default() });
    let inputs = asked.map_or_else(|_| vec![EmbeddingInput::Text(String::new())], |request| request.inputs);
    let vectors = inputs.iter().map(|input| match input {
        EmbeddingInput::Text(text) => vector(&text.to_lowercase(), &answer.vectors),
        EmbeddingInput::Tokens(_) | EmbeddingInput::Native { .. } => vector("", &answer.vectors),
    });
    let usage =
        Usage { input_tokens: answer.usage.as_ref().and_then(|u| u.input_tokens).or(Some(10)), ..Usage::default() };
    let vectors = vectors.collect();
    let response =
        EmbeddingResponse { model: view.model.clone(), vectors, usage: Some(usage), ..EmbeddingResponse::default() };
    codec(format).encode_embeddings_response(&response, view)
}

fn vector(text: &str, told: &[(String, Vec<f32>)]) -> Vec<f32> {
    if let Some((_, first)) = told.first() {
        let own = told.iter().find(|(word, _)| text.contains(&word.to_lowercase()));
        return own.map_or_else(|| vec![0.0; first.len()], |(_, vector)| vector.clone());
    }
    let mut vector = vec![0.0; DIMENSIONS];
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        // FNV-1a: the same on every machine.
        let hash = word
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        vector[(hash % DIMENSIONS as u64) as usize] += 1.0;
    }
    vector
}

/// Of an upstream that was told nothing.
const USUAL: &str = "a short answer";
/// Of a vector that nobody told.
const DIMENSIONS: usize = 64;
const KEYS: [&str; 5] = ["authorization", "x-api-key", "api-key", "x-goog-api-key", "x-amz-security-token"];

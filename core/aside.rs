//! Questions that stages ask of a model on their own, answered by the gateway itself: each is a request with an id and a
//! record of its own, metered to the caller of the request at hand, and it goes steps 7 to 10 like any other. It meets no
//! stage, so a question never leads to another.

use std::sync::{Arc, Weak};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use serde_json::{Value, json};

use crate::{
    auth::Principal,
    clock,
    codec::{Dialect, Inbound, codec, document::Document},
    context::Context,
    error::{Error, Kind, Result},
    exchange::{Exchange, Wire},
    gateway::Gateway,
    model::{Format, Operation, Usage},
    pipeline::ask::{Answer, Asker, Behalf, Embed, Question, Vectors},
    reply::Reply,
    runtime::Runtime,
};

/// The gateway as the stages of one runtime know it. It keeps neither alive: a request whose stages may ask holds its runtime.
pub struct Inside {
    gateway: Weak<Gateway>,
    runtime: Weak<Runtime>,
}

impl Inside {
    pub fn of(gateway: &Arc<Gateway>, runtime: &Arc<Runtime>) -> Arc<Inside> {
        Arc::new(Inside { gateway: Arc::downgrade(gateway), runtime: Arc::downgrade(runtime) })
    }

    /// From here on the questions of this runtime's stages are answered.
    pub fn serve(gateway: &Arc<Gateway>, runtime: &Arc<Runtime>) {
        runtime.pipeline.asks.answer_with(Inside::of(gateway, runtime));
    }

    fn both(&self) -> Result<(Arc<Gateway>, Arc<Runtime>)> {
        self.gateway.upgrade().zip(self.runtime.upgrade()).ok_or_else(gone)
    }
}

impl Asker for Inside {
    fn ask(&self, question: Question) -> BoxFuture<'static, Result<Answer>> {
        let both = self.both();
        Box::pin(async move {
            let (gateway, runtime) = both?;
            answer(&gateway, &runtime, question).await
        })
    }

    fn embed(&self, question: Embed) -> BoxFuture<'static, Result<Vectors>> {
        let both = self.both();
        Box::pin(async move {
            let (gateway, runtime) = both?;
            vectors(&gateway, &runtime, question).await
        })
    }
}

/// The answer to one question, on the runtime of the request that it is asked for.
pub async fn answer(gateway: &Gateway, runtime: &Runtime, question: Question) -> Result<Answer> {
    let Question { behalf, request } = question;
    // Bytes, as a caller would send them: estimates and reservations are made from them.
    let encoded = codec(FORMAT).encode_request(&request, &Dialect::of(&request.model))?;
    let mut body = encoded.body;
    body.insert("model".to_owned(), request.model.as_str().into());
    body.remove("stream");
    let (body, said) = made(gateway, runtime, behalf, (Operation::Chat, Value::Object(body))).await?;
    let response = codec(FORMAT).decode_response(&body)?;
    Ok(Answer { text: response.text(), note: said })
}

async fn vectors(gateway: &Gateway, runtime: &Runtime, question: Embed) -> Result<Vectors> {
    let Embed { behalf, model, texts } = question;
    let (wanted, body) = (texts.len(), json!({"model": model, "input": texts, "encoding_format": "float"}));
    let (body, note) = made(gateway, runtime, behalf, (Operation::Embeddings, body)).await?;
    let response = codec(FORMAT).decode_embeddings_response(&body)?;
    let vectors = response.vectors;
    if vectors.len() != wanted {
        let message = format!("{model} gave {} vectors for {wanted} texts", vectors.len());
        return Err(Error::new(Kind::Upstream, message));
    }
    Ok(Vectors { vectors, note })
}

/// The answer's bytes, and what the trace should say of it.
async fn made(
    gateway: &Gateway,
    runtime: &Runtime,
    behalf: Behalf,
    asked: (Operation, Value),
) -> Result<(bytes::Bytes, String)> {
    let Behalf { stage, principal, named, request, mut tags, until } = behalf;
    let principal = if named { unbound(&principal) } else { principal };
    tags.push(("asked_by".to_owned(), stage.to_string()));
    tags.push(("asked_for".to_owned(), request.to_string()));
    let cx = Context::aside(asked.0, FORMAT, principal, tags, until);
    let mut exchange = Exchange::new(cx, gateway.state.settle.clone(), None);
    let outcome = steps(gateway, runtime, &mut exchange, asked).await;
    let note = told(&exchange, &outcome);
    match &outcome {
        Ok(_) => exchange.settle(200),
        Err(error) => {
            exchange.record.error_code = Some(error.code().to_owned());
            let status = error.status();
            exchange.settle(status);
        }
    }
    Ok((outcome?, note))
}

/// The same caller, to a model that the operator named and not the caller.
fn unbound(principal: &Principal) -> Arc<Principal> {
    Arc::new(Principal { models: Arc::default(), ..principal.clone() })
}

/// Steps 3 to 10, but for those that are the caller's own request's.
async fn steps(
    gateway: &Gateway,
    runtime: &Runtime,
    exchange: &mut Exchange,
    (operation, body): (Operation, Value),
) -> Result<bytes::Bytes> {
    let inner = &mut **exchange;
    let limits = &gateway.state.limits;
    inner.bounds = limits.bounds(&inner.cx.principal, &runtime.config.rules, &inner.cx.tags, inner.cx.now);
    exchange.permit = Some(gateway.state.limits.beside(&exchange.bounds)?);
    let inbound = Inbound { stream: Some(false), ..Inbound::default() };
    let mut document = Document::open(FORMAT, operation, body.to_string().into(), inbound)?;
    exchange.asked(&document);
    exchange.wire = Wire::of(operation, false, false, &mut document)?;
    match gateway.routed(runtime, exchange, &HeaderMap::new(), &mut document).await? {
        Reply::Whole { body, .. } => Ok(body),
        _ => Err(Error::new(Kind::Internal, "a question had an answer that is no text")),
    }
}

/// `mock/judge answered in 12 ms (30 + 2 tokens), req_…`
fn told(exchange: &Exchange, outcome: &Result<bytes::Bytes>) -> String {
    let target = exchange.record.target.as_deref().unwrap_or(&exchange.record.model);
    let took = clock::since(exchange.cx.started).as_millis();
    let used = exchange.record.usage.as_ref().map(tokens).unwrap_or_default();
    match outcome {
        Ok(_) => format!("{target} answered in {took} ms{used}, {}", exchange.cx.id),
        Err(error) => format!("{target} did not answer: {} after {took} ms, {}", error.code(), exchange.cx.id),
    }
}

fn tokens(usage: &Usage) -> String {
    let count = |n: Option<u64>| n.map_or("?".to_owned(), |n| n.to_string());
    format!(" ({} + {} tokens)", count(usage.input_tokens), count(usage.output_tokens))
}

fn gone() -> Error {
    Error::new(Kind::Internal, "the gateway is stopping")
}

/// Questions are asked in the format that most targets speak themselves.
const FORMAT: Format = Format::OpenaiChat;

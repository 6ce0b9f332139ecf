//! A stage behind all others that changes nothing: it keeps the request as they left it, for all targets and for each one.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use serde_json::{Map, Value, json};

use crate::{
    codec::{Dialect, document::Document},
    config::StreamMode,
    context::Context,
    model::{Message, Operation},
    pipeline::{
        Candidate, Phase, Reads, Stage, Visit,
        phase::Phases,
        stage::{AttemptVerdict, Outcome, RequestVerdict},
    },
};

/// A request as stages left it.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// In the caller's own format.
    pub body: Value,
    /// By canonical names, whatever the format calls them.
    pub fields: Map<String, Value>,
    pub model: String,
    /// That stages gave it for this target.
    pub headers: HeaderMap,
}

/// Of one request at a time.
#[derive(Default)]
pub struct Witness(Mutex<Option<Asked>>);

impl Witness {
    pub fn asked(&self) -> Option<Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn keep(&self, cx: &Context, doc: &Document, headers: Option<&HeaderMap>) {
        let asked = seen(cx, doc.clone(), headers);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
    }
}

pub struct Behind {
    pub witness: Arc<Witness>,
    pub name: Arc<str>,
}

impl Stage for Behind {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn phases(&self) -> Phases {
        Phases::default().with(Phase::Request).with(Phase::Attempt)
    }

    fn stream(&self) -> Option<StreamMode> {
        None
    }

    fn reads(&self) -> Reads {
        Reads { headers: false, targets: false }
    }

    fn open(&self) -> Box<dyn Visit> {
        Box::new(Look(self.witness.clone()))
    }
}

struct Look(Arc<Witness>);

impl Visit for Look {
    fn request<'a>(
        &'a mut self,
        cx: &'a mut Context,
        request: &'a mut Document,
    ) -> BoxFuture<'a, Outcome<RequestVerdict>> {
        self.0.keep(cx, request, None);
        Box::pin(std::future::ready(Ok(RequestVerdict::Continue)))
    }

    fn attempt<'a>(
        &'a mut self,
        cx: &'a mut Context,
        _target: &'a Candidate,
        request: &'a mut Document,
        headers: &'a mut HeaderMap,
    ) -> BoxFuture<'a, Outcome<AttemptVerdict>> {
        self.0.keep(cx, request, Some(headers));
        Box::pin(std::future::ready(Ok(AttemptVerdict::Continue)))
    }
}

fn seen(cx: &Context, mut doc: Document, headers: Option<&HeaderMap>) -> Asked {
    let model = doc.model().to_owned();
    let fields = if cx.operation == Operation::Chat { fields(&mut doc) } else { Map::new() };
    let patched = doc.patch(&Dialect::of(&model), false);
    let body = patched.ok().and_then(|(pieces, _)| serde_json::from_slice(&pieces.concat()).ok());
    Asked { body: body.unwrap_or_default(), fields, model, headers: headers.cloned().unwrap_or_default() }
}

fn fields(doc: &mut Document) -> Map<String, Value> {
    let stream = doc.stream();
    let Ok(request) = doc.request() else { return Map::new() };
    let sampling = &request.sampling;
    let value = json!({
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": sampling.seed,
        "stop": sampling.stop,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "max_tokens": request.max_tokens,
        "stream": stream,
        "metadata": request.metadata,
        "messages": request.messages.iter().map(Message::joined_text).collect::<Vec<_>>(),
    });
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

//! Operations whose bodies the gateway does not translate: rankings, moderations, pictures, sound, files, batches, and the raw
//! passthrough. Opens such a request (what stages see of it is its document, the rest streams) and prepares its call; the way
//! is the gateway's own, with every step. Sends nothing and sequences nothing.

pub mod answer;
mod background;
pub mod batches;
pub mod claims;
mod finish;
mod form;
mod head;
pub mod ids;
mod kept;
mod named;
pub mod objects;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, header, request::Parts};
use serde_json::Value;

pub use self::{
    background::{begun, in_background},
    finish::{Books, final_word, finish, listed},
    head::param,
    kept::kept,
    named::bring_home,
};
use self::{
    batches::Owed,
    claims::Claims,
    form::Form,
    head::{is_json, model_in, named_provider, refuse_form, without_key},
};
use crate::{
    auth::Principal,
    codec::{
        Inbound,
        document::Document,
        opaque::{self as bodies, Asked},
    },
    endpoint::Found,
    error::{Error, Kind, Result},
    model::{Format, Operation},
    provider::{Provider, Transport},
    route::{Table, Target},
    seal::{Seals, Tenant, Thing, not_found},
    server::{BodyLimits, BodyMemory, BodyPermit, Client, Incoming, Upgrade, Upload, read_body},
    upstream::Flow,
};

/// What such a request needs beside its document.
pub struct Opaque {
    pub method: Method,
    pub answers: Answers,
    pub asked: Asked,
    /// A session's handshake, until it is answered.
    pub upgrade: Option<Upgrade>,
    /// It may see a batch's end.
    pub owed: Option<Box<Owed>>,
    /// What the id in its path is sealed with, where that is more than a provider: `provider/model`.
    pub home: Option<Arc<str>>,
    /// Who sends its body, as long as that is on its way.
    pub client: Option<Client>,
    place: Place,
    body: Payload,
}

/// How its answer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// As it comes.
    Through,
    /// Small JSON that holds ids: sealed.
    Ids(Thing),
    /// A ranking, which not everybody writes alike.
    Ranking,
}

enum Place {
    /// The operation's own; with the upstream's id.
    Usual { id: Option<String> },
    /// As the caller wrote it.
    Raw { rest: String, query: Option<String> },
}

enum Payload {
    None,
    Document,
    Form(Box<Form>),
    Raw { content_type: Option<HeaderValue>, flow: Flow },
}

/// What opening a request needs of the house.
pub struct House<'a> {
    pub routes: &'a Table,
    pub seals: &'a Seals,
    pub claims: &'a Arc<Claims>,
    pub memory: &'a BodyMemory,
    pub limits: &'a BodyLimits,
    /// Bytes of a body that streams.
    pub max_upload: u64,
}

/// An opened request.
pub struct Opened {
    pub document: Document,
    pub opaque: Opaque,
    pub held: Option<BodyPermit>,
    /// The passthrough's errors are its provider's.
    pub format: Format,
}

/// A call's own part.
pub struct Prepared {
    pub method: Method,
    pub url: Uri,
    pub headers: HeaderMap,
    pub body: Vec<Bytes>,
    pub flow: Option<Flow>,
}

/// 5. As far as somebody must read it.
pub async fn open(
    found: &Found,
    parts: &Parts,
    body: Incoming,
    principal: &Arc<Principal>,
    house: &House<'_>,
) -> Result<Opened> {
    let operation = found.operation;
    match operation {
        Operation::EditImage if is_json(&parts.headers) => json(operation, parts, body, house).await,
        Operation::EditImage | Operation::VaryImage | Operation::Transcription | Operation::Translation => {
            form(operation, parts, body, house).await
        }
        Operation::UploadFile => upload(parts, body, house).await,
        Operation::CreateBatch => batch(parts, body, principal, house).await,
        Operation::Passthrough => raw(found, parts, body, house).await,
        Operation::Realtime => session(parts),
        _ if operation.keeps() => kept(found, principal, house).await,
        _ => json(operation, parts, body, house).await,
    }
}

impl Opaque {
    /// For one target: its place, its headers, the body in its words.
    pub fn prepare(
        &self,
        operation: Operation,
        document: &mut Document,
        target: &Target,
        client: &HeaderMap,
    ) -> Result<Prepared> {
        let provider = &target.provider;
        let url = match &self.place {
            Place::Usual { id } if operation == Operation::Realtime => {
                provider.session(&target.model, id.as_deref())?
            }
            Place::Usual { id } => provider.place(operation, id.as_deref(), None)?,
            Place::Raw { rest, query } => provider.raw(&self.method, rest, query.as_deref())?,
        };
        let same = matches!(self.place, Place::Raw { .. }) || provider.format == Format::OpenaiChat;
        let mut headers = provider.headers(client, same, document.stream());
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        if operation == Operation::Realtime {
            headers.extend(provider.session_headers(client));
        }
        let (body, flow, content_type) = match &self.body {
            Payload::None => (Vec::new(), None, None),
            Payload::Document => {
                (self.json(operation, document, target)?, None, headers.get(header::CONTENT_TYPE).cloned())
            }
            Payload::Form(form) => {
                let edited = document.opaque_fields()?;
                (form.pieces(&target.model, edited.as_ref()), form.flow().cloned(), Some(form.content_type.clone()))
            }
            Payload::Raw { content_type, flow } => (Vec::new(), Some(flow.clone()), content_type.clone()),
        };
        match content_type {
            Some(value) => headers.insert(header::CONTENT_TYPE, value),
            None => headers.remove(header::CONTENT_TYPE),
        };
        Ok(Prepared { method: self.method.clone(), url, headers, body, flow })
    }

    fn json(&self, operation: Operation, document: &mut Document, target: &Target) -> Result<Vec<Bytes>> {
        if self.answers == Answers::Ranking && target.provider.lists() {
            let mut fields = bodies::to_list(match document.opaque_fields()? {
                Some(fields) => fields,
                None => bodies::object(document.bytes())?,
            });
            fields.insert("model".to_owned(), Value::from(&*target.model));
            return Ok(vec![Value::Object(fields).to_string().into()]);
        }
        // A passthrough's body names the model as the provider does; others may name an alias.
        let model = (operation != Operation::Passthrough && !operation.lacks_model()).then_some(&*target.model);
        document.opaque_body(model)
    }

    /// The body that streams, if it has one.
    pub fn flow(&self) -> Option<&Flow> {
        match &self.body {
            Payload::Form(form) => form.flow(),
            Payload::Raw { flow, .. } => Some(flow),
            Payload::None | Payload::Document => None,
        }
    }

    /// An upstream's refusal: its own id is not for the caller's eyes.
    pub fn reword(&self, mut error: Error) -> Error {
        let (Answers::Ids(thing), Place::Usual { id }) = (self.answers, &self.place) else { return error };
        if let Some(fault) = &mut error.upstream {
            fault.body = None;
        }
        match id {
            Some(_) if error.upstream.as_ref().is_some_and(|fault| fault.status == 404) => not_found(thing),
            Some(id) => {
                error.message = error.message.replace(id, thing.prefix());
                error
            }
            None => error,
        }
    }
}

/// A body that stages see whole.
async fn json(operation: Operation, parts: &Parts, body: Incoming, house: &House<'_>) -> Result<Opened> {
    refuse_form(&parts.headers)?;
    let held = read_body(body, &parts.headers, house.limits, house.memory).await?;
    let fields = bodies::object(&held.bytes)?;
    let asked = Asked::of(operation, &fields);
    let streams = matches!(operation, Operation::GenerateImage | Operation::EditImage | Operation::Speech);
    let events = fields.get("stream_format").and_then(Value::as_str) == Some("sse");
    let stream = if operation == Operation::Speech { Some(events) } else { (!streams).then_some(false) };
    let inbound = Inbound { stream, ..Inbound::default() };
    let document = Document::open(Format::OpenaiChat, operation, held.bytes, inbound)?;
    let answers = if operation == Operation::Rerank { Answers::Ranking } else { Answers::Through };
    let opaque = Opaque {
        method: Method::POST,
        answers,
        asked,
        upgrade: None,
        owed: None,
        home: None,
        client: None,
        place: Place::Usual { id: None },
        body: Payload::Document,
    };
    Ok(Opened { document, opaque, held: Some(held.permit), format: Format::OpenaiChat })
}

/// A form with a file that streams.
async fn form(operation: Operation, parts: &Parts, body: Incoming, house: &House<'_>) -> Result<Opened> {
    let form = read_form(parts, body, true, house).await?;
    let bytes = Bytes::from(Value::Object(form.fields.clone()).to_string());
    let document = Document::open(Format::OpenaiChat, operation, bytes, Inbound::default())?;
    let asked = Asked::of(operation, &form.fields);
    let opaque = Opaque {
        method: Method::POST,
        answers: Answers::Through,
        asked,
        upgrade: None,
        owed: None,
        home: None,
        client: None,
        place: Place::Usual { id: None },
        body: Payload::Form(Box::new(form)),
    };
    Ok(Opened { document, opaque, held: None, format: Format::OpenaiChat })
}

/// A file goes to the provider that the caller names, or to the only one that takes files.
async fn upload(parts: &Parts, body: Incoming, house: &House<'_>) -> Result<Opened> {
    let mut form = read_form(parts, body, false, house).await?;
    let named = named_provider(parts).or(form.take("provider"));
    let provider = keeper(named.as_deref(), house.routes)?;
    let bytes = Bytes::from(Value::Object(form.fields.clone()).to_string());
    let document = of_provider(Operation::UploadFile, &provider.name, bytes)?;
    let opaque = Opaque {
        method: Method::POST,
        answers: Answers::Ids(Thing::File),
        asked: Asked::default(),
        upgrade: None,
        owed: None,
        home: None,
        client: None,
        place: Place::Usual { id: None },
        body: Payload::Form(Box::new(form)),
    };
    Ok(Opened { document, opaque, held: None, format: Format::OpenaiChat })
}

/// The batch goes where its file is, which must be the caller's own.
async fn batch(parts: &Parts, body: Incoming, principal: &Arc<Principal>, house: &House<'_>) -> Result<Opened> {
    refuse_form(&parts.headers)?;
    let held = read_body(body, &parts.headers, house.limits, house.memory).await?;
    let mut fields = bodies::object(&held.bytes)?;
    let missing = || Error::invalid("input_file_id", "`input_file_id` is required: upload the file first");
    let file = fields.get("input_file_id").and_then(Value::as_str).ok_or_else(missing)?;
    let opened = house.seals.open(Thing::File, Tenant::of(principal), file).map_err(|e| e.at("input_file_id"))?;
    if let Some(named) = named_provider(parts).filter(|named| *named != opened.target) {
        let message = format!("the input file lives at `{}`, not at `{named}`: upload it there", opened.target);
        return Err(Error::invalid("input_file_id", message));
    }
    fields.insert("input_file_id".to_owned(), Value::from(opened.id));
    let bytes = Bytes::from(Value::Object(fields).to_string());
    let document = of_provider(Operation::CreateBatch, &opened.target, bytes)?;
    let opaque = Opaque {
        method: Method::POST,
        answers: Answers::Ids(Thing::Batch),
        asked: Asked::default(),
        upgrade: None,
        owed: None,
        home: None,
        client: None,
        place: Place::Usual { id: None },
        body: Payload::Document,
    };
    Ok(Opened { document, opaque, held: Some(held.permit), format: Format::OpenaiChat })
}

/// A provider's own path. JSON is read for its model and its texts; anything else streams.
async fn raw(found: &Found, parts: &Parts, body: Incoming, house: &House<'_>) -> Result<Opened> {
    let name = found.id.as_deref().unwrap_or_default();
    let unknown =
        || Error::new(Kind::NotFound, "no provider of that name is configured here").with_code("provider_not_found");
    let provider = house.routes.provider(name).ok_or_else(unknown)?;
    let rest = found.rest.clone().unwrap_or_default();
    let query = parts.uri.query().map(without_key).filter(|q| !q.is_empty());
    // What is not listed is refused before its body is read.
    provider.raw(&parts.method, &rest, query.as_deref())?;
    let place = Place::Raw { rest: rest.clone(), query };
    let method = parts.method.clone();
    let (answers, asked) = (Answers::Through, Asked::default());
    let in_path = model_in(&rest);
    let full = |model: &str| format!("{name}/{model}");
    if is_json(&parts.headers) && method != Method::GET {
        let held = read_body(body, &parts.headers, house.limits, house.memory).await?;
        let fields = bodies::object(&held.bytes)?;
        let model = in_path.or_else(|| fields.get("model")?.as_str().map(str::to_owned));
        let streams = rest.contains(":stream") || fields.get("stream") == Some(&Value::Bool(true));
        let model = full(model.as_deref().unwrap_or("*"));
        let inbound = Inbound { model: Some(&model), stream: Some(streams), ..Inbound::default() };
        let document = Document::open(provider.format, Operation::Passthrough, held.bytes, inbound)?;
        let opaque = Opaque {
            method,
            answers,
            asked,
            upgrade: None,
            owed: None,
            home: None,
            client: None,
            place,
            body: Payload::Document,
        };
        return Ok(Opened { document, opaque, held: Some(held.permit), format: provider.format });
    }
    let upload = Upload::open(body, &parts.headers, streaming(house))?;
    let content_type = parts.headers.get(header::CONTENT_TYPE).cloned();
    let body = match upload.length() {
        Some(0) => Payload::None,
        length => Payload::Raw { content_type, flow: Flow::new(upload, length) },
    };
    let model = full(in_path.as_deref().unwrap_or("*"));
    let inbound = Inbound { model: Some(&model), stream: Some(false), ..Inbound::default() };
    let document = Document::open(provider.format, Operation::Passthrough, Bytes::from_static(b"{}"), inbound)?;
    let opaque = Opaque { method, answers, asked, upgrade: None, owed: None, home: None, client: None, place, body };
    Ok(Opened { document, opaque, held: None, format: provider.format })
}

/// A WebSocket for a model that its address names.
fn session(parts: &Parts) -> Result<Opened> {
    let upgrade = Upgrade::of(parts)?;
    let missing = || Error::invalid("model", "name the model in the address: /v1/realtime?model=…");
    let model = param(parts.uri.query(), "model").ok_or_else(missing)?;
    let inbound = Inbound { model: Some(&model), stream: Some(false), ..Inbound::default() };
    let document = Document::open(Format::OpenaiChat, Operation::Realtime, Bytes::from_static(b"{}"), inbound)?;
    let opaque = Opaque {
        method: Method::GET,
        answers: Answers::Through,
        asked: Asked::default(),
        upgrade: Some(upgrade),
        owed: None,
        home: None,
        client: None,
        place: Place::Usual { id: None },
        body: Payload::None,
    };
    Ok(Opened { document, opaque, held: None, format: Format::OpenaiChat })
}

async fn read_form(parts: &Parts, body: Incoming, wants_model: bool, house: &House<'_>) -> Result<Form> {
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let upload = Upload::open(body, &parts.headers, streaming(house))?;
    Form::read(upload, content_type, wants_model, house.memory).await
}

fn streaming(house: &House<'_>) -> BodyLimits {
    BodyLimits { max_body: house.max_upload, ..*house.limits }
}

/// All of a provider's models together: who may use this may use every one of them.
fn of_provider(operation: Operation, provider: &str, bytes: Bytes) -> Result<Document> {
    let model = format!("{provider}/*");
    let inbound = Inbound { model: Some(&model), stream: Some(false), ..Inbound::default() };
    Document::open(Format::OpenaiChat, operation, bytes, inbound)
}

/// Where files go.
fn keeper<'a>(named: Option<&str>, routes: &'a Table) -> Result<&'a Arc<Provider>> {
    let takes = |p: &&Arc<Provider>| p.offers(Operation::UploadFile);
    if let Some(name) = named {
        let refuse = |why: &str| Error::invalid("provider", format!("provider `{name}` {why}"));
        let provider = routes.provider(name).ok_or_else(|| refuse("is not configured here"))?;
        return if takes(&provider) { Ok(provider) } else { Err(refuse("takes no files")) };
    }
    let all: Vec<_> = routes.providers().filter(|p| p.ready() && takes(p)).collect();
    let real: Vec<_> = all.iter().filter(|p| p.transport == Transport::Http).copied().collect();
    match (real.as_slice(), all.as_slice()) {
        ([one], _) | ([], [one]) => Ok(one),
        ([], _) => Err(Error::invalid("provider", "no provider that takes files is configured")),
        (several, _) => {
            let names: Vec<_> = several.iter().map(|p| format!("`{}`", p.name)).collect();
            let message = format!(
                "several providers take files: say which one with `?provider=` or the header x-portcullis-provider ({})",
                names.join(", ")
            );
            Err(Error::invalid("provider", message))
        }
    }
}

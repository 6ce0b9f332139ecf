//! A request body on its way through the gateway: the client's bytes, their envelope, and the canonical model once
//! somebody has read it. Edits are remembered by field, so that an upstream of the same format gets the client's bytes
//! with patches, not a rebuild.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Dialect, Field, Inbound, OutputBound, codec, envelope::Envelope, opaque};
use crate::{
    error::{Error, Result},
    model::{EmbeddingInput, EmbeddingRequest, Format, Message, Operation, Part, Request, Role, ServiceTier},
};

mod doubles;
mod home;
mod lent;
mod text;
mod told;
mod write;

use write::{quoted, to_bytes};

/// Cheap to clone: an attempt works on its own copy.
#[derive(Debug, Clone)]
pub struct Document {
    format: Format,
    operation: Operation,
    bytes: Bytes,
    envelope: Arc<Envelope>,
    model: Arc<str>,
    stream: bool,
    version: Option<Arc<str>>,
    counting: bool,
    /// A legacy completion: only an upstream with that endpoint is sent these bytes.
    legacy: bool,
    decoded: Option<Arc<Request>>,
    /// Somebody looked at the model: it is what the client's bytes have to mean.
    looked: bool,
    dirty: Vec<Field>,
    /// Made from a canonical request: there are no client bytes to patch.
    made: bool,
    /// The gateway keeps the answer, so that no upstream need do it.
    kept_here: bool,
    /// Its answer is made at the upstream while nobody waits, and asked for later.
    background: bool,
    /// Fields without a name in the model that a stage set or (null) took out.
    fields: Vec<(Box<str>, Value)>,
    /// The provider that has the files which it names.
    home: Option<Arc<str>>,
}

impl Document {
    /// A chat request.
    pub fn new(format: Format, bytes: Bytes, inbound: Inbound<'_>) -> Result<Self> {
        Document::open(format, Operation::Chat, bytes, inbound)
    }

    /// Errors: not JSON, not an object, no model, a routing field twice or of a wrong type.
    pub fn open(format: Format, operation: Operation, bytes: Bytes, inbound: Inbound<'_>) -> Result<Self> {
        let envelope = Envelope::scan(&bytes)?;
        let model = match inbound.model {
            Some(model) => model.into(),
            None => model_of(&envelope, &bytes)?,
        };
        if model.is_empty() {
            return Err(Error::invalid("model", "`model` is empty; name a model, for example \"mock\""));
        }
        let stream = match inbound.stream {
            Some(stream) => stream,
            None => stream_of(&envelope, &bytes)?,
        };
        Ok(Document {
            format,
            operation,
            bytes,
            envelope: Arc::new(envelope),
            model,
            stream,
            version: inbound.version.map(Arc::from),
            counting: inbound.counting,
            legacy: inbound.legacy,
            decoded: None,
            looked: false,
            dirty: Vec::new(),
            made: false,
            kept_here: false,
            background: false,
            fields: Vec::new(),
            home: None,
        })
    }

    /// From a canonical request (a test case, `ask`): there are no client bytes.
    pub fn from_request(format: Format, request: Request) -> Self {
        Document {
            format,
            operation: Operation::Chat,
            bytes: Bytes::new(),
            envelope: Arc::new(Envelope::default()),
            model: request.model.as_str().into(),
            stream: request.stream,
            version: None,
            counting: false,
            legacy: false,
            decoded: Some(Arc::new(request)),
            looked: true,
            dirty: Vec::new(),
            made: true,
            kept_here: false,
            background: false,
            fields: Vec::new(),
            home: None,
        }
    }

    /// The same request with another body.
    pub fn reopened(&self, bytes: Bytes) -> Result<Document> {
        Document::open(self.format, self.operation, bytes, Inbound { model: None, ..self.inbound() })
    }

    fn inbound(&self) -> Inbound<'_> {
        Inbound {
            model: Some(&self.model),
            stream: Some(self.stream),
            version: self.version.as_deref(),
            counting: self.counting,
            legacy: self.legacy,
        }
    }

    /// The same request with top-level fields of the client's bytes replaced, added or (`None`) left out.
    pub fn rewritten(&self, patches: &[(&str, Option<Bytes>)]) -> Result<Document> {
        Document::open(self.format, self.operation, self.splice(patches).concat().into(), self.inbound())
    }

    /// Upstreams of the same format are told to keep nothing.
    pub fn keep_here(&mut self) {
        self.kept_here = true;
    }

    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Is it a legacy completion?
    pub fn legacy(&self) -> bool {
        self.legacy
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// The client's own bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The name in force: the caller's, or what a stage set.
    pub fn model(&self) -> &str {
        &self.model
    }

    pub fn set_model(&mut self, model: &str) {
        self.model = model.into();
    }

    pub fn stream(&self) -> bool {
        self.stream
    }

    /// The canonical request, decoded on first use.
    pub fn request(&mut self) -> Result<&Request> {
        self.looked = true;
        Ok(self.decode()?)
    }

    /// The canonical request for writing to `field`.
    pub fn edit(&mut self, field: Field) -> Result<&mut Request> {
        self.looked = true;
        self.decode()?;
        if !self.dirty.contains(&field) {
            self.dirty.push(field);
        }
        Ok(Arc::make_mut(self.decode()?))
    }

    /// Sets a top-level field that the model has no name for, or (null) takes it out. The inner error says why not.
    pub fn set_field(&mut self, name: &str, value: Value) -> Result<std::result::Result<(), String>> {
        let codec = codec(self.format);
        let named =
            ["model", "stream"].contains(&name) || Field::ALL.iter().any(|f| codec.wire_fields(*f).contains(&name));
        if named
            || name.is_empty()
            || name.len() > MOST_NAME
            || name.contains(['"', '\\'])
            || name.contains(char::is_control)
        {
            return Ok(Err(format!(
                "{name:?} is no such field: it has a name of its own in the request, or is no name"
            )));
        }
        let format = self.format;
        let request = self.edit(Field::Extra)?;
        match &value {
            Value::Null => drop(request.extra.any_mut().map(|fields| fields.remove(name))),
            value => request.extra.insert(format, name, value.clone()),
        }
        self.fields.retain(|(known, _)| **known != *name);
        self.fields.push((name.into(), value));
        Ok(Ok(()))
    }

    fn decode(&mut self) -> Result<&mut Arc<Request>> {
        let decoded = match self.decoded.take() {
            Some(decoded) => decoded,
            None => {
                let inbound = self.inbound();
                Arc::new(match self.operation {
                    operation if operation.is_opaque() => {
                        opaque::as_turns(operation, &self.bytes, &self.model, self.stream)?
                    }
                    Operation::Embeddings => as_turns(codec(self.format).decode_embeddings(&self.bytes, inbound)?),
                    _ => self.as_a_whole()?,
                })
            }
        };
        Ok(self.decoded.insert(decoded))
    }

    /// The fields of a body that no codec reads, as stages left them; `None` when they left them alone.
    pub fn opaque_fields(&mut self) -> Result<Option<Map<String, Value>>> {
        if self.dirty.is_empty() {
            return Ok(None);
        }
        let bytes = self.bytes.clone();
        Ok(Some(opaque::rewritten(self.operation, &bytes, self.request()?)?))
    }

    /// The same as bytes, the client's own where nothing changed. `model`: the name that the upstream knows.
    pub fn opaque_body(&mut self, model: Option<&str>) -> Result<Vec<Bytes>> {
        self.mean_one_thing()?;
        if let Some(mut fields) = self.opaque_fields()? {
            if let Some(model) = model {
                fields.insert("model".to_owned(), Value::from(model));
            }
            return Ok(vec![to_bytes(&Value::Object(fields))]);
        }
        let named = model.map(|model| quoted("", model));
        let at = self.envelope.value(&self.bytes, "model");
        match (named, at) {
            (Some(named), Some(at)) if self.bytes[at.clone()] != *named => Ok(self.splice(&[("model", Some(named))])),
            _ => Ok(vec![self.bytes.clone()]),
        }
    }

    /// For a target of the same format: what it cannot take is an error before anything is spent.
    pub fn refuse_lacking(&mut self, dialect: &Dialect) -> Result<()> {
        if self.operation != Operation::Chat || dialect.lacks.is_empty() {
            return Ok(());
        }
        // Only what may be there is worth reading the body for.
        let has = |keys: &[&str]| keys.iter().any(|key| self.envelope.value(&self.bytes, key).is_some());
        let config = &["generationConfig", "generation_config"];
        let could = |lack: &str| match lack {
            "tools" => self.has_tools(),
            "images" | "documents" => self.envelope.has_media,
            // Most models lack them: a body with pictures is not read for that. Every wire says the word.
            "audio" | "video" => {
                self.envelope.has_media && memchr::memmem::find(&self.bytes, lack.as_bytes()).is_some()
            }
            "n" | "logprobs" => has(&[lack]) || has(config),
            "json_schema" => {
                has(&["response_format", "output_config", "output_format", "outputConfig", "text"]) || has(config)
            }
            // Other operations, and what the caller's own format says for itself.
            "embeddings" | "dimensions" | "count_tokens" | "reasoning" | "prefill" | "web_search" => false,
            _ => true,
        };
        if dialect.lacks.iter().any(|lack| could(lack)) {
            // The codec knows what is a feature: its own encoder refuses, its result is not needed. What is only guessed of a
            // model is not refused to a caller who speaks its format.
            let dialect = Dialect { native_schema: true, ..dialect.clone() };
            self.encode(self.format, &dialect)?;
        }
        Ok(())
    }

    /// Lets go of what was read, if it is long and can be read again.
    pub fn release(&mut self) {
        if self.can_be_read_again() {
            self.decoded = None;
        }
    }

    fn can_be_read_again(&self) -> bool {
        self.bytes.len() >= LONG && self.dirty.is_empty() && !self.made
    }

    /// Has the canonical model been read already?
    pub fn is_decoded(&self) -> bool {
        self.decoded.is_some()
    }

    /// Fields that were edited.
    pub fn dirty(&self) -> &[Field] {
        &self.dirty
    }

    /// The wire's names of what was edited.
    fn edited(&self) -> impl Iterator<Item = &'static str> {
        self.dirty.iter().flat_map(|field| codec(self.format).wire_fields(*field)).copied()
    }

    /// Does the prompt seem to hold media? Does not decode: may be wrong towards yes.
    pub fn has_media(&self) -> bool {
        self.envelope.has_media
    }

    /// How long the answer may become, as stages left it; reads no more of the body than the fields that say so. A field
    /// that is written twice says nothing: upstreams differ in which one they take.
    pub fn output_bound(&self) -> OutputBound {
        let written = || *self.envelope.bound.get_or_init(|| codec(self.format).output_bound(&|name| self.field(name)));
        if let Some(request) = &self.decoded {
            // How many answers a completion makes is not only in `n`.
            let least = if self.legacy { written().choices } else { 1 };
            return OutputBound { tokens: request.max_tokens, choices: request.n.unwrap_or(1).max(least) };
        }
        written()
    }

    /// The service that is asked for, as stages left it; reads no more of the body than the fields that say so.
    pub fn service_tier(&self) -> Option<ServiceTier> {
        let names = codec(self.format).wire_fields(Field::ServiceTier);
        let word = match &self.decoded {
            Some(request) => request.service_tier.clone(),
            None => names.iter().find_map(|name| Some(self.field(name)?.as_str()?.to_owned())),
        };
        // One family's faster service is a knob of its own, and so is where it runs.
        let fast = self.field("speed").is_some_and(|speed| speed == "fast");
        let service = if fast { Some(ServiceTier::Fast) } else { word.as_deref().map(ServiceTier::named) };
        match self.field("inference_geo").is_some_and(|geo| geo == "us") {
            true => Some(service.unwrap_or(ServiceTier::Standard).within_us()),
            false => service,
        }
    }

    /// A top-level field of the client's own bytes, where it stands once.
    pub fn field(&self, name: &str) -> Option<Value> {
        let mut named = self.envelope.fields.iter().filter(|e| e.name(&self.bytes) == name.as_bytes());
        let entry = named.next()?;
        if named.next().is_some() {
            return None;
        }
        serde_json::from_slice(&self.bytes[entry.value.clone()]).ok()
    }

    /// What answers in this format repeat of the request.
    pub fn echo(&self) -> Option<Arc<Map<String, Value>>> {
        codec(self.format).echo(&|name| self.field(name))
    }

    /// May there be tools that the format's own vendor runs, and others leave out?
    fn has_hosted(&self) -> bool {
        let Some(at) = self.envelope.value(&self.bytes, "tools") else { return false };
        let tools = &self.bytes[at];
        [&b"\"web_search"[..], b"\"image_generation\""].iter().any(|w| memchr::memmem::find(tools, w).is_some())
    }

    pub fn has_tools(&self) -> bool {
        let key = if self.format == Format::BedrockConverse { "toolConfig" } else { "tools" };
        self.envelope.value(&self.bytes, key).is_some_and(|v| v.len() > 2)
    }

    /// May a search of the web be among its tools? No word of one says that none is.
    pub fn may_search(&self) -> bool {
        let key = if self.format == Format::BedrockConverse { "toolConfig" } else { "tools" };
        let tools = self.envelope.value(&self.bytes, key).map(|at| &self.bytes[at]);
        tools.is_some_and(|tools| memchr::memmem::find(tools, b"earch").is_some())
    }

    /// May the client's bytes go to an upstream of `format`? Those of a legacy completion may where `completes`.
    pub fn same_format(&self, format: Format, completes: bool) -> bool {
        // What stages changed in them stands in other shapes than a chat's.
        let rewritten = self.operation != Operation::Chat && !self.dirty.is_empty();
        self.format == format && !self.made && (completes || !self.legacy) && !rewritten
    }

    /// Did the client ask for OpenAI's usage chunk?
    pub fn include_usage(&self) -> bool {
        self.envelope
            .value(&self.bytes, "stream_options")
            .and_then(|at| serde_json::from_slice::<Value>(&self.bytes[at]).ok())
            .and_then(|o| o.get("include_usage").and_then(Value::as_bool))
            .unwrap_or(false)
    }
}

/// Texts to embed as one user turn: stages scan and rewrite them like any other text.
fn as_turns(request: EmbeddingRequest) -> Request {
    let texts = request.inputs.into_iter().filter_map(|i| match i {
        EmbeddingInput::Text(text) => Some(Part::text(text)),
        EmbeddingInput::Tokens(_) | EmbeddingInput::Native { .. } => None,
    });
    let messages = vec![Message::new(Role::User, texts.collect())];
    Request { model: request.model, messages, user: request.user, ..Request::default() }
}

fn model_of(envelope: &Envelope, bytes: &[u8]) -> Result<Arc<str>> {
    let Some(at) = envelope.value(bytes, "model") else {
        return Err(Error::invalid("model", "`model` is required and missing; name a model, for example \"mock\""));
    };
    let wrong = || Error::invalid("model", "`model` must be a string");
    if bytes[at.start] != b'"' {
        return Err(wrong());
    }
    let text: Cow<'_, str> = serde_json::from_slice(&bytes[at]).map_err(|_| wrong())?;
    Ok(text.as_ref().into())
}

fn stream_of(envelope: &Envelope, bytes: &[u8]) -> Result<bool> {
    match envelope.value(bytes, "stream").map(|at| &bytes[at]) {
        None | Some(b"null" | b"false") => Ok(false),
        Some(b"true") => Ok(true),
        Some(_) => Err(Error::invalid("stream", "`stream` must be true or false")),
    }
}

/// Bytes of a top-level field's name.
const MOST_NAME: usize = 64;

/// A body of which another copy matters.
const LONG: usize = 64 << 10;

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;

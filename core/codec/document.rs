//! A request body on its way through the gateway: the client's bytes, their envelope, and the canonical model once
//! somebody has read it. Edits are remembered by field, so that an upstream of the same format gets the client's bytes
//! with patches, not a rebuild.

use std::{borrow::Cow, ops::Range, sync::Arc};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    Dialect, Encoded, Field, Inbound, OutputBound, codec,
    envelope::{Entry, Envelope},
    hosted::{self, Fitted},
    opaque,
};
use crate::{
    error::{Error, Result},
    model::{EmbeddingInput, EmbeddingRequest, Format, Message, Operation, Part, Request, Role, ServiceTier},
};

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
    dirty: Vec<Field>,
    /// Made from a canonical request: there are no client bytes to patch.
    made: bool,
    /// The gateway keeps the answer, so that no upstream need do it.
    kept_here: bool,
    /// Fields without a name in the model that a stage set or (null) took out.
    fields: Vec<(Box<str>, Value)>,
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
            dirty: Vec::new(),
            made: false,
            kept_here: false,
            fields: Vec::new(),
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
            dirty: Vec::new(),
            made: true,
            kept_here: false,
            fields: Vec::new(),
        }
    }

    /// The same request with another body.
    pub fn reopened(&self, bytes: Bytes) -> Result<Document> {
        let inbound = Inbound {
            model: None,
            stream: Some(self.stream),
            version: self.version.as_deref(),
            counting: self.counting,
            legacy: self.legacy,
        };
        Document::open(self.format, self.operation, bytes, inbound)
    }

    /// The same request with top-level fields of the client's bytes replaced, added or (`None`) left out.
    pub fn rewritten(&self, patches: &[(&str, Option<Bytes>)]) -> Result<Document> {
        let inbound = Inbound {
            model: Some(&self.model),
            stream: Some(self.stream),
            version: self.version.as_deref(),
            counting: self.counting,
            legacy: self.legacy,
        };
        Document::open(self.format, self.operation, self.splice(patches).concat().into(), inbound)
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
        Ok(self.decode()?)
    }

    /// The canonical request for writing to `field`.
    pub fn edit(&mut self, field: Field) -> Result<&mut Request> {
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
                let inbound = Inbound {
                    model: Some(&self.model),
                    stream: Some(self.stream),
                    version: self.version.as_deref(),
                    counting: self.counting,
                    legacy: self.legacy,
                };
                Arc::new(match self.operation {
                    operation if operation.is_opaque() => {
                        opaque::as_turns(operation, &self.bytes, &self.model, self.stream)?
                    }
                    Operation::Embeddings => as_turns(codec(self.format).decode_embeddings(&self.bytes, inbound)?),
                    _ => codec(self.format).decode_request(&self.bytes, inbound)?,
                })
            }
        };
        Ok(self.decoded.insert(decoded))
    }

    /// An embeddings request, with the texts as stages left them.
    pub fn embeddings(&mut self) -> Result<EmbeddingRequest> {
        let inbound = Inbound { model: Some(&self.model), ..Inbound::default() };
        let mut request = codec(self.format).decode_embeddings(&self.bytes, inbound)?;
        if self.dirty.contains(&Field::Messages) {
            let edited = self.decode()?.messages.first().map(|m| m.parts.clone()).unwrap_or_default();
            let texts = edited.into_iter().filter_map(|p| if let Part::Text(t) = p { Some(t.text) } else { None });
            let tokens = std::mem::take(&mut request.inputs);
            let tokens = tokens.into_iter().filter(|i| !matches!(i, EmbeddingInput::Text(_)));
            request.inputs = texts.map(EmbeddingInput::Text).chain(tokens).collect();
        }
        Ok(request)
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
            "images" | "documents" | "audio" | "video" => self.envelope.has_media,
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
        if self.bytes.len() >= LONG && self.dirty.is_empty() && !self.made {
            self.decoded = None;
        }
    }

    /// Has the canonical model been read already?
    pub fn is_decoded(&self) -> bool {
        self.decoded.is_some()
    }

    /// Fields that were edited.
    pub fn dirty(&self) -> &[Field] {
        &self.dirty
    }

    /// The text of the last user turn; reads no more of the body than that turn.
    pub fn last_user_text(&mut self) -> Result<Cow<'_, str>> {
        let no_turns = self.legacy || (self.operation.is_opaque() && self.envelope.last_user.is_none());
        if self.decoded.is_some() || no_turns {
            let request = self.request()?;
            let turn = request.messages.iter().rev().find(|m| m.role == Role::User && !m.joined_text().is_empty());
            return Ok(Cow::Owned(turn.map(|m| m.joined_text()).unwrap_or_default()));
        }
        let Some(turn) = self.envelope.last_user.clone() else { return Ok(Cow::Borrowed("")) };
        if self.bytes[turn.start] == b'"' {
            // The whole prompt is one string.
            return Ok(std::str::from_utf8(&self.bytes[turn]).map(borrowed_text).unwrap_or_default());
        }
        let turn: Turn<'_> = serde_json::from_slice(&self.bytes[turn])
            .map_err(|e| Error::invalid("messages", format!("the last user turn cannot be read: {e}")))?;
        Ok(turn.text())
    }

    /// The beginning and the end of the last user turn's text, at most `most` bytes of each; the end is empty where the
    /// beginning is all. Costs the same for a turn of any length.
    pub fn last_user_ends(&mut self, most: usize) -> Result<[Cow<'_, str>; 2]> {
        if self.decoded.is_none()
            && let Some((first, last)) = self.envelope.last_user_texts.clone()
            && (first.len() > 2 * most || first != last)
        {
            let (first, last) =
                (&self.bytes[first.start + 1..first.end - 1], &self.bytes[last.start + 1..last.end - 1]);
            let head = &first[..first.len().min(most)];
            let tail = &last[last.len().saturating_sub(most)..];
            return Ok([plain(head), plain(tail)]);
        }
        // One string without escapes is its own text; the body is known to be UTF-8.
        let only =
            self.envelope.last_user_texts.as_ref().filter(|_| self.decoded.is_none() && self.envelope.last_user_plain);
        let only = only.map(|(only, _)| only.start + 1..only.end - 1);
        if let Some(at) = only.filter(|at| memchr::memchr(b'\\', &self.bytes[at.clone()]).is_none()) {
            let text = simdutf8::basic::from_utf8(&self.bytes[at]).unwrap_or_default();
            return Ok(ends(text, most).map(Cow::Borrowed));
        }
        Ok(match self.last_user_text()? {
            Cow::Borrowed(text) => ends(text, most).map(Cow::Borrowed),
            Cow::Owned(text) => ends(&text, most).map(|end| Cow::Owned(end.to_owned())),
        })
    }

    /// The last user turn as raw JSON, for searches that need no unescaping. `None` once the model was decoded.
    pub fn last_user_raw(&self) -> Option<&[u8]> {
        if self.decoded.is_some() {
            return None;
        }
        self.envelope.last_user.clone().map(|r| &self.bytes[r])
    }

    /// Bytes of text in the prompt: the estimate's base. Does not decode.
    pub fn text_bytes(&self) -> u64 {
        let numbers = if self.legacy { self.prompt_numbers() } else { 0 };
        self.envelope.text_bytes + numbers * TOKEN_BYTES
    }

    /// Tokens that a legacy prompt is given as.
    fn prompt_numbers(&self) -> u64 {
        let Some(at) = self.envelope.value(&self.bytes, "prompt") else { return 0 };
        let prompt = &self.bytes[at];
        if !prompt.starts_with(b"[") || memchr::memchr(b'"', prompt).is_some() {
            return 0;
        }
        prompt.windows(2).filter(|pair| !pair[0].is_ascii_digit() && pair[1].is_ascii_digit()).count() as u64
    }

    /// Does the prompt seem to hold media? Does not decode: may be wrong towards yes.
    pub fn has_media(&self) -> bool {
        self.envelope.has_media
    }

    /// How long the answer may become, as stages left it; reads no more of the body than the fields that say so. A field
    /// that is written twice says nothing: upstreams differ in which one they take.
    pub fn output_bound(&self) -> OutputBound {
        let written = || codec(self.format).output_bound(&|name| self.field(name));
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
        // One family's faster service is a knob of its own.
        let fast = self.field("speed").is_some_and(|speed| speed == "fast");
        if fast { Some(ServiceTier::Fast) } else { word.as_deref().map(ServiceTier::named) }
    }

    /// A top-level field of the client's own bytes, where it stands once.
    pub fn field(&self, name: &str) -> Option<Value> {
        let mut named =
            self.envelope.fields.iter().filter(|e| &self.bytes[e.key.start + 1..e.key.end - 1] == name.as_bytes());
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

    /// May the client's bytes go to an upstream of `format`? Those of a legacy completion may where `completes`.
    pub fn same_format(&self, format: Format, completes: bool) -> bool {
        // What stages changed in them stands in other shapes than a chat's.
        let rewritten = self.operation != Operation::Chat && !self.dirty.is_empty();
        self.format == format && !self.made && (completes || !self.legacy) && !rewritten
    }

    /// For a target of another format: the whole body anew.
    pub fn encode(&mut self, format: Format, dialect: &Dialect) -> Result<Encoded> {
        if self.legacy && !dialect.completions {
            let chat = codec(self.format).as_chat(self.request()?)?;
            return codec(format).encode_request(&chat, dialect);
        }
        self.fitted(format, dialect, |request| codec(format).encode_request(request, dialect))
    }

    /// What counts the tokens of this request at a target of another format; `None`: it does not count.
    pub fn encode_count(&mut self, format: Format, dialect: &Dialect) -> Result<Option<Encoded>> {
        let mut counts = true;
        let encoded = self.fitted(format, dialect, |request| match codec(format).encode_count(request, dialect) {
            Some(encoded) => encoded,
            None => {
                counts = false;
                Ok(Encoded::default())
            }
        })?;
        Ok(counts.then_some(encoded))
    }

    /// Writes the request with the tools that this target runs in place of those that another one does.
    fn fitted(
        &mut self,
        format: Format,
        dialect: &Dialect,
        write: impl FnOnce(&Request) -> Result<Encoded>,
    ) -> Result<Encoded> {
        let Some(Fitted { tools, choice, extra, without_searches, dropped }) =
            hosted::fit(self.request()?, format, dialect)?
        else {
            return write(self.request()?);
        };
        // Turns may be long: they are lent, not copied.
        let request = Arc::make_mut(self.decode()?);
        let turns = std::mem::take(&mut request.messages);
        let kept = without_searches.then(|| hosted::without_searches(&turns, format));
        let (messages, lent) = match kept {
            Some(kept) => (kept, Some(turns)),
            None => (turns, None),
        };
        let fitted = Request { messages, tools, tool_choice: choice, extra, ..request.clone() };
        let encoded = write(&fitted);
        request.messages = lent.unwrap_or(fitted.messages);
        let mut encoded = encoded?;
        encoded.dropped.extend(dropped);
        Ok(encoded)
    }

    /// For a target of the same format: the client's bytes with the model's name, edited fields and, for streams that
    /// should report usage, `stream_options` patched in. `usage`: ask for the usage chunk.
    pub fn patch(&mut self, dialect: &Dialect, usage: bool) -> Result<(Vec<Bytes>, Vec<&'static str>)> {
        self.patch_with(dialect, usage, &[])
    }

    /// The same, with top-level fields that the target's platform wants set, or (`None`) left out.
    pub fn patch_with(
        &mut self,
        dialect: &Dialect,
        usage: bool,
        overrides: &[(&'static str, Option<Bytes>)],
    ) -> Result<(Vec<Bytes>, Vec<&'static str>)> {
        let mut patches: Vec<(&str, Option<Bytes>)> = Vec::with_capacity(2);
        patches.extend(overrides.iter().cloned());
        let mut dropped = Vec::new();
        if self.kept_here && self.operation == Operation::Chat {
            let fields = codec(self.format).unkept(&|name| self.field(name), dialect);
            patches.extend(fields.into_iter().map(|(key, value)| (key, Some(to_bytes(&value)))));
        }
        let own_model = patches.iter().all(|(key, _)| *key != "model");
        if own_model && let Some(at) = self.envelope.value(&self.bytes, "model") {
            // Gemini's bodies may repeat the path's model as a resource name.
            let head = if self.format == Format::Gemini { "models/" } else { "" };
            let name = quoted(head, &dialect.model);
            if self.bytes[at] != *name {
                patches.push(("model", Some(name)));
            }
        }
        if self.format == Format::Gemini {
            patches.extend(self.inner_models(dialect)?);
        }
        if usage && let Some(options) = self.usage_option()? {
            patches.push(("stream_options", Some(options)));
        }
        self.adapt(dialect)?;
        for knob in dialect.refuses.iter().chain(self.unsampled(dialect)) {
            let key = self.key_of(knob);
            let written = self.envelope.value(&self.bytes, key).is_some();
            if written && !dropped.contains(knob) {
                dropped.push(*knob);
            }
            // A stage or a team's default may have set it too.
            if written || !self.dirty.is_empty() {
                patches.push((key, None));
            }
        }
        for (from, to) in dialect.renames {
            if let Some(at) = self.envelope.value(&self.bytes, from) {
                patches.push((from, None));
                patches.push((to, Some(self.bytes.slice(at))));
            }
        }
        if !self.dirty.is_empty() && self.operation != Operation::Embeddings {
            let own = Dialect { native_schema: true, ..dialect.clone() };
            let Encoded { mut body, dropped: missing } = self.encode(self.format, &own)?;
            dropped.extend(missing.into_iter().filter(|knob| !patches.iter().any(|(k, _)| k == knob)));
            for key in self.dirty.iter().flat_map(|f| codec(self.format).wire_fields(*f)) {
                if patches.iter().all(|(k, _)| k != key) {
                    patches.push((key, body.remove(*key).map(|v| to_bytes(&v))));
                }
            }
            if self.dirty.contains(&Field::Extra) {
                let decoded = self.decode()?.clone();
                let fields = self.fields.clone();
                for (key, value) in &fields {
                    if patches.iter().all(|(k, _)| *k != &**key) {
                        patches.push((key, (!value.is_null()).then(|| to_bytes(value))));
                    }
                }
                let fields = decoded.extra.of(self.format).into_iter().flatten();
                for (key, value) in fields.filter(|(key, _)| self.envelope.value(&self.bytes, key).is_some()) {
                    if patches.iter().all(|(k, _)| k != key) {
                        patches.push((key.as_str(), Some(to_bytes(value))));
                    }
                }
                return Ok((self.splice(&patches), dropped));
            }
        }
        Ok((self.splice(&patches), dropped))
    }

    /// Sampling parameters, where they are refused as such: by some models, and by the newer version of the API for any model.
    fn unsampled(&self, dialect: &Dialect) -> &'static [&'static str] {
        let newer = || dialect.version.is_some() && self.version.as_deref() == Some(WITHOUT_SAMPLING);
        if self.format == Format::AnthropicMessages && (dialect.no_sampling || newer()) {
            return &["temperature", "top_p", "top_k"];
        }
        &[]
    }

    /// The top-level field in which this format writes a knob.
    fn key_of(&self, knob: &'static str) -> &'static str {
        match knob {
            "stop" if self.format == Format::AnthropicMessages => "stop_sequences",
            "reasoning" => "reasoning_effort",
            knob => knob,
        }
    }

    /// Requests inside a Gemini body name their model again, each as a resource: they all follow the path.
    fn inner_models(&self, dialect: &Dialect) -> Result<Option<(&'static str, Option<Bytes>)>> {
        let keys: &[&'static str] = match self.operation {
            Operation::Embeddings => &["requests"],
            Operation::CountTokens => &["generateContentRequest", "generate_content_request"],
            _ => return Ok(None),
        };
        let found = keys.iter().find_map(|key| Some((*key, self.envelope.value(&self.bytes, key)?)));
        let Some((key, at)) = found else { return Ok(None) };
        let mut value: Value = serde_json::from_slice(&self.bytes[at])
            .map_err(|e| Error::invalid(key, format!("`{key}` cannot be read: {e}")))?;
        let one = std::slice::from_mut(&mut value);
        let inner = if let [Value::Array(list)] = one { list.as_mut_slice() } else { one };
        for request in inner.iter_mut().filter_map(Value::as_object_mut) {
            if let Some(model) = request.get_mut("model") {
                *model = format!("models/{}", dialect.model).into();
            }
        }
        Ok(Some((key, Some(to_bytes(&value)))))
    }

    /// Marks what this target's dialect cannot take as the client wrote it.
    fn adapt(&mut self, dialect: &Dialect) -> Result<()> {
        let has = |key: &str| self.envelope.value(&self.bytes, key).is_some();
        let bound = dialect.max_tokens_field == "max_tokens" && has("max_completion_tokens");
        let developer = !dialect.developer_role && self.envelope.has_developer;
        let ids = dialect.short_tool_ids && memchr::memmem::find(&self.bytes, b"\"tool_call_id\"").is_some();
        let sampled = self.format == Format::Gemini
            && dialect.no_sampling
            && ["generationConfig", "generation_config"].iter().any(|key| has(key))
            && [&b"temperature"[..], b"topP", b"topK", b"top_p", b"top_k"]
                .iter()
                .any(|word| memchr::memmem::find(&self.bytes, word).is_some());
        if dialect.hosted.is_some() && self.has_hosted() {
            self.edit(Field::Tools)?;
        }
        if sampled {
            self.edit(Field::Sampling)?;
        }
        if bound {
            self.edit(Field::MaxTokens)?;
        }
        if developer || ids || self.envelope.carries {
            self.edit(Field::Messages)?;
        }
        Ok(())
    }

    /// `stream_options` with `include_usage`, or `None` when the client asks for it already.
    fn usage_option(&self) -> Result<Option<Bytes>> {
        let Some(at) = self.envelope.value(&self.bytes, "stream_options") else {
            return Ok(Some(Bytes::from_static(br#"{"include_usage":true}"#)));
        };
        let mut options: Map<String, Value> = match serde_json::from_slice(&self.bytes[at]) {
            Ok(Value::Object(map)) => map,
            Ok(Value::Null) => Map::new(),
            _ => return Err(Error::invalid("stream_options", "`stream_options` must be an object")),
        };
        if options.get("include_usage").and_then(Value::as_bool) == Some(true) {
            return Ok(None);
        }
        options.insert("include_usage".into(), true.into());
        Ok(Some(to_bytes(&Value::Object(options))))
    }

    /// Did the client ask for OpenAI's usage chunk?
    pub fn include_usage(&self) -> bool {
        self.envelope
            .value(&self.bytes, "stream_options")
            .and_then(|at| serde_json::from_slice::<Value>(&self.bytes[at]).ok())
            .and_then(|o| o.get("include_usage").and_then(Value::as_bool))
            .unwrap_or(false)
    }

    /// The bytes with top-level values replaced, added (`Some`) or taken out (`None`). Slices of the client's bytes,
    /// not copies.
    fn splice(&self, patches: &[(&str, Option<Bytes>)]) -> Vec<Bytes> {
        if patches.is_empty() {
            return vec![self.bytes.clone()];
        }
        let fields = &self.envelope.fields;
        // Nearly every call's: the model's name in place of the caller's.
        if let [(key, Some(value))] = patches {
            let mut named = fields.iter().filter(|e| &self.bytes[e.key.start + 1..e.key.end - 1] == key.as_bytes());
            if let (Some(Entry { value: at, .. }), None) = (named.next(), named.next()) {
                return vec![self.bytes.slice(..at.start), value.clone(), self.bytes.slice(at.end..)];
            }
        }
        let mut cuts: Vec<(Range<usize>, Bytes)> = Vec::with_capacity(patches.len());
        let mut added: Vec<u8> = Vec::new();
        let mut removed = 0;
        for (key, value) in patches {
            let at = fields.iter().position(|e| &self.bytes[e.key.start + 1..e.key.end - 1] == key.as_bytes());
            match (at, value) {
                (Some(at), Some(value)) => cuts.push((fields[at].value.clone(), value.clone())),
                // Up to the next key, or from the last value's end: the comma goes along.
                (Some(at), None) => {
                    removed += 1;
                    let range = match (fields.get(at + 1), at.checked_sub(1)) {
                        (Some(next), _) => fields[at].key.start..next.key.start,
                        (None, Some(before)) => fields[before].value.end..fields[at].value.end,
                        (None, None) => fields[at].key.start..fields[at].value.end,
                    };
                    cuts.push((range, Bytes::new()));
                }
                (None, Some(value)) => {
                    added.extend_from_slice(b",\"");
                    added.extend_from_slice(key.as_bytes());
                    added.extend_from_slice(b"\":");
                    added.extend_from_slice(value);
                }
                (None, None) => {}
            }
        }
        // A field that is written twice would keep its other value, and upstreams read the last one.
        let twice = |key: &str| {
            let named = |e: &&Entry| &self.bytes[e.key.start + 1..e.key.end - 1] == key.as_bytes();
            fields.iter().filter(named).nth(1).is_some()
        };
        if removed > 1 || (removed == 1 && !added.is_empty()) || patches.iter().any(|(key, _)| twice(key)) {
            return vec![self.rebuild(patches)];
        }
        cuts.sort_by_key(|(range, _)| range.start);
        if !added.is_empty() {
            let end = fields.last().map_or(self.bytes.len() - 1, |e| e.value.end);
            let piece = if fields.is_empty() { Bytes::from(added).slice(1..) } else { Bytes::from(added) };
            cuts.push((end..end, piece));
        }
        let mut out = Vec::with_capacity(cuts.len() * 2 + 1);
        let mut from = 0;
        for (range, piece) in cuts {
            if range.start > from {
                out.push(self.bytes.slice(from..range.start));
            }
            if !piece.is_empty() {
                out.push(piece);
            }
            from = range.end;
        }
        out.push(self.bytes.slice(from..));
        out
    }

    /// The object written anew from its fields' own bytes.
    fn rebuild(&self, patches: &[(&str, Option<Bytes>)]) -> Bytes {
        let mut out = Vec::with_capacity(self.bytes.len());
        let mut add = |key: &[u8], value: &[u8]| {
            out.push(if out.is_empty() { b'{' } else { b',' });
            out.push(b'"');
            out.extend_from_slice(key);
            out.extend_from_slice(b"\":");
            out.extend_from_slice(value);
        };
        let mut seen = Vec::new();
        for entry in &self.envelope.fields {
            let key = &self.bytes[entry.key.start + 1..entry.key.end - 1];
            match patches.iter().find(|(k, _)| k.as_bytes() == key) {
                None => add(key, &self.bytes[entry.value.clone()]),
                Some((k, value)) => {
                    if let (false, Some(value)) = (seen.contains(k), value) {
                        add(key, value);
                    }
                    seen.push(*k);
                }
            }
        }
        for (key, value) in patches {
            if let (false, Some(value)) = (seen.contains(key), value) {
                add(key.as_bytes(), value);
            }
        }
        if out.is_empty() {
            out.push(b'{');
        }
        out.push(b'}');
        out.into()
    }
}

/// The beginning and the end of a text, on character borders.
fn ends(text: &str, most: usize) -> [&str; 2] {
    if text.len() <= 2 * most {
        return [text, ""];
    }
    [&text[..text.floor_char_boundary(most)], &text[text.ceil_char_boundary(text.len() - most)..]]
}

/// A piece cut out of a JSON string, for searching words in it: escapes become spaces, a character cut in two a mark.
fn plain(piece: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(piece);
    if !text.contains('\\') {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        // `\u00e9` is a letter: it stays one to whoever looks for the borders of words.
        match rest.next() {
            Some('u') => out.push(decode_unicode(&mut rest)),
            Some(_) | None => out.push(' '),
        }
    }
    Cow::Owned(out)
}

fn decode_unicode(rest: &mut std::str::Chars<'_>) -> char {
    let digits: String = rest.by_ref().take(4).collect();
    u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).unwrap_or(' ')
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

/// As a JSON string. Names are plain as a rule, and this stands on every call.
fn quoted(head: &str, name: &str) -> Bytes {
    if name.bytes().any(|b| b < b' ' || b == b'"' || b == b'\\') {
        return to_bytes(&Value::from(format!("{head}{name}")));
    }
    let mut text = Vec::with_capacity(head.len() + name.len() + 2);
    text.push(b'"');
    text.extend_from_slice(head.as_bytes());
    text.extend_from_slice(name.as_bytes());
    text.push(b'"');
    text.into()
}

/// Bytes of a top-level field's name.
const MOST_NAME: usize = 64;
/// The `anthropic-version` since which sampling parameters are refused.
const WITHOUT_SAMPLING: &str = "2026-10-21";

/// A body of which another copy matters.
const LONG: usize = 64 << 10;

/// What a token is counted as in bytes of text, where only tokens are given.
const TOKEN_BYTES: u64 = 4;

fn to_bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// A turn in any of the families: `content` (text or parts) or `parts`.
#[derive(serde::Deserialize)]
struct Turn<'a> {
    #[serde(borrow, default)]
    content: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow, default)]
    parts: Option<&'a serde_json::value::RawValue>,
}

#[derive(serde::Deserialize)]
struct TextPart<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

impl<'a> Turn<'a> {
    fn text(&self) -> Cow<'a, str> {
        let Some(raw) = self.content.or(self.parts) else { return Cow::Borrowed("") };
        if raw.get().starts_with('"') {
            return borrowed_text(raw.get());
        }
        let Ok(parts) = serde_json::from_str::<Vec<TextPart<'a>>>(raw.get()) else { return Cow::Borrowed("") };
        let mut texts = parts.into_iter().filter_map(|p| p.text);
        let Some(first) = texts.next() else { return Cow::Borrowed("") };
        texts.fold(first, |mut all, text| {
            all.to_mut().push('\n');
            all.to_mut().push_str(&text);
            all
        })
    }
}

/// A JSON string as text, borrowed when it has no escapes (serde's plain `Cow` never borrows).
fn borrowed_text(raw: &str) -> Cow<'_, str> {
    #[derive(serde::Deserialize)]
    struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Borrowed<'_>>(raw).map(|b| b.0).unwrap_or_default()
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;

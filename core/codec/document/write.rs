//! A document as one target gets it: the client's bytes with patches where the format is the same, the model written anew where
//! it is not. Reads nothing that `Document` has not opened.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    super::{
        Dialect, Encoded, Field, Inbound, codec,
        envelope::Entry,
        foreign,
        hosted::{self, Fitted},
    },
    Document,
};
use crate::{
    error::{Error, Result},
    model::{EmbeddingInput, EmbeddingRequest, Format, Operation, Part, Request},
};

impl Document {
    /// The upstream makes its answer in the background, and keeps it.
    pub fn run_in_background(&mut self) {
        self.background = true;
    }

    pub fn runs_in_background(&self) -> bool {
        self.background
    }

    /// For a target of another format: the whole body anew.
    pub fn encode(&mut self, format: Format, dialect: &Dialect) -> Result<Encoded> {
        if self.legacy && !dialect.completions {
            let chat = codec(self.format).as_chat(self.request()?)?;
            return codec(format).encode_request(&chat, dialect);
        }
        self.fitted(format, dialect, |request| codec(format).encode_request(request, dialect))
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

    /// A request for vectors, for a target of another format, and the fields that no format knows.
    pub fn embeddings_elsewhere(&mut self, format: Format) -> Result<(EmbeddingRequest, Vec<String>)> {
        let asked = self.embeddings()?;
        foreign::refuse_vectors(&asked.extra, format)?;
        let unknown = foreign::unknown(&asked.extra, format);
        Ok((asked, unknown))
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
        let Some(Fitted { tools, choice, extra, past, dropped }) = hosted::fit(self.request()?, format, dialect)?
        else {
            return write(self.request()?);
        };
        // Turns may be long: they are lent, not copied.
        let request = Arc::make_mut(self.decode()?);
        let turns = std::mem::take(&mut request.messages);
        let kept = past.then(|| hosted::without_past(&turns, format));
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
        self.mean_one_thing()?;
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
            // `null` asks for nothing, and stays as it came.
            let written = self.envelope.value(&self.bytes, key).is_some_and(|at| &self.bytes[at] != b"null");
            if written && !dropped.contains(knob) {
                dropped.push(*knob);
            }
            // A stage or a team's default may have set it too.
            if written || !self.dirty.is_empty() {
                patches.push((key, None));
            }
        }
        for (from, to) in dialect.renames {
            // What a stage changed is written under the new name anyway.
            let changed = self.edited().any(|key| key == *from);
            if let Some(at) = self.envelope.value(&self.bytes, from).filter(|_| !changed) {
                patches.push((from, None));
                patches.push((to, Some(self.bytes.slice(at))));
            }
        }
        if !self.dirty.is_empty() && self.operation != Operation::Embeddings {
            // Of a server in no row nothing is known: what its client wrote is what it takes.
            let own = Dialect {
                native_schema: true,
                developer_role: dialect.developer_role || dialect.assumed,
                media_urls: dialect.media_urls || dialect.assumed,
                ..dialect.clone()
            };
            let Encoded { mut body, dropped: missing } = self.encode(self.format, &own)?;
            dropped.extend(missing.into_iter().filter(|knob| !patches.iter().any(|(k, _)| k == knob)));
            for key in self.edited() {
                if patches.iter().all(|(k, _)| *k != key) {
                    patches.push((key, body.remove(key).map(|v| to_bytes(&v))));
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
        // Of a server in no row nothing is known: its clients write what it understands.
        let known = !dialect.assumed;
        let bound = known && dialect.max_tokens_field == "max_tokens" && has("max_completion_tokens");
        let developer = known && !dialect.developer_role && self.envelope.has_developer;
        let carries = self.envelope.carries || known && self.envelope.shares;
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
        if developer || ids || carries {
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

    /// The bytes with top-level values replaced, added (`Some`) or taken out (`None`). Slices of the client's bytes,
    /// not copies.
    pub(super) fn splice(&self, patches: &[(&str, Option<Bytes>)]) -> Vec<Bytes> {
        if patches.is_empty() {
            return vec![self.bytes.clone()];
        }
        let fields = &self.envelope.fields;
        // Nearly every call's: the model's name in place of the caller's.
        if let [(key, Some(value))] = patches {
            let mut named = fields.iter().filter(|e| e.name(&self.bytes) == key.as_bytes());
            if let (Some(Entry { value: at, .. }), None) = (named.next(), named.next()) {
                return vec![self.bytes.slice(..at.start), value.clone(), self.bytes.slice(at.end..)];
            }
        }
        let mut cuts: Vec<(Range<usize>, Bytes)> = Vec::with_capacity(patches.len());
        let mut added: Vec<u8> = Vec::new();
        let mut removed = 0;
        for (key, value) in patches {
            let at = fields.iter().position(|e| e.name(&self.bytes) == key.as_bytes());
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
            let named = |e: &&Entry| e.name(&self.bytes) == key.as_bytes();
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
            let key = entry.name(&self.bytes);
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

/// As a JSON string. Names are plain as a rule, and this stands on every call.
pub(super) fn quoted(head: &str, name: &str) -> Bytes {
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

pub(super) fn to_bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// The `anthropic-version` since which sampling parameters are refused.
const WITHOUT_SAMPLING: &str = "2026-10-21";

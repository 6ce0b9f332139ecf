//! What goes upstream, but for the key: URL, headers and body for one target. After `sign` nothing changes.

use std::{borrow::Cow, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Uri};
use serde_json::{Map, Value};

use crate::{
    codec::{codec, document::Document, pieces::pieces},
    context::Context,
    error::{Error, Kind, Result},
    limit::{Class, Reserved},
    model::{Format, Operation},
    opaque::{Opaque, Prepared},
    provider::{
        Granted, KeyChoice, Unsigned,
        hosted::{self, Overrides},
    },
    route::Target,
    server::TraceContext,
    transport::Sealed,
    upstream::Flow,
};

/// What goes upstream, but for the key.
pub struct Call {
    pub url: Uri,
    pub headers: HeaderMap,
    pub body: Vec<Bytes>,
    /// `POST` but for what is opaque.
    pub method: Method,
    /// What follows the body's pieces.
    pub flow: Option<Flow>,
    /// What is spoken with this upstream.
    pub format: Format,
    /// Client and upstream speak the same format.
    pub same_format: bool,
    /// The upstream was asked for a usage chunk.
    pub asks_usage: bool,
    /// Knobs that this target cannot take.
    pub dropped: Vec<Cow<'static, str>>,
    /// Tools with free text, which this upstream calls with JSON: their calls are turned back.
    pub customs: Vec<String>,
    /// A tool stands in for the output schema: its call is the answer.
    pub stands_in: bool,
}

impl Call {
    /// Errors: a feature that this target lacks, a model name that cannot stand in a URL. `extra`: headers that stages
    /// added for this target.
    pub fn prepare(
        cx: &Context,
        document: &mut Document,
        single: bool,
        target: &Target,
        client: &HeaderMap,
        extra: HeaderMap,
    ) -> Result<Call> {
        let provider = &target.provider;
        if let Some(home) = document.home().filter(|home| *home != &*provider.name) {
            let text = format!("the file that it names lies at `{home}`: choose a model there");
            return Err(Error::unsupported("file_id", text));
        }
        // A completion goes as one where there is such an endpoint, and as a chat elsewhere.
        let completion =
            (document.legacy() && provider.completes(&target.model)).then(|| target.dialect.of_completions());
        let dialect = completion.as_ref().unwrap_or(&target.dialect);
        // One input alone has a path and a shape of its own in one family; upstreams are asked with a list.
        let format = provider.speaks(document.format());
        let same_format = document.same_format(format, completion.is_some()) && !single;
        let stream = document.stream();
        // One format alone has to be asked for usage.
        let asked = format == Format::OpenaiChat && dialect.stream_options;
        let asks_usage = stream && cx.operation == Operation::Chat && asked;
        let (mut customs, mut stands_in, mut unknown) = (Vec::new(), false, Vec::new());
        let (overrides, beta) = provider.overrides(cx.operation, client, same_format);
        let (body, mut dropped) = match (cx.operation, same_format) {
            (_, true) => {
                document.refuse_lacking(dialect)?;
                document.patch_with(dialect, asks_usage, &overrides)?
            }
            (Operation::Embeddings, false) => {
                let asked;
                (asked, unknown) = document.embeddings_elsewhere(format)?;
                let encoded = codec(format).encode_embeddings(&asked, dialect)?;
                (pieces(encoded.body), encoded.dropped)
            }
            (Operation::CountTokens, false) => match document.encode_count(format, dialect)? {
                Some(encoded) => (written(encoded.body, &overrides), encoded.dropped),
                None => (Vec::new(), Vec::new()),
            },
            (Operation::Compact, false) => {
                let none = || Error::unsupported("compaction", "this target does not compact conversations");
                let encoded = codec(format).encode_compaction(document.request()?, dialect).ok_or_else(none)??;
                (written(encoded.body, &overrides), encoded.dropped)
            }
            _ => {
                let anew = document.anew(format, dialect, |body| overridden(body, &overrides))?;
                (customs, unknown) = (anew.customs, anew.unknown);
                stands_in = anew.stands_in && matches!(format, Format::AnthropicMessages | Format::BedrockConverse);
                (anew.body, anew.dropped)
            }
        };
        dropped.extend(beta);
        let names = dropped.into_iter().map(Cow::Borrowed);
        let dropped = names.chain(unknown.into_iter().map(Cow::Owned)).collect();
        let mut headers = provider.headers(client, same_format, stream);
        headers.extend(extra);
        let trace = TraceContext::from_header(client.get(&TRACEPARENT));
        headers.insert(TRACEPARENT.clone(), trace.child().header());
        let (method, flow) = (Method::POST, None);
        let url = match completion {
            Some(_) => provider.completions(&target.model)?,
            None => target.url(format, cx.operation, stream)?,
        };
        let call =
            Call { url, method, headers, body, flow, format, same_format, asks_usage, dropped, customs, stands_in };
        Ok(if provider.counts_wrapped(cx.operation) { call.wrapped() } else { call })
    }

    /// The platform's own words around the format's: it answers in its own, too.
    fn wrapped(self) -> Call {
        let body = vec![hosted::wrapped(&self.body)];
        Call { body, same_format: false, format: Format::BedrockConverse, ..self }
    }

    /// The gateway's own question whether a provider answers: the list of its models.
    pub fn check(target: &Target) -> Result<Call> {
        let provider = &target.provider;
        let format = provider.format;
        Ok(Call {
            url: target.url(format, Operation::ListModels, false)?,
            method: Method::GET,
            headers: provider.headers(&HeaderMap::new(), true, false),
            body: Vec::new(),
            flow: None,
            format,
            same_format: true,
            asks_usage: false,
            dropped: Vec::new(),
            customs: Vec::new(),
            stands_in: false,
        })
    }

    /// The same for what no codec reads.
    pub fn opaque(
        cx: &Context,
        opaque: &Opaque,
        document: &mut Document,
        target: &Target,
        client: &HeaderMap,
        extra: HeaderMap,
    ) -> Result<Call> {
        let Prepared { method, url, mut headers, body, flow } =
            opaque.prepare(cx.operation, document, target, client)?;
        headers.extend(extra);
        headers.insert(TRACEPARENT.clone(), TraceContext::from_header(client.get(&TRACEPARENT)).child().header());
        let (dropped, customs, format) = (Vec::new(), Vec::new(), target.provider.format);
        Ok(Call {
            url,
            method,
            headers,
            body,
            flow,
            format,
            same_format: true,
            asks_usage: false,
            dropped,
            customs,
            stands_in: false,
        })
    }

    /// Of a strict model: an error that names what would be dropped. Nothing was spent yet, and another target may take it.
    pub fn refuse_dropping(&self, target: &Target) -> Result<()> {
        if !target.strict || self.dropped.is_empty() {
            return Ok(());
        }
        let names = self.dropped.join(", ");
        let message = format!("{} cannot take {names}; leave it out, or choose another model", target.name);
        Err(Error::new(Kind::Unsupported, message).with_code("unsupported_parameter").at(self.dropped[0].clone()))
    }

    /// Puts the proof on it: a key, or the token that was granted. The permit gives the right to, which is used up here. With
    /// one key nothing is kept back for another.
    pub fn sign(
        &mut self,
        target: &Target,
        choice: KeyChoice,
        granted: Option<&Granted>,
        right: Reserved,
    ) -> Result<Sealed> {
        let (Class::Client | Class::System) = right.class();
        // A token that is refused may be tried again with a new one.
        let last = target.provider.keys() <= 1 && target.provider.source.is_none();
        let headers = if last { std::mem::take(&mut self.headers) } else { self.headers.clone() };
        let body = if last { std::mem::take(&mut self.body) } else { self.body.clone() };
        let unsigned = Unsigned { method: self.method.clone(), url: self.url.clone(), headers, body: &body };
        let signed = target.provider.sign(unsigned, choice, granted)?;
        Ok(Sealed { signed, body, flow: self.flow.clone(), format: self.format })
    }
}

/// A body made anew, with what the provider's platform wants otherwise.
fn written(mut body: Map<String, Value>, overrides: &Overrides) -> Vec<Bytes> {
    overridden(&mut body, overrides);
    pieces(body)
}

fn overridden(body: &mut Map<String, Value>, overrides: &Overrides) {
    for (key, value) in overrides {
        match value.as_ref().and_then(|value| serde_json::from_slice(value).ok()) {
            Some(value) => drop(body.insert((*key).to_owned(), value)),
            None => drop(body.shift_remove(*key)),
        }
    }
}

/// The clocks of one call: when it was sent, until when the first output must come, until when the whole.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    pub began: Instant,
    pub until: Instant,
    pub whole: Instant,
}

/// W3C Trace Context: the caller's trace goes on in the upstream's spans.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

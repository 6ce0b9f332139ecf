//! The pieces of a turn. Every piece that some format can say has a typed home here.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Extra, Format};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Part {
    Text(Text),
    /// The model declined, in its own words.
    Refusal(String),
    Reasoning(Reasoning),
    Media(Media),
    ToolCall(ToolCall),
    ToolResult(ToolResult),
    /// A piece only `format` understands (a hosted tool's call or result, a container upload). Given back only to it;
    /// in a request to another format it is an unsupported feature named `kind`.
    Native {
        format: Format,
        kind: String,
        value: Value,
    },
}

impl Part {
    /// Of output that an upstream counts. A picture counts as text of its usual tokens.
    pub fn text_bytes(&self) -> u64 {
        let text = match self {
            Part::Text(text) => text.text.len(),
            Part::Refusal(text) => text.len(),
            Part::Reasoning(thought) => thought.text.len(),
            Part::ToolCall(call) => call.name.len() + call.arguments.len(),
            Part::Media(_) => PICTURE,
            Part::ToolResult(_) => 0,
            Part::Native { value, .. } => value.to_string().len(),
        };
        text as u64
    }
}

/// Bytes of text that cost as much as a picture of middle size.
const PICTURE: usize = 6_400;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Text {
    pub text: String,
    pub citations: Vec<Citation>,
    pub cache: Option<CacheHint>,
    /// Gemini signs text parts too.
    pub signature: Option<Signature>,
    pub extra: Extra,
}

/// Thinking. `data` is a sealed block (Anthropic `redacted_thinking`): then `text` is empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reasoning {
    pub text: String,
    pub signature: Option<Signature>,
    /// Sealed reasoning, readable only by who made it.
    pub sealed: Option<Signature>,
    pub extra: Extra,
}

/// Opaque proof of a reasoning step. Only ever sent back to a format of the same `origin`; in a foreign client's wire it
/// travels as `pc1:<origin>:<data>` (see `codec::signature`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    pub origin: Format,
    pub data: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MediaKind {
    Image,
    /// PDF, plain text and other documents.
    Document,
    Audio,
    Video,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Media {
    pub kind: MediaKind,
    /// `image/png`, `application/pdf`; unknown for some URLs and file ids.
    pub mime: Option<String>,
    pub source: MediaSource,
    /// File name or document title.
    pub name: Option<String>,
    /// OpenAI's image `detail`, Gemini's `mediaResolution` per part.
    pub detail: Option<String>,
    /// Document context for the model (Anthropic).
    pub context: Option<String>,
    /// Citations asked for on this document.
    pub cite: Option<bool>,
    pub cache: Option<CacheHint>,
    pub signature: Option<Signature>,
    pub extra: Extra,
}

impl Media {
    /// Nothing but what it is and where it comes from.
    pub fn new(kind: MediaKind, mime: Option<String>, source: MediaSource) -> Self {
        Media {
            kind,
            mime,
            source,
            name: None,
            detail: None,
            context: None,
            cite: None,
            cache: None,
            signature: None,
            extra: Extra::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MediaSource {
    /// Standard-alphabet base64, without a `data:` head.
    Base64(String),
    Url(String),
    /// A file that lives at a provider of this format.
    File {
        format: Format,
        id: String,
    },
    /// A document given as plain text.
    Text(String),
    /// A document given as parts (Anthropic `content` source).
    Parts(Vec<Part>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ToolKind {
    #[default]
    Function,
    /// Free-text input (OpenAI `custom`): `arguments` is the raw input.
    Custom,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Empty when the upstream gave none: the client encoder makes a deterministic one.
    pub id: String,
    pub name: String,
    pub kind: ToolKind,
    /// JSON text as the model wrote it; empty means `{}`; malformed text is kept verbatim.
    pub arguments: String,
    pub signature: Option<Signature>,
    pub cache: Option<CacheHint>,
    pub extra: Extra,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolResult {
    pub call_id: String,
    /// The function's name: known from the wire (Gemini) or looked up from the call.
    pub name: Option<String>,
    pub kind: ToolKind,
    /// Text, media, or Native.
    pub parts: Vec<Part>,
    /// The result as a JSON object when the wire had one (Gemini `response`); `parts` then holds its text.
    pub object: Option<Map<String, Value>>,
    pub is_error: Option<bool>,
    pub cache: Option<CacheHint>,
    pub extra: Extra,
}

/// "Cache the prompt up to here." `ttl` in the caller's words: `5m`, `1h`, `30m`, `12h`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheHint {
    pub ttl: Option<String>,
}

/// A source of a piece of text. `start`/`end` are Unicode code points of the answer's text where the wire gives that.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Citation {
    pub url: Option<String>,
    pub title: Option<String>,
    /// Its provider's own name of the source: a file's id, a document's.
    pub file: Option<String>,
    pub cited_text: Option<String>,
    pub start: Option<u64>,
    pub end: Option<u64>,
    /// The citation as its own format wrote it, for that format and for `provider_specific_fields`.
    pub native: Option<(Format, Value)>,
}

impl Part {
    pub fn text(text: impl Into<String>) -> Part {
        Part::Text(Text { text: text.into(), ..Text::default() })
    }
}

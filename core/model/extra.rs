//! Unknown fields, kept with the format they came from and given back only to it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A wire format. The names are the configuration's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    OpenaiChat,
    OpenaiResponses,
    AnthropicMessages,
    Gemini,
    BedrockConverse,
    Cohere,
    Ollama,
}

impl Format {
    /// Those that are built, in the order of the tables that are kept by format.
    pub const ALL: [Format; 7] = [
        Format::OpenaiChat,
        Format::AnthropicMessages,
        Format::Gemini,
        Format::BedrockConverse,
        Format::Cohere,
        Format::Ollama,
        Format::OpenaiResponses,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Format::OpenaiChat => "openai_chat",
            Format::OpenaiResponses => "openai_responses",
            Format::AnthropicMessages => "anthropic_messages",
            Format::Gemini => "gemini",
            Format::BedrockConverse => "bedrock_converse",
            Format::Cohere => "cohere",
            Format::Ollama => "ollama",
        }
    }

    /// Does the path name the model, and not the body?
    pub const fn model_in_path(self) -> bool {
        matches!(self, Format::Gemini | Format::BedrockConverse)
    }

    pub fn parse(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|f| f.name() == name)
    }
}

/// What a caller asks of a model. One word per kind of endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Chat,
    Embeddings,
    CountTokens,
    /// A conversation in fewer items, for its own vendor's eyes.
    Compact,
    ListModels,
    OneModel,
    /// What is done with an answer that the gateway keeps.
    Stored,
    // No codec reads these; see `is_opaque`.
    Rerank,
    Moderations,
    GenerateImage,
    EditImage,
    VaryImage,
    Speech,
    Transcription,
    Translation,
    UploadFile,
    ListFiles,
    OneFile,
    FileContent,
    DeleteFile,
    CreateBatch,
    ListBatches,
    OneBatch,
    CancelBatch,
    // Of an answer that is made in the background, at its upstream.
    OneResponse,
    ResponseItems,
    CancelResponse,
    DeleteResponse,
    Passthrough,
    Realtime,
}

impl Operation {
    /// Of all of them, as `name` says them.
    pub const NAMES: [&'static str; 18] = [
        "chat",
        "embeddings",
        "count_tokens",
        "compaction",
        "models",
        "stored_responses",
        "rerank",
        "moderations",
        "image_generation",
        "image_edit",
        "image_variation",
        "speech",
        "transcription",
        "translation",
        "files",
        "batches",
        "passthrough",
        "realtime",
    ];

    /// May it cost money? Counting tokens goes to an upstream, but is free wherever it is offered.
    pub const fn spends(self) -> bool {
        !matches!(self, Operation::ListModels | Operation::OneModel | Operation::CountTokens | Operation::Stored)
            && !self.keeps()
    }

    /// Its bodies go through untranslated: no codec knows them, and the canonical model has no words for them.
    pub const fn is_opaque(self) -> bool {
        !matches!(
            self,
            Operation::Chat
                | Operation::Embeddings
                | Operation::CountTokens
                | Operation::Compact
                | Operation::ListModels
                | Operation::OneModel
                | Operation::Stored
        )
    }

    /// Looks after things that live at an upstream, at no charge.
    pub const fn keeps(self) -> bool {
        matches!(
            self,
            Operation::UploadFile
                | Operation::ListFiles
                | Operation::OneFile
                | Operation::FileContent
                | Operation::DeleteFile
                | Operation::ListBatches
                | Operation::OneBatch
                | Operation::CancelBatch
        ) || self.is_of_response()
    }

    /// Looks after an answer that is made in the background.
    pub const fn is_of_response(self) -> bool {
        use Operation::{CancelResponse, DeleteResponse, OneResponse, ResponseItems};
        matches!(self, OneResponse | ResponseItems | CancelResponse | DeleteResponse)
    }

    /// Names no model: it goes to a provider.
    pub const fn lacks_model(self) -> bool {
        self.keeps() || matches!(self, Operation::CreateBatch)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Operation::Chat => "chat",
            Operation::Embeddings => "embeddings",
            Operation::CountTokens => "count_tokens",
            Operation::Compact => "compaction",
            Operation::ListModels | Operation::OneModel => "models",
            Operation::Stored
            | Operation::OneResponse
            | Operation::ResponseItems
            | Operation::CancelResponse
            | Operation::DeleteResponse => "stored_responses",
            Operation::Rerank => "rerank",
            Operation::Moderations => "moderations",
            Operation::GenerateImage => "image_generation",
            Operation::EditImage => "image_edit",
            Operation::VaryImage => "image_variation",
            Operation::Speech => "speech",
            Operation::Transcription => "transcription",
            Operation::Translation => "translation",
            Operation::UploadFile
            | Operation::ListFiles
            | Operation::OneFile
            | Operation::FileContent
            | Operation::DeleteFile => "files",
            Operation::CreateBatch | Operation::ListBatches | Operation::OneBatch | Operation::CancelBatch => "batches",
            Operation::Passthrough => "passthrough",
            Operation::Realtime => "realtime",
        }
    }

    /// What a provider must offer for it, in the words of its row.
    pub fn offer(self) -> Option<&'static str> {
        match self {
            Operation::GenerateImage | Operation::EditImage | Operation::VaryImage => Some("images"),
            Operation::Passthrough => None,
            Operation::Compact => Some("compaction"),
            _ if self.is_of_response() => Some("background"),
            _ => self.is_opaque().then(|| self.name()),
        }
    }
}

/// Fields that the canonical model has no name for. Explicit nulls are not kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Extra(Option<Box<(Format, Map<String, Value>)>>);

impl Extra {
    pub fn new(format: Format, fields: Map<String, Value>) -> Self {
        if fields.is_empty() { Extra(None) } else { Extra(Some(Box::new((format, fields)))) }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The fields, if they came from `format`.
    pub fn of(&self, format: Format) -> Option<&Map<String, Value>> {
        self.0.as_deref().filter(|(f, _)| *f == format).map(|(_, m)| m)
    }

    /// Origin and fields, whoever they are for: stages scan every string.
    pub fn any(&self) -> Option<(Format, &Map<String, Value>)> {
        self.0.as_deref().map(|(f, m)| (*f, m))
    }

    pub fn any_mut(&mut self) -> Option<&mut Map<String, Value>> {
        self.0.as_deref_mut().map(|(_, m)| m)
    }

    /// Adds one field; a field of another format replaces everything held so far (it could not be given back anyway).
    pub fn insert(&mut self, format: Format, key: &str, value: Value) {
        match self.0.as_deref_mut() {
            Some((f, map)) if *f == format => {
                map.insert(key.to_owned(), value);
            }
            _ => {
                let mut map = Map::new();
                map.insert(key.to_owned(), value);
                self.0 = Some(Box::new((format, map)));
            }
        }
    }
}

//! (method, path) → { operation, format }: one const table. Knows the families' paths; does nothing else.

use std::borrow::Cow;

use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;

use crate::{
    error::{Error, Kind},
    model::{Format, Operation},
};

/// A row: what a path asks for.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint {
    /// `*`: any.
    pub method: &'static str,
    /// Segments; `{model}` is all up to the row's verb, or to the end; `{id}` is one segment, `{rest}` all that is left.
    pub path: &'static str,
    pub operation: Operation,
    pub format: Format,
    /// Streaming asked by the path.
    pub stream: Option<bool>,
}

/// Every path of the data plane, without its optional family prefix. Tests walk this table.
pub const TABLE: &[Endpoint] = &[
    row("POST", "/v1/chat/completions", Operation::Chat, Format::OpenaiChat, None),
    row("POST", LEGACY, Operation::Chat, Format::OpenaiChat, None),
    row("POST", "/v1/responses", Operation::Chat, Format::OpenaiResponses, None),
    row("POST", "/v1/responses/input_tokens", Operation::CountTokens, Format::OpenaiResponses, None),
    row("POST", "/v1/responses/compact", Operation::Compact, Format::OpenaiResponses, None),
    row("GET", "/v1/responses/{id}", Operation::Stored, Format::OpenaiResponses, None),
    row("DELETE", "/v1/responses/{id}", Operation::Stored, Format::OpenaiResponses, None),
    row("GET", "/v1/responses/{id}/input_items", Operation::Stored, Format::OpenaiResponses, None),
    row("POST", "/v1/responses/{id}/cancel", Operation::Stored, Format::OpenaiResponses, None),
    row("POST", "/v1/conversations", Operation::Stored, Format::OpenaiResponses, None),
    row("GET", "/v1/conversations/{id}", Operation::Stored, Format::OpenaiResponses, None),
    row("POST", "/v1/conversations/{id}", Operation::Stored, Format::OpenaiResponses, None),
    row("DELETE", "/v1/conversations/{id}", Operation::Stored, Format::OpenaiResponses, None),
    row("GET", "/v1/conversations/{id}/{rest}", Operation::Stored, Format::OpenaiResponses, None),
    row("POST", "/v1/conversations/{id}/{rest}", Operation::Stored, Format::OpenaiResponses, None),
    row("DELETE", "/v1/conversations/{id}/{rest}", Operation::Stored, Format::OpenaiResponses, None),
    row("POST", "/v1/embeddings", Operation::Embeddings, Format::OpenaiChat, None),
    row("GET", "/v1/models", Operation::ListModels, Format::OpenaiChat, None),
    row("GET", "/v1/models/{model}", Operation::OneModel, Format::OpenaiChat, None),
    row("POST", "/v1/messages", Operation::Chat, Format::AnthropicMessages, None),
    row("POST", "/v1/messages/count_tokens", Operation::CountTokens, Format::AnthropicMessages, None),
    row("POST", "/v1beta/models/{model}:generateContent", Operation::Chat, Format::Gemini, Some(false)),
    row("POST", "/v1beta/models/{model}:streamGenerateContent", Operation::Chat, Format::Gemini, Some(true)),
    row("POST", "/v1beta/models/{model}:embedContent", Operation::Embeddings, Format::Gemini, None),
    row("POST", "/v1beta/models/{model}:batchEmbedContents", Operation::Embeddings, Format::Gemini, None),
    row("POST", "/v1beta/models/{model}:countTokens", Operation::CountTokens, Format::Gemini, None),
    row("GET", "/v1beta/models", Operation::ListModels, Format::Gemini, None),
    row("GET", "/v1beta/models/{model}", Operation::OneModel, Format::Gemini, None),
    // The older and the newer spelling of Gemini's version segment.
    row("POST", "/v1/models/{model}:generateContent", Operation::Chat, Format::Gemini, Some(false)),
    row("POST", "/v1/models/{model}:streamGenerateContent", Operation::Chat, Format::Gemini, Some(true)),
    row("POST", "/v1/models/{model}:embedContent", Operation::Embeddings, Format::Gemini, None),
    row("POST", "/v1/models/{model}:batchEmbedContents", Operation::Embeddings, Format::Gemini, None),
    row("POST", "/v1/models/{model}:countTokens", Operation::CountTokens, Format::Gemini, None),
    row("POST", "/v2/chat", Operation::Chat, Format::Cohere, None),
    row("POST", "/v2/embed", Operation::Embeddings, Format::Cohere, None),
    row("POST", "/model/{model}/converse", Operation::Chat, Format::BedrockConverse, Some(false)),
    row("POST", "/model/{model}/converse-stream", Operation::Chat, Format::BedrockConverse, Some(true)),
    row("GET", "/v1beta1/models", Operation::ListModels, Format::Gemini, None),
    row("GET", "/v1beta1/models/{model}", Operation::OneModel, Format::Gemini, None),
    // Bodies that go through untranslated.
    opaque("POST", "/v1/rerank", Operation::Rerank),
    opaque("POST", "/v2/rerank", Operation::Rerank),
    opaque("POST", "/v1/moderations", Operation::Moderations),
    opaque("POST", "/v1/images/generations", Operation::GenerateImage),
    opaque("POST", "/v1/images/edits", Operation::EditImage),
    opaque("POST", "/v1/images/variations", Operation::VaryImage),
    opaque("POST", "/v1/audio/speech", Operation::Speech),
    opaque("POST", "/v1/audio/transcriptions", Operation::Transcription),
    opaque("POST", "/v1/audio/translations", Operation::Translation),
    opaque("POST", "/v1/files", Operation::UploadFile),
    opaque("GET", "/v1/files", Operation::ListFiles),
    opaque("GET", "/v1/files/{id}", Operation::OneFile),
    opaque("DELETE", "/v1/files/{id}", Operation::DeleteFile),
    opaque("GET", "/v1/files/{id}/content", Operation::FileContent),
    opaque("POST", "/v1/batches", Operation::CreateBatch),
    opaque("GET", "/v1/batches", Operation::ListBatches),
    opaque("GET", "/v1/batches/{id}", Operation::OneBatch),
    opaque("POST", "/v1/batches/{id}/cancel", Operation::CancelBatch),
    // A WebSocket.
    opaque("GET", "/v1/realtime", Operation::Realtime),
    // A provider's own paths, as far as its row lists them; the format is the provider's.
    opaque("*", "/providers/{id}/{rest}", Operation::Passthrough),
];

const LEGACY: &str = "/v1/completions";

const fn opaque(method: &'static str, path: &'static str, operation: Operation) -> Endpoint {
    row(method, path, operation, Format::OpenaiChat, None)
}

const fn row(
    method: &'static str,
    path: &'static str,
    operation: Operation,
    format: Format,
    stream: Option<bool>,
) -> Endpoint {
    Endpoint { method, path, operation, format, stream }
}

/// What a request's line and headers say.
#[derive(Debug)]
pub struct Found {
    pub operation: Operation,
    pub format: Format,
    pub stream: Option<bool>,
    /// The model in the path, decoded.
    pub model: Option<String>,
    /// The id in the path, decoded.
    pub id: Option<String>,
    /// What the path has behind a provider's name, from its slash on, as it was written.
    pub rest: Option<String>,
    /// Gemini's stream as a JSON array, not SSE.
    pub json_array: bool,
    /// Gemini's `:embedContent`: one vector was asked.
    pub single: bool,
    /// OpenAI's legacy completions.
    pub legacy: bool,
}

impl Found {
    /// What is asked of something that is kept, by its id.
    pub fn kept(operation: Operation, format: Format, id: &str) -> Found {
        Found {
            operation,
            format,
            stream: Some(false),
            model: None,
            id: Some(id.to_owned()),
            rest: None,
            json_array: false,
            single: false,
            legacy: false,
        }
    }
}

/// Looks a request up. The error is 404 or 405 and comes with the format in which to say so.
pub fn find(method: &Method, path: &str, query: Option<&str>, headers: &HeaderMap) -> Result<Found, (Format, Error)> {
    let (prefix, rest) = split_prefix(path);
    // `/v1beta1` is `/v1beta` with another spelling.
    let rest = match rest.strip_prefix("/v1beta1/models/") {
        Some(tail) if tail.contains(':') => Cow::Owned(format!("/v1beta/models/{tail}")),
        _ => Cow::Borrowed(rest),
    };
    let rest = with_models(rest);
    let mut allowed = Vec::new();
    for row in TABLE {
        let Some(captured) = matches(row.path, &rest) else { continue };
        if row.method != method.as_str() && row.method != "*" {
            allowed.push(row.method);
            continue;
        }
        let format = match row.operation {
            Operation::ListModels | Operation::OneModel => list_format(prefix, row.format, query, headers),
            _ => row.format,
        };
        return Ok(Found {
            operation: row.operation,
            format,
            stream: row.stream,
            model: captured.model,
            id: captured.id,
            rest: captured.rest,
            json_array: row.format == Format::Gemini
                && row.stream == Some(true)
                && !query.is_some_and(|q| q.split('&').any(|p| p == "alt=sse")),
            single: row.path.ends_with(":embedContent"),
            legacy: row.path == LEGACY,
        });
    }
    let format = guess(prefix, &rest);
    let verb = rest.rsplit('/').next().and_then(|last| last.rsplit_once(':')).map(|(_, verb)| verb);
    if let (Some(verb), &Method::POST) = (verb, method) {
        // It reads like a model's name, and nobody posts to one.
        let message = format!("no model has the method `:{verb}` here; there are {}", KNOWN_VERBS.join(", "));
        Err((format, Error::new(Kind::NotFound, message)))
    } else if allowed == ["POST"] && headers.contains_key(http::header::UPGRADE) {
        let message = format!("{path} takes no WebSocket; POST with `\"stream\": true` gives the same events");
        Err((format, Error::new(Kind::MethodNotAllowed, message).at("POST")))
    } else if allowed.is_empty() {
        let message = format!("there is no {path} here; see /v1/models for models and the README for paths");
        Err((format, Error::new(Kind::NotFound, message)))
    } else {
        let message = format!("{path} takes {}, not {method}", allowed.join(" or "));
        Err((format, Error::new(Kind::MethodNotAllowed, message).at(allowed.join(", "))))
    }
}

/// Some clients leave `models/` out where a model's name has a slash: `/v1beta/openai/gpt-4o:generateContent`.
fn with_models(path: Cow<'_, str>) -> Cow<'_, str> {
    let versions = ["/v1beta1/", "/v1beta/", "/v1/"];
    let Some(name) = versions.iter().find_map(|v| path.strip_prefix(v)) else { return path };
    if name.starts_with("models/") || !KNOWN_VERBS.iter().any(|v| name.ends_with(v)) {
        return path;
    }
    Cow::Owned(format!("/v1beta/models/{}", without_place(name)))
}

/// Vertex's clients say where a model lives: `[projects/P/locations/L/]publishers/google/models/NAME`. Here its name says it.
fn without_place(name: &str) -> &str {
    let project = name.strip_prefix("projects/").and_then(|rest| rest.split_once("/locations/"));
    let place = project.filter(|(project, _)| !project.contains('/')).and_then(|(_, rest)| rest.split_once('/'));
    let publisher = place.map_or(name, |(_, rest)| rest);
    publisher.strip_prefix("publishers/google/models/").unwrap_or(name)
}

/// `/anthropic/v1/messages` → (anthropic's format, `/v1/messages`).
fn split_prefix(path: &str) -> (Option<Format>, &str) {
    for (prefix, format) in PREFIXES {
        if let Some(rest) = path.strip_prefix(prefix)
            && rest.starts_with('/')
        {
            return (Some(format), rest);
        }
    }
    (None, path)
}

/// What a path's placeholders stand for, decoded.
#[derive(Default)]
struct Captured {
    model: Option<String>,
    id: Option<String>,
    rest: Option<String>,
}

/// `None`: no match.
fn matches(pattern: &str, path: &str) -> Option<Captured> {
    // Most rows have no placeholder, or another beginning: a search for each would be the dearest part of a request's line.
    let Some(open) = memchr::memchr(b'{', pattern.as_bytes()) else {
        return (pattern == path).then(Captured::default);
    };
    if !path.as_bytes().starts_with(&pattern.as_bytes()[..open]) {
        return None;
    }
    let decoded = |text: &str| Some(percent_decode_str(text).decode_utf8_lossy().into_owned());
    if let Some(head) = pattern.strip_suffix("{id}/{rest}") {
        let (id, rest) = path.strip_prefix(head).and_then(|path| path.split_at_checked(path.find('/')?))?;
        return Some(Captured { id: decoded(id), rest: Some(rest.to_owned()), model: None });
    }
    if let Some((head, tail)) = pattern.split_once("{id}") {
        let id = path.strip_prefix(head)?.strip_suffix(tail).filter(|id| !id.is_empty() && !id.contains('/'))?;
        return Some(Captured { id: decoded(id), ..Captured::default() });
    }
    let (head, tail) = pattern.split_once("{model}")?;
    let model = path.strip_prefix(head)?.strip_suffix(tail)?;
    // A row without a verb takes no path that has one: `:verb` belongs to POST rows.
    if model.is_empty() || (tail.is_empty() && KNOWN_VERBS.iter().any(|v| model.ends_with(v))) {
        return None;
    }
    Some(Captured { model: decoded(model), ..Captured::default() })
}

/// `GET /v1/models` answers in the caller's family.
fn list_format(prefix: Option<Format>, row: Format, query: Option<&str>, headers: &HeaderMap) -> Format {
    if let Some(format) = prefix {
        return format;
    }
    if row == Format::Gemini {
        return row;
    }
    if headers.contains_key("anthropic-version") {
        Format::AnthropicMessages
    } else if headers.contains_key("x-goog-api-key")
        || query.is_some_and(|q| q.split('&').any(|p| p.starts_with("key=")))
    {
        Format::Gemini
    } else {
        Format::OpenaiChat
    }
}

/// The family of a path that does not exist.
fn guess(prefix: Option<Format>, path: &str) -> Format {
    if let Some(format) = prefix {
        format
    } else if path.starts_with("/v1/messages") {
        Format::AnthropicMessages
    } else if path.starts_with("/v2/") {
        Format::Cohere
    } else if path.starts_with("/model/") {
        Format::BedrockConverse
    } else if path.starts_with("/v1/responses") || path.starts_with("/v1/conversations") {
        Format::OpenaiResponses
    } else if path.starts_with("/v1beta") || path.rsplit('/').next().is_some_and(|s| s.contains(':')) {
        Format::Gemini
    } else {
        Format::OpenaiChat
    }
}

const PREFIXES: [(&str, Format); 5] = [
    ("/openai", Format::OpenaiChat),
    ("/anthropic", Format::AnthropicMessages),
    ("/gemini", Format::Gemini),
    ("/bedrock", Format::BedrockConverse),
    ("/cohere", Format::Cohere),
];

const KNOWN_VERBS: [&str; 5] =
    [":generateContent", ":streamGenerateContent", ":embedContent", ":batchEmbedContents", ":countTokens"];

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &str, path: &str) -> Result<Found, (Format, Error)> {
        find(&Method::from_bytes(method.as_bytes()).expect("a method"), path, None, &HeaderMap::new())
    }

    #[test]
    fn the_model_in_a_path_is_all_up_to_the_last_colon() {
        for (path, model) in [
            ("/v1beta/models/gemini-2.5-pro:generateContent", "gemini-2.5-pro"),
            ("/v1/models/mock/a:b:generateContent", "mock/a:b"),
            ("/v1beta/openai/gpt-4o:generateContent", "openai/gpt-4o"),
            ("/gemini/v1beta1/models/openai%2Fgpt-4o:generateContent", "openai/gpt-4o"),
            ("/v1beta1/publishers/google/models/openai/gpt-4o:generateContent", "openai/gpt-4o"),
            ("/v1/projects/p/locations/eu/publishers/google/models/gemini-2.5-pro:countTokens", "gemini-2.5-pro"),
            (
                "/v1beta1/projects/p/q/locations/eu/publishers/google/models/m:countTokens",
                "projects/p/q/locations/eu/publishers/google/models/m",
            ),
            (
                "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse",
                "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            ),
            ("/model/aws%2Famazon.nova-lite-v1:0/converse-stream", "aws/amazon.nova-lite-v1:0"),
            (
                "/bedrock/model/arn:aws:bedrock:eu-west-1:123456789012:inference-profile/a.b/converse",
                "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/a.b",
            ),
            (
                "/bedrock/model/arn%3Aaws%3Abedrock%3A%3A1%3Aprompt-router%2Fx/converse",
                "arn:aws:bedrock::1:prompt-router/x",
            ),
        ] {
            assert_eq!(found("POST", path).expect("found").model.as_deref(), Some(model));
        }
    }

    #[test]
    fn a_wrong_method_names_the_right_one() {
        let (format, error) = found("GET", "/v1/messages").expect_err("refused");
        assert_eq!((format, error.status()), (Format::AnthropicMessages, 405));
        assert!(error.message.contains("POST"));
        assert_eq!(found("POST", "/v1beta/none").expect_err("refused").0, Format::Gemini);
        for path in ["/model/x/converse-sideways", "/model//converse", "/bedrock/none"] {
            let (format, error) = found("POST", path).expect_err("refused");
            assert_eq!((format, error.status()), (Format::BedrockConverse, 404), "{path}");
        }
    }

    #[test]
    fn the_model_list_answers_in_the_callers_family() {
        let list = |path: &str, header: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(name) = header {
                headers.insert(name, "x".parse().expect("a value"));
            }
            find(&Method::GET, path, None, &headers).expect("found").format
        };
        assert_eq!(list("/v1/models", None), Format::OpenaiChat);
        assert_eq!(list("/v1/models", Some("anthropic-version")), Format::AnthropicMessages);
        assert_eq!(list("/v1/models", Some("x-goog-api-key")), Format::Gemini);
        assert_eq!(list("/gemini/v1/models", None), Format::Gemini);
        assert_eq!(list("/v1beta/models/x", None), Format::Gemini);
    }
}

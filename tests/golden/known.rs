//! What a format cannot say, each with its reason. Everything else that differs is a fault.

use portcullis::model::Format;

/// A fact of an answer that a client's wire has no place for.
pub fn answer_exception(client: Format, fact: &str) -> bool {
    ANSWERS.iter().any(|(format, name, _)| *format == client && *name == fact)
}

/// A fact of a request that an upstream's wire has no place for, when the codec said so in `dropped`.
pub fn request_exception(target: Format, fact: &str) -> bool {
    REQUESTS.iter().any(|(format, name, _)| *format == target && *name == fact)
}

/// Features that a target may refuse with 400 instead of taking part of a request.
pub fn may_refuse(target: Format, feature: &str) -> bool {
    EVERYWHERE.contains(&feature) || REFUSED.iter().any(|(format, name)| *format == target && *name == feature)
}

const ANSWERS: [(Format, &str, &str); 7] = [
    (
        Format::AnthropicMessages,
        "media",
        "answers have no media blocks: they travel in `portcullis_native`, outside the content",
    ),
    (Format::Gemini, "cache writes", "usageMetadata has no figure for cache writes"),
    (
        Format::BedrockConverse,
        "media",
        "answers have image blocks only: other media travel in `additionalModelResponseFields`",
    ),
    (Format::Cohere, "media", "answers hold text only: media travel in `portcullis_native`, beside the content"),
    (Format::Ollama, "signatures", "no client speaks it: `thinking` is a text without a signature"),
    (Format::Ollama, "citations", "no client speaks it: a message has no sources"),
    (Format::Ollama, "media", "no client speaks it: a message has pictures only"),
];

const REQUESTS: [(Format, &str, &str); 2] = [
    (
        Format::AnthropicMessages,
        "output",
        "plain JSON mode has no field: a system line asks for it, noted as `response_format`",
    ),
    (
        Format::BedrockConverse,
        "output",
        "plain JSON mode has no field: a system line asks for it, noted as `response_format`",
    ),
];

/// Things of one vendor that no other can do.
const EVERYWHERE: [&str; 4] = ["files", "cached_content", "web_search", "mcp_servers"];

const REFUSED: [(Format, &str); 40] = [
    (Format::OpenaiResponses, "n"),
    (Format::OpenaiResponses, "video"),
    (Format::OpenaiResponses, "audio_urls"),
    (Format::OpenaiResponses, "documents"),
    (Format::AnthropicMessages, "n"),
    (Format::AnthropicMessages, "logprobs"),
    (Format::AnthropicMessages, "audio"),
    (Format::AnthropicMessages, "video"),
    (Format::AnthropicMessages, "image_type"),
    (Format::AnthropicMessages, "document_type"),
    (Format::AnthropicMessages, "assistant_media"),
    (Format::AnthropicMessages, "system_only"),
    (Format::AnthropicMessages, "image_output"),
    (Format::BedrockConverse, "n"),
    (Format::BedrockConverse, "logprobs"),
    (Format::BedrockConverse, "image_type"),
    (Format::BedrockConverse, "document_type"),
    (Format::BedrockConverse, "assistant_media"),
    (Format::BedrockConverse, "system_only"),
    (Format::BedrockConverse, "image_output"),
    (Format::BedrockConverse, "audio"),
    (Format::BedrockConverse, "media_urls"),
    (Format::Gemini, "file_id"),
    (Format::OpenaiChat, "video"),
    (Format::Cohere, "n"),
    (Format::Cohere, "logprobs"),
    (Format::Cohere, "audio"),
    (Format::Cohere, "video"),
    (Format::Cohere, "documents"),
    (Format::Cohere, "assistant_media"),
    (Format::Cohere, "image_output"),
    (Format::Ollama, "n"),
    (Format::Ollama, "logprobs"),
    (Format::Ollama, "audio"),
    (Format::Ollama, "video"),
    (Format::Ollama, "documents"),
    (Format::Ollama, "assistant_media"),
    (Format::Ollama, "image_output"),
    (Format::Ollama, "media_urls"),
    (Format::Ollama, "tool_choice"),
];

/// A wire without a word for "no calls" says it by naming no tools.
pub fn leaves_tools_out(target: Format) -> bool {
    matches!(target, Format::BedrockConverse | Format::Ollama)
}

/// A wire whose models draw by a tool: who asks for a picture elsewhere gets it offered here.
pub fn draws_by_a_tool(target: Format) -> bool {
    target == Format::OpenaiResponses
}

/// A wire that says only "some call must be made".
pub fn forces_the_only_tool(target: Format) -> bool {
    target == Format::Cohere
}

/// A wire that refuses past calls of tools that are not declared.
pub fn declares_past_calls(target: Format) -> bool {
    target == Format::BedrockConverse
}

/// Reasons for which a wire has no word: the nearest one stands there, the raw word beside it.
pub fn finish_is_free(answer: &portcullis::model::Response, client: Format) -> bool {
    use portcullis::model::FinishReason;
    let finish = answer.choices.first().and_then(|c| c.finish.as_ref());
    finish.is_none_or(|f| client != Format::Gemini && matches!(f.reason, FinishReason::Malformed | FinishReason::Other))
}

/// Figures that contradict themselves: more cached tokens than there were at all.
pub fn usage_is_absurd(answer: &portcullis::model::Response) -> bool {
    answer.usage.as_ref().is_some_and(|u| u.cache_read_tokens.unwrap_or(0) > u.input_tokens.unwrap_or(0))
}

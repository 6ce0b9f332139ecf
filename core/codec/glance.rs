//! A glance at a whole answer that goes to a client of the same format as it came: is it one, what did it use, how did it
//! end? Its content is neither read nor copied; the format's own decoder sees only what stands around it.

use super::{codec, envelope::Envelope};
use crate::{
    error::{Error, Kind, Result},
    model::{FinishReason, Format, Operation, Usage},
};

/// What the gateway must know of it.
#[derive(Debug, Default)]
pub struct Glance {
    pub usage: Option<Usage>,
    pub finish: Option<FinishReason>,
}

/// Errors: what the upstream sent is no answer, or an error under a good status.
pub fn glance(format: Format, operation: Operation, body: &[u8]) -> Result<Glance> {
    let envelope = Envelope::scan(body)
        .map_err(|e| Error::new(Kind::Upstream, "the upstream answered with something that is not JSON").because(e))?;
    let (content, usage) = match format {
        Format::OpenaiChat => ("choices", "usage"),
        Format::AnthropicMessages => ("content", "usage"),
        Format::Gemini => ("candidates", "usageMetadata"),
    };
    let at = |key: &str| envelope.value(body, key).map(|at| &body[at]);
    let content = at(content);
    let odd = at("error").is_some_and(|e| e != b"null") || content.is_none();
    if operation == Operation::Chat && odd {
        // Rare: the decoder says what is wrong with it, if anything is.
        let response = codec(format).decode_response(body)?;
        let finish = response.choices.first().and_then(|c| c.finish.as_ref()).map(|f| f.reason);
        return Ok(Glance { usage: response.usage, finish });
    }
    let text = content.unwrap_or_default();
    let finish = match format {
        Format::OpenaiChat => after(text, b"\"finish_reason\""),
        Format::AnthropicMessages => at("stop_reason"),
        Format::Gemini => after(text, b"\"finishReason\""),
    };
    let finish = finish.unwrap_or(b"null");
    if let (Some(usage), Some(reason)) =
        (at(usage).and_then(|u| codec(format).read_usage(u)), codec(format).read_finish(finish))
    {
        return Ok(Glance { usage: Some(usage), finish: Some(reason).filter(|_| operation == Operation::Chat) });
    }
    let called = memchr::memmem::find(text, b"\"functionCall\"").is_some();
    let around: [&[u8]; 2] = match format {
        Format::OpenaiChat => [br#"{"choices":[{"message":{},"finish_reason":"#, b"}]"],
        Format::AnthropicMessages => [br#"{"type":"message","content":[],"stop_reason":"#, b""],
        Format::Gemini if called => {
            [br#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f"}}]},"finishReason":"#, b"}]"]
        }
        Format::Gemini => [br#"{"candidates":[{"finishReason":"#, b"}]"],
    };
    let key = format!(",\"{usage}\":");
    let small = [around[0], finish, around[1], key.as_bytes(), at(usage).unwrap_or(b"null"), b"}"].concat();
    // A server's own words around its answer do not make it a bad one: then there is nothing to note.
    let Ok(response) = codec(format).decode_response(&small) else { return Ok(Glance::default()) };
    let finish = response.choices.first().and_then(|c| c.finish.as_ref()).map(|f| f.reason);
    Ok(Glance { usage: response.usage, finish: finish.filter(|_| operation == Operation::Chat) })
}

/// The text value behind the last of these keys. Inside a text the key's own quotes would be escaped.
fn after<'a>(content: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let rest = &content[memchr::memmem::rfind(content, key)? + key.len()..];
    let value = rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let end = memchr::memchr(b'"', value.strip_prefix(b"\"")?)?;
    Some(&value[..end + 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(format: Format, body: &str) -> (Option<u64>, Option<FinishReason>) {
        let glance = glance(format, Operation::Chat, body.as_bytes()).expect("an answer");
        (glance.usage.and_then(|u| u.output_tokens), glance.finish)
    }

    #[test]
    fn usage_and_finish_are_found_around_any_content() {
        let text = r#"say \"finish_reason\": \"length\" and \"usage\": {}"#;
        for (format, body) in [
            (
                Format::OpenaiChat,
                r#"{"choices":[{"message":{"content":"TEXT"},"finish_reason" : "stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
            ),
            (
                Format::AnthropicMessages,
                r#"{"type":"message","content":[{"type":"text","text":"TEXT"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":2}}"#,
            ),
            (
                Format::Gemini,
                r#"{"candidates":[{"content":{"parts":[{"text":"TEXT"}]},"finishReason":"STOP"}],"usageMetadata":{"candidatesTokenCount":2}}"#,
            ),
        ] {
            assert_eq!(seen(format, &body.replace("TEXT", text)), (Some(2), Some(FinishReason::Stop)), "{format:?}");
        }
    }

    #[test]
    fn calls_are_told_from_a_plain_stop() {
        let body =
            r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"x","args":{}}}]},"finishReason":"STOP"}]}"#;
        assert_eq!(seen(Format::Gemini, body), (None, Some(FinishReason::ToolCalls)));
        let body = r#"{"choices":[{"message":{"tool_calls":[]},"finish_reason":"tool_calls"}]}"#;
        assert_eq!(seen(Format::OpenaiChat, body), (None, Some(FinishReason::ToolCalls)));
    }

    #[test]
    fn an_error_under_a_good_status_is_an_error() {
        for format in [Format::OpenaiChat, Format::AnthropicMessages, Format::Gemini] {
            for body in [r#"{"error":{"message":"no","code":500}}"#, "{}", r#"{"own":1}"#, "[]", "null", "<html>"] {
                let error = glance(format, Operation::Chat, body.as_bytes()).expect_err(body);
                assert!(error.retryable(), "{format:?} {body}: {error}");
            }
        }
    }
}

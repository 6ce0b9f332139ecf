//! A glance at a whole answer that goes to a client of the same format as it came: is it one, what did it use, how did it
//! end? Its content is neither read nor copied; the format's own decoder sees only what stands around it.

use std::sync::LazyLock;

use memchr::memmem::FinderRev;

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
    let envelope = Envelope::fields(body)
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
        Format::OpenaiChat => after(text, &FINISH_REASON),
        Format::AnthropicMessages => at("stop_reason"),
        Format::Gemini => after(text, &FINISH_REASON_CAMEL),
    };
    let called = format == Format::Gemini && memchr::memmem::find(text, b"\"functionCall\"").is_some();
    Ok(Glance {
        usage: at(usage).and_then(|u| read_usage(format, usage, u)),
        finish: finish.filter(|_| operation == Operation::Chat).and_then(|word| read_finish(format, word, called)),
    })
}

fn read_usage(format: Format, key: &str, usage: &[u8]) -> Option<Usage> {
    codec(format).read_usage(usage).or_else(|| {
        // The least that every format takes for an answer, with the usage in it.
        let around = format!(r#"{{"choices":[],"content":[],"candidates":[{{"finishReason":"STOP"}}],"{key}":"#);
        codec(format).decode_response(&[around.as_bytes(), usage, b"}"].concat()).ok()?.usage
    })
}

fn read_finish(format: Format, word: &[u8], called: bool) -> Option<FinishReason> {
    // Nearly every answer ends with one of these.
    match (format, word) {
        (Format::OpenaiChat, b"\"stop\"") | (Format::AnthropicMessages, b"\"end_turn\"") => {
            return Some(FinishReason::Stop);
        }
        (Format::OpenaiChat, b"\"tool_calls\"") | (Format::AnthropicMessages, b"\"tool_use\"") => {
            return Some(FinishReason::ToolCalls);
        }
        (Format::Gemini, b"\"STOP\"") if called => return Some(FinishReason::ToolCalls),
        (Format::Gemini, b"\"STOP\"") => return Some(FinishReason::Stop),
        _ => {}
    }
    let around: [&[u8]; 2] = match format {
        Format::OpenaiChat => [br#"{"choices":[{"message":{},"finish_reason":"#, b"}]}"],
        Format::AnthropicMessages => [br#"{"type":"message","content":[],"stop_reason":"#, b"}"],
        Format::Gemini => [br#"{"candidates":[{"finishReason":"#, b"}]}"],
    };
    let response = codec(format).decode_response(&[around[0], word, around[1]].concat()).ok()?;
    response.choices.first().and_then(|c| c.finish.as_ref()).map(|f| f.reason)
}

/// The text value behind the last of these keys. Inside a text the key's own quotes would be escaped.
fn after<'a>(content: &'a [u8], key: &FinderRev<'static>) -> Option<&'a [u8]> {
    let rest = &content[key.rfind(content)? + key.needle().len()..];
    let value = rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let end = memchr::memchr(b'"', value.strip_prefix(b"\"")?)?;
    Some(&value[..end + 2])
}

/// Searchers, made once.
static FINISH_REASON: LazyLock<FinderRev<'static>> = LazyLock::new(|| FinderRev::new(b"\"finish_reason\""));
static FINISH_REASON_CAMEL: LazyLock<FinderRev<'static>> = LazyLock::new(|| FinderRev::new(b"\"finishReason\""));

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
        for (word, reason) in
            [("tool_calls", FinishReason::ToolCalls), ("length", FinishReason::Length), ("odd", FinishReason::Other)]
        {
            let body = format!(r#"{{"choices":[{{"message":{{"tool_calls":[]}},"finish_reason":"{word}"}}]}}"#);
            assert_eq!(seen(Format::OpenaiChat, &body), (None, Some(reason)));
        }
    }

    #[test]
    fn an_error_under_a_good_status_is_an_error() {
        for format in [Format::OpenaiChat, Format::AnthropicMessages, Format::Gemini] {
            for body in [
                r#"{"error":{"message":"no","code":500}}"#,
                "{}",
                r#"{"own":1}"#,
                "[]",
                "null",
                "<html>",
                r#"{"choices":[{"a":"b"}],"content":[],"candidates":[{"#,
                r#"{"choices":[]} {"choices":[]}"#,
            ] {
                let error = glance(format, Operation::Chat, body.as_bytes()).expect_err(body);
                assert!(error.retryable(), "{format:?} {body}: {error}");
            }
        }
    }
}

//! A glance at a whole answer that goes to a client of the same format as it came: is it one, what did it use, how did it
//! end? Its content is neither read nor copied; the format's own decoder sees only what stands around it.

use std::sync::LazyLock;

use memchr::memmem::FinderRev;

use super::{codec, envelope::Envelope};
use crate::{
    error::{Error, Kind, Result},
    model::{FinishReason, Format, Operation, ServiceTier, Usage},
};

/// What the gateway must know of it.
#[derive(Debug, Default)]
pub struct Glance {
    pub usage: Option<Usage>,
    pub finish: Option<FinishReason>,
}

/// Where a format's whole answer holds what the gateway must know.
pub struct Landmarks {
    /// The top-level keys of the content and of the usage.
    pub content: &'static str,
    pub usage: &'static str,
    pub finish: FinishAt,
    /// What stands in the content of an answer with calls, where `stop` ends that too.
    pub call: Option<&'static [u8]>,
    /// The words, with their quotes, that end most answers.
    pub stop: &'static [u8],
    pub tools: Option<&'static [u8]>,
    /// What stands in the content of an answer for which the web was searched, where its usage does not count that.
    pub searched: Option<&'static [u8]>,
    /// What must stand around a finish word so that the decoder reads it.
    pub around: [&'static [u8]; 2],
}

/// Where the finish word stands.
#[derive(Debug, Clone, Copy)]
pub enum FinishAt {
    /// In the content: `finish_reason` or `finishReason`, the last one.
    Choice(Key),
    /// A top-level field.
    Top(&'static str),
}

#[derive(Debug, Clone, Copy)]
pub enum Key {
    Snake,
    Camel,
}

/// Errors: what the upstream sent is no answer, or an error under a good status. `searches`: they have a price, so they are
/// counted where that takes a look at the content.
pub fn glance(format: Format, operation: Operation, body: &[u8], searches: bool) -> Result<Glance> {
    let envelope = Envelope::fields(body)
        .map_err(|e| Error::new(Kind::Upstream, "the upstream answered with something that is not JSON").because(e))?;
    let Some(marks) = codec(format).landmarks() else {
        return if operation == Operation::Chat { decoded(format, body) } else { Ok(Glance::default()) };
    };
    let Landmarks { content, usage, .. } = marks;
    let at = |key: &str| envelope.value(body, key).map(|at| &body[at]);
    let content = at(content);
    let odd = at("error").is_some_and(|e| e != b"null") || content.is_none();
    if operation == Operation::Chat && odd {
        // Rare: the decoder says what is wrong with it, if anything is.
        return decoded(format, body);
    }
    let text = content.unwrap_or_default();
    let finish = match marks.finish {
        FinishAt::Choice(Key::Snake) => after(text, &FINISH_REASON),
        FinishAt::Choice(Key::Camel) => after(text, &FINISH_REASON_CAMEL),
        FinishAt::Top(key) => at(key),
    };
    if operation == Operation::Chat && finish == Some(FAILED) {
        return decoded(format, body);
    }
    let called = marks.call.is_some_and(|call| memchr::memmem::find(text, call).is_some());
    let mut used = at(usage)
        .and_then(|u| read_usage(format, usage, u))
        .map(|usage| Usage { service_tier: at("service_tier").and_then(service).or(usage.service_tier), ..usage });
    let searched = || marks.searched.is_some_and(|mark| memchr::memmem::find(text, mark).is_some());
    if let Some(used) = used.as_mut().filter(|_| searches && searched())
        && let Some(read) = decoded(format, body).ok().and_then(|glance| glance.usage)
    {
        used.units_mut().web_searches = read.units().web_searches;
    }
    Ok(Glance {
        usage: used,
        finish: finish
            .filter(|_| operation == Operation::Chat)
            .and_then(|word| read_finish(format, &marks, word, called)),
    })
}

/// The whole answer read, where there is no shorter way.
fn decoded(format: Format, body: &[u8]) -> Result<Glance> {
    let response = codec(format).decode_response(body)?;
    let finish = response.choices.first().and_then(|c| c.finish.as_ref()).map(|f| f.reason);
    Ok(Glance { usage: response.usage, finish })
}

fn read_usage(format: Format, key: &str, usage: &[u8]) -> Option<Usage> {
    codec(format).read_usage(usage).or_else(|| {
        // The least that every format takes for an answer, with the usage in it.
        let around =
            format!(r#"{{"choices":[{{}}],"content":[],"output":[],"candidates":[{{"finishReason":"STOP"}}],"{key}":"#);
        codec(format).decode_response(&[around.as_bytes(), usage, b"}"].concat()).ok()?.usage
    })
}

/// Beside the usage in one family, inside it in the others.
fn service(word: &[u8]) -> Option<ServiceTier> {
    let word = std::str::from_utf8(word).ok()?.strip_prefix('"')?.strip_suffix('"')?;
    Some(ServiceTier::named(word))
}

fn read_finish(format: Format, marks: &Landmarks, word: &[u8], called: bool) -> Option<FinishReason> {
    // Nearly every answer ends with one of these.
    if word == marks.stop {
        return Some(if called { FinishReason::ToolCalls } else { FinishReason::Stop });
    }
    if marks.tools == Some(word) {
        return Some(FinishReason::ToolCalls);
    }
    let around = marks.around;
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

/// How an answer ends whose upstream failed in the middle of it (OpenRouter).
const FAILED: &[u8] = br#""error""#;

/// Searchers, made once.
static FINISH_REASON: LazyLock<FinderRev<'static>> = LazyLock::new(|| FinderRev::new(b"\"finish_reason\""));
static FINISH_REASON_CAMEL: LazyLock<FinderRev<'static>> = LazyLock::new(|| FinderRev::new(b"\"finishReason\""));

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(format: Format, body: &str) -> (Option<u64>, Option<FinishReason>) {
        let glance = glance(format, Operation::Chat, body.as_bytes(), true).expect("an answer");
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
                r#"{"choices":[{"message":{"content":"a"},"finish_reason":"error","error":{"message":"x","code":502}}]}"#,
                r#"{"choices":[{"message":{"content":"a"},"finish_reason":"error"}]}"#,
                r#"{"choices":[]} {"choices":[]}"#,
            ] {
                let error = glance(format, Operation::Chat, body.as_bytes(), true).expect_err(body);
                assert!(error.retryable(), "{format:?} {body}: {error}");
            }
        }
    }
}

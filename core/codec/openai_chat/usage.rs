//! The usage object's figures, read straight from its bytes: an answer that goes through unchanged needs no tree. Says the
//! same as `wire::usage`, which a test compares.

use serde::Deserialize;

use super::wire::output_tokens;
use crate::model::Usage;

#[derive(Deserialize, Default)]
struct Figures {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    completion_tokens_details: Option<Details>,
    prompt_cache_hit_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cached_tokens: Option<u64>,
}

#[derive(Deserialize, Default)]
struct Details {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
    audio_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
}

/// `None` for anything unusual (a float, a text): the slow way reads that.
pub fn read(object: &[u8]) -> Option<Usage> {
    let figures: Figures = serde_json::from_slice(object).ok()?;
    let prompt = figures.prompt_tokens_details.unwrap_or_default();
    let completion = figures.completion_tokens_details.unwrap_or_default();
    let input = figures.prompt_tokens;
    let cached = prompt
        .cached_tokens
        .or(figures.prompt_cache_hit_tokens)
        .or(figures.cache_read_input_tokens)
        .or(figures.cached_tokens);
    let reasoning = completion.reasoning_tokens;
    Some(Usage {
        input_tokens: input.map(|all| if cached.is_some_and(|c| c > all) { all + cached.unwrap_or(0) } else { all }),
        output_tokens: output_tokens(input, figures.completion_tokens, reasoning, figures.total_tokens),
        cache_read_tokens: cached,
        cache_write_tokens: prompt.cache_write_tokens.or(figures.cache_creation_input_tokens),
        cache_write_1h_tokens: None,
        reasoning_tokens: reasoning,
        input_audio_tokens: prompt.audio_tokens,
        output_audio_tokens: completion.audio_tokens,
        native: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::openai_chat::wire;

    #[test]
    fn says_the_same_as_the_slow_way() {
        for object in [
            r#"{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}"#,
            r#"{"prompt_tokens":30,"completion_tokens":2,"total_tokens":42,"prompt_tokens_details":{"cached_tokens":7,"audio_tokens":1},"completion_tokens_details":{"reasoning_tokens":10}}"#,
            r#"{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":9},"completion_tokens_details":null}"#,
            r#"{"prompt_tokens":3,"completion_tokens":1,"prompt_cache_hit_tokens":2,"queue_time":0.25,"x":[{}]}"#,
            r#"{"cache_read_input_tokens":4,"cache_creation_input_tokens":5}"#,
        ] {
            let value = serde_json::from_str(object).expect("json");
            let slow = wire::usage(&value).map(|u| Usage { native: None, ..u });
            assert_eq!(read(object.as_bytes()), slow, "{object}");
        }
        assert_eq!(read(br#"{"prompt_tokens":3.0}"#), None);
    }
}

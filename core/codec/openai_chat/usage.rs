//! The usage object's figures, read straight from its bytes. Of what several servers name differently the first one counts.

use super::wire::output_tokens;
use crate::{
    codec::figures::figures,
    model::{Units, Usage},
};

#[derive(Default)]
struct Figures {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
    prompt: Details,
    completion: Details,
    prompt_cache_hit_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    server_tools: Details,
    num_search_queries: Option<u64>,
}

#[derive(Default)]
struct Details {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
    audio_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
    image_tokens: Option<u64>,
    web_search_requests: Option<u64>,
}

impl Figures {
    /// The place of a figure; `None` for those that say nothing here.
    fn place(&mut self, outer: &[u8], key: &[u8]) -> Option<&mut Option<u64>> {
        let details = match outer {
            b"" => {
                return Some(match key {
                    b"prompt_tokens" => &mut self.prompt_tokens,
                    b"completion_tokens" => &mut self.completion_tokens,
                    b"total_tokens" => &mut self.total_tokens,
                    b"prompt_cache_hit_tokens" => &mut self.prompt_cache_hit_tokens,
                    b"cache_read_input_tokens" => &mut self.cache_read_input_tokens,
                    b"cache_creation_input_tokens" => &mut self.cache_creation_input_tokens,
                    b"cached_tokens" => &mut self.cached_tokens,
                    b"num_search_queries" => &mut self.num_search_queries,
                    _ => return None,
                });
            }
            b"prompt_tokens_details" => &mut self.prompt,
            b"completion_tokens_details" => &mut self.completion,
            b"server_tool_use" => &mut self.server_tools,
            _ => return None,
        };
        Some(match key {
            b"cached_tokens" => &mut details.cached_tokens,
            b"cache_write_tokens" => &mut details.cache_write_tokens,
            b"audio_tokens" => &mut details.audio_tokens,
            b"reasoning_tokens" => &mut details.reasoning_tokens,
            b"image_tokens" => &mut details.image_tokens,
            b"web_search_requests" => &mut details.web_search_requests,
            _ => return None,
        })
    }
}

pub fn read(object: &[u8]) -> Option<Usage> {
    let mut found = Figures::default();
    figures(object, |outer, key, figure| {
        if let Some(place) = found.place(outer, key) {
            *place = figure.whole();
        }
    })?;
    let figures = found;
    let (prompt, completion) = (&figures.prompt, &figures.completion);
    // Who generates nothing may tell the total alone.
    let input = figures.prompt_tokens.or(figures.total_tokens.filter(|_| figures.completion_tokens.is_none()));
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
        billed: None,
        service_tier: None,
        units: Units {
            input_image_tokens: prompt.image_tokens,
            output_image_tokens: completion.image_tokens,
            web_searches: figures.server_tools.web_search_requests.or(figures.num_search_queries),
            ..Units::default()
        }
        .boxed(),
        native: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_under_the_names_of_several_servers() {
        let usage = |input, output| Usage { input_tokens: input, output_tokens: output, ..Usage::default() };
        for (object, read) in [
            (r#"{"prompt_tokens":3,"completion_tokens":2.0,"total_tokens":5}"#, usage(Some(3), Some(2))),
            (r#"{"prompt_tokens":"3","completion_tokens":null,"total_tokens":-5}"#, usage(None, None)),
            (r#"{"total_tokens":5}"#, usage(Some(5), None)),
            (
                r#"{"prompt_tokens":30,"completion_tokens":2,"total_tokens":42,"prompt_tokens_details":{"cached_tokens":7,"audio_tokens":1},"completion_tokens_details":{"reasoning_tokens":10}}"#,
                Usage {
                    cache_read_tokens: Some(7),
                    input_audio_tokens: Some(1),
                    reasoning_tokens: Some(10),
                    ..usage(Some(30), Some(12))
                },
            ),
            (
                r#"{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":9},"completion_tokens_details":null}"#,
                Usage { cache_read_tokens: Some(9), ..usage(Some(12), None) },
            ),
            (
                r#"{"prompt_tokens":3,"completion_tokens":1,"prompt_cache_hit_tokens":2,"queue_time":0.25,"x":[{}]}"#,
                Usage { cache_read_tokens: Some(2), ..usage(Some(3), Some(1)) },
            ),
            (
                r#"{"prompt_tokens":9,"completion_tokens":7,"prompt_tokens_details":{"image_tokens":5},"completion_tokens_details":{"image_tokens":6},"server_tool_use":{"web_search_requests":2}}"#,
                Usage {
                    units: Units {
                        input_image_tokens: Some(5),
                        output_image_tokens: Some(6),
                        web_searches: Some(2),
                        ..Units::default()
                    }
                    .boxed(),
                    ..usage(Some(9), Some(7))
                },
            ),
            (
                r#"{"prompt_tokens":9,"completion_tokens":7,"num_search_queries":3}"#,
                Usage { units: Units { web_searches: Some(3), ..Units::default() }.boxed(), ..usage(Some(9), Some(7)) },
            ),
            (
                r#"{"cache_read_input_tokens":4,"cache_creation_input_tokens":5}"#,
                Usage { cache_read_tokens: Some(4), cache_write_tokens: Some(5), ..Usage::default() },
            ),
        ] {
            assert_eq!(super::read(object.as_bytes()), Some(read), "{object}");
        }
        assert_eq!(super::read(br#"{"prompt_tokens":3"#), None);
    }
}

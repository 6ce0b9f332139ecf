//! What an answer cost in tokens. Unknown is `None`, never zero.

use serde_json::{Map, Value};

use super::Format;

/// `input_tokens` includes cached ones and `output_tokens` includes reasoning, as OpenTelemetry counts them: codecs add
/// or subtract at their border.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    pub cache_read_tokens: Option<u64>,
    /// All cache writes; the 1 h share of it stands in `cache_write_1h_tokens`.
    pub cache_write_tokens: Option<u64>,
    pub cache_write_1h_tokens: Option<u64>,
    pub reasoning_tokens: Option<u64>,
    pub input_audio_tokens: Option<u64>,
    pub output_audio_tokens: Option<u64>,
    /// The usage object as its own format wrote it: given back to that format as it was.
    pub native: Option<Box<(Format, Map<String, Value>)>>,
}

impl Usage {
    /// Takes over every figure that `later` knows: streams report cumulatively and in pieces.
    pub fn merge(&mut self, later: &Usage) {
        let Usage {
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_tokens,
            cache_write_1h_tokens,
            reasoning_tokens,
            input_audio_tokens,
            output_audio_tokens,
            native,
        } = later;
        let take = |mine: &mut Option<u64>, theirs: &Option<u64>| {
            if theirs.is_some() {
                *mine = *theirs;
            }
        };
        take(&mut self.input_tokens, input_tokens);
        take(&mut self.output_tokens, output_tokens);
        take(&mut self.cache_read_tokens, cache_read_tokens);
        take(&mut self.cache_write_tokens, cache_write_tokens);
        take(&mut self.cache_write_1h_tokens, cache_write_1h_tokens);
        take(&mut self.reasoning_tokens, reasoning_tokens);
        take(&mut self.input_audio_tokens, input_audio_tokens);
        take(&mut self.output_audio_tokens, output_audio_tokens);
        if let Some(theirs) = native {
            match self.native.as_deref_mut() {
                Some((f, mine)) if *f == theirs.0 => {
                    for (k, v) in &theirs.1 {
                        if !v.is_null() {
                            mine.insert(k.clone(), v.clone());
                        }
                    }
                }
                _ => self.native = Some(theirs.clone()),
            }
        }
    }

    /// Adds what another call used. The sum has no wire form of its own.
    pub fn add(&mut self, other: &Usage) {
        let sum = |mine: &mut Option<u64>, theirs: Option<u64>| {
            if let Some(n) = theirs {
                *mine = Some(mine.unwrap_or(0).saturating_add(n));
            }
        };
        sum(&mut self.input_tokens, other.input_tokens);
        sum(&mut self.output_tokens, other.output_tokens);
        sum(&mut self.cache_read_tokens, other.cache_read_tokens);
        sum(&mut self.cache_write_tokens, other.cache_write_tokens);
        sum(&mut self.cache_write_1h_tokens, other.cache_write_1h_tokens);
        sum(&mut self.reasoning_tokens, other.reasoning_tokens);
        sum(&mut self.input_audio_tokens, other.input_audio_tokens);
        sum(&mut self.output_audio_tokens, other.output_audio_tokens);
        self.native = None;
    }

    pub fn total_tokens(&self) -> Option<u64> {
        Some(self.input_tokens?.saturating_add(self.output_tokens?))
    }
}

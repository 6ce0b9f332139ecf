//! The figures of usage: added up, and as the store keeps them.

use crate::model::Usage;

/// What was used in one hour by one team with one key, asking for one model, at one target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub requests: u64,
    pub errors: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cache_read_tokens: u64,
    pub cache_write_tokens: u64,
    pub reasoning_tokens: u64,
    pub input_audio_tokens: u64,
    pub output_audio_tokens: u64,
    /// Attempts of which nobody knows what they cost.
    pub unknown_costs: u64,
    pub cost_nano_usd: u64,
}

impl Sum {
    pub fn add(&mut self, other: &Sum) {
        let (mine, theirs) = (self.figures(), other.figures());
        *self = Sum::from_figures(std::array::from_fn(|n| mine[n].saturating_add(theirs[n])));
    }

    /// Adds what one attempt used.
    pub fn use_up(&mut self, usage: Option<&Usage>, cost: Option<i64>) {
        if let Some(usage) = usage {
            for (mine, theirs) in [
                (&mut self.input_tokens, usage.input_tokens),
                (&mut self.output_tokens, usage.output_tokens),
                (&mut self.cache_read_tokens, usage.cache_read_tokens),
                (&mut self.cache_write_tokens, usage.cache_write_tokens),
                (&mut self.reasoning_tokens, usage.reasoning_tokens),
                (&mut self.input_audio_tokens, usage.input_audio_tokens),
                (&mut self.output_audio_tokens, usage.output_audio_tokens),
            ] {
                *mine = mine.saturating_add(theirs.unwrap_or(0));
            }
        }
        match cost.and_then(|cost| u64::try_from(cost).ok()) {
            Some(cost) => self.cost_nano_usd = self.cost_nano_usd.saturating_add(cost),
            None => self.unknown_costs += 1,
        }
    }

    fn figures(&self) -> [u64; FIGURES] {
        let Sum {
            requests,
            errors,
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_tokens,
            reasoning_tokens,
            input_audio_tokens,
            output_audio_tokens,
            unknown_costs,
            cost_nano_usd,
        } = *self;
        [
            requests,
            errors,
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_tokens,
            reasoning_tokens,
            input_audio_tokens,
            output_audio_tokens,
            unknown_costs,
            cost_nano_usd,
        ]
    }

    fn from_figures(figures: [u64; FIGURES]) -> Sum {
        let [
            requests,
            errors,
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_tokens,
            reasoning_tokens,
            input_audio_tokens,
            output_audio_tokens,
            unknown_costs,
            cost_nano_usd,
        ] = figures;
        Sum {
            requests,
            errors,
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_tokens,
            reasoning_tokens,
            input_audio_tokens,
            output_audio_tokens,
            unknown_costs,
            cost_nano_usd,
        }
    }

    /// A version, then the figures.
    pub fn bytes(&self) -> Vec<u8> {
        let figures = self.figures().into_iter().flat_map(u64::to_le_bytes);
        std::iter::once(1).chain(figures).collect()
    }

    pub fn parse(bytes: &[u8]) -> Option<Sum> {
        let figures = bytes.strip_prefix(&[1])?.chunks_exact(8).map(|b| b.try_into().map_or(0, u64::from_le_bytes));
        let figures: Vec<u64> = figures.collect();
        figures.try_into().ok().map(Sum::from_figures)
    }
}

const FIGURES: usize = 11;

//! What requests used, by direction and kind, and in other units than tokens.

use metrics::Counter;

use crate::model::{UNITS, Usage};

pub(super) struct Tokens {
    pub input: Counter,
    pub cache_read: Counter,
    pub cache_write: Counter,
    pub input_audio: Counter,
    pub input_image: Counter,
    pub output: Counter,
    pub reasoning: Counter,
    pub output_audio: Counter,
    pub output_image: Counter,
    /// In the order of `Units::named`; those of tokens stay at nothing.
    pub units: [Counter; UNITS],
}

impl Tokens {
    /// Kinds are disjoint; what an upstream did not tell is not counted.
    pub fn add(&self, usage: &Usage) {
        let known = |n: Option<u64>| n.unwrap_or(0);
        let read = known(usage.cache_read_tokens);
        let write = known(usage.cache_write_tokens);
        let cached_sound = known(usage.units.as_ref().and_then(|units| units.cache_read_audio_tokens)).min(read);
        let heard = known(usage.input_audio_tokens).saturating_sub(cached_sound);
        let thought = known(usage.reasoning_tokens);
        let spoken = known(usage.output_audio_tokens);
        let units = usage.units();
        let (seen, drawn) = (known(units.input_image_tokens), known(units.output_image_tokens));
        for (counter, count) in [
            (&self.input, known(usage.input_tokens).saturating_sub(read + write + heard + seen)),
            (&self.cache_read, read),
            (&self.cache_write, write),
            (&self.input_audio, heard),
            (&self.input_image, seen),
            (&self.output, known(usage.output_tokens).saturating_sub(thought + spoken + drawn)),
            (&self.reasoning, thought),
            (&self.output_audio, spoken),
            (&self.output_image, drawn),
        ] {
            if count > 0 {
                counter.increment(count);
            }
        }
        if usage.units.is_some() {
            for (counter, (_, count)) in self.units.iter().zip(units.named()) {
                counter.increment(known(count));
            }
        }
    }
}

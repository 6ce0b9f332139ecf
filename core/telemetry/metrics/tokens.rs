//! What requests used, by direction and kind, and in other units than tokens.

use crate::model::{UNITS, Units, Usage};

#[derive(Clone, Default)]
pub(super) struct Tokens {
    /// In the order of `KINDS`.
    kinds: [u64; KINDS.len()],
    /// In the order of `Units::named`; those of tokens stay at nothing.
    units: [u64; UNITS],
}

impl Tokens {
    /// Kinds are disjoint; what an upstream did not tell is not counted.
    pub fn add(&mut self, usage: &Usage) {
        let known = |n: Option<u64>| n.unwrap_or(0);
        let read = known(usage.cache_read_tokens);
        let write = known(usage.cache_write_tokens);
        let cached_sound = known(usage.units.as_ref().and_then(|units| units.cache_read_audio_tokens)).min(read);
        let heard = known(usage.input_audio_tokens).saturating_sub(cached_sound);
        let thought = known(usage.reasoning_tokens);
        let spoken = known(usage.output_audio_tokens);
        let units = usage.units();
        let (seen, drawn) = (known(units.input_image_tokens), known(units.output_image_tokens));
        let more = [
            known(usage.input_tokens).saturating_sub(read + write + heard + seen),
            read,
            write,
            heard,
            seen,
            known(usage.output_tokens).saturating_sub(thought + spoken + drawn),
            thought,
            spoken,
            drawn,
        ];
        add(&mut self.kinds, more);
        if usage.units.is_some() {
            add(&mut self.units, units.named().map(|(_, count)| known(count)));
        }
    }

    /// Direction, kind and how many.
    pub fn by_kind(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        KINDS.into_iter().zip(self.kinds).map(|((direction, kind), count)| (direction, kind, count))
    }

    pub fn by_unit(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let named = Units::default().named().into_iter().zip(self.units).map(|((unit, _), count)| (unit, count));
        // Tokens are counted as such.
        named.filter(|(unit, _)| {
            !["input_image_tokens", "output_image_tokens", "cache_read_audio_tokens"].contains(unit)
        })
    }
}

fn add<const N: usize>(sums: &mut [u64; N], more: [u64; N]) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(more));
}

const KINDS: [(&str, &str); 9] = [
    ("input", "text"),
    ("input", "cache_read"),
    ("input", "cache_write"),
    ("input", "audio"),
    ("input", "image"),
    ("output", "text"),
    ("output", "reasoning"),
    ("output", "audio"),
    ("output", "image"),
];

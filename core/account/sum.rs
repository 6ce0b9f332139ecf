//! The figures of usage: added up, and as the store keeps them.

use crate::model::{UNITS, Units, Usage};

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
    /// In the order of `Units::named`.
    pub units: [u64; UNITS],
}

impl Sum {
    pub fn add(&mut self, other: &Sum) {
        let (mine, theirs) = (self.figures(), other.figures());
        let units = std::array::from_fn(|n| self.units[n].saturating_add(other.units[n]));
        *self = Sum { units, ..Sum::from_figures(std::array::from_fn(|n| mine[n].saturating_add(theirs[n]))) };
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
            if let Some(units) = &usage.units {
                for (mine, (_, theirs)) in self.units.iter_mut().zip(units.named()) {
                    *mine = mine.saturating_add(theirs.unwrap_or(0));
                }
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
            units: _,
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
            units: [0; UNITS],
        }
    }

    /// The units under their names.
    pub fn named_units(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Units::default().named().map(|(name, _)| name).into_iter().zip(self.units)
    }

    /// A version, then the figures; the second version has the units behind them, and stands only where there are any.
    pub fn bytes(&self) -> Vec<u8> {
        let more: &[u64] = if self.units == [0; UNITS] { &[] } else { &self.units };
        let figures = self.figures().into_iter().chain(more.iter().copied()).flat_map(u64::to_le_bytes);
        std::iter::once(if more.is_empty() { 1 } else { 2 }).chain(figures).collect()
    }

    pub fn parse(bytes: &[u8]) -> Option<Sum> {
        let (version, rest) = bytes.split_first()?;
        let figures: Vec<u64> = rest.chunks_exact(8).map(|b| b.try_into().map_or(0, u64::from_le_bytes)).collect();
        let (figures, units) = figures.split_at_checked(FIGURES)?;
        let sum = Sum::from_figures(figures.try_into().ok()?);
        match (version, units) {
            (1, []) => Some(sum),
            // Kinds that came later are put at the end.
            (2, units) if units.len() <= UNITS => {
                Some(Sum { units: std::array::from_fn(|n| units.get(n).copied().unwrap_or(0)), ..sum })
            }
            _ => None,
        }
    }
}

const FIGURES: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_reads_back_with_units_and_without() {
        let plain = Usage { input_tokens: Some(3), ..Usage::default() };
        let mut sum = Sum::default();
        sum.use_up(Some(&plain), Some(5));
        let first = sum.bytes();
        assert_eq!((first[0], Sum::parse(&first)), (1, Some(sum)), "as before there were units");
        let mut made = plain;
        (made.units_mut().output_images, made.units_mut().web_searches) = (Some(2), Some(7));
        sum.use_up(Some(&made), None);
        sum.add(&sum.clone());
        let bytes = sum.bytes();
        assert_eq!((bytes[0], Sum::parse(&bytes)), (2, Some(sum)));
        let units: Vec<_> = sum.named_units().filter(|(_, n)| *n > 0).collect();
        assert_eq!(units, [("output_images", 4), ("web_searches", 14)]);
        assert_eq!((sum.input_tokens, sum.unknown_costs, sum.cost_nano_usd), (12, 2, 10));
        assert_eq!(
            Sum::parse(&bytes[..bytes.len() - 8]).map(|s| s.units[UNITS - 1]),
            Some(0),
            "an older second version"
        );
        for wrong in [&[][..], &[1], &[3; 97], &bytes[..80]] {
            assert_eq!(Sum::parse(wrong), None);
        }
    }
}

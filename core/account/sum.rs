//! The figures of usage: added up, and as the store keeps them.

use crate::model::{UNITS, Units, Usage};

/// What was used in one window by those that a row is by.
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
    /// Each has a row in the ledger.
    pub attempts: u64,
    /// Attempts whose usage no upstream told, or not whole.
    pub estimated: u64,
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
    pub fn use_up(&mut self, usage: Option<&Usage>, cost: Option<i64>, estimated: bool) {
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
        self.attempts += 1;
        self.estimated += u64::from(estimated);
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
            attempts,
            estimated,
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
            attempts,
            estimated,
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
            attempts,
            estimated,
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
            attempts,
            estimated,
            units: [0; UNITS],
        }
    }

    /// The units under their names.
    pub fn named_units(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Units::default().named().map(|(name, _)| name).into_iter().zip(self.units)
    }

    /// A version, then the figures and the units; those that are zero at the end are left out.
    pub fn bytes(&self) -> Vec<u8> {
        let figures = self.figures().into_iter().chain(self.units);
        let count = figures.clone().enumerate().filter(|(_, n)| *n > 0).last().map_or(0, |(at, _)| at + 1);
        std::iter::once(VERSION).chain(figures.take(count).flat_map(u64::to_le_bytes)).collect()
    }

    pub fn parse(bytes: &[u8]) -> Option<Sum> {
        let (version, rest) = bytes.split_first()?;
        let mut figures: Vec<u64> = rest.chunks_exact(8).map(|b| b.try_into().map_or(0, u64::from_le_bytes)).collect();
        match version {
            // Before attempts were counted, without units and with them.
            1 | 2 if figures.len() >= FORMER && (*version == 2 || figures.len() == FORMER) => {
                let _ = figures.splice(FORMER..FORMER, [0; FIGURES - FORMER]);
            }
            &VERSION => {}
            _ => return None,
        }
        // Kinds that come later are put at the end.
        if rest.len() % 8 != 0 || figures.len() > FIGURES + UNITS {
            return None;
        }
        figures.resize(FIGURES + UNITS, 0);
        let (figures, units) = figures.split_at(FIGURES);
        let units = units.try_into().ok()?;
        Some(Sum { units, ..Sum::from_figures(figures.try_into().ok()?) })
    }
}

const VERSION: u8 = 3;
const FORMER: usize = 11;
const FIGURES: usize = 13;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_reads_back_with_units_and_without() {
        let plain = Usage { input_tokens: Some(3), ..Usage::default() };
        let mut sum = Sum::default();
        assert_eq!((sum.bytes().len(), Sum::parse(&sum.bytes())), (1, Some(sum)));
        sum.use_up(Some(&plain), Some(5), false);
        assert_eq!(Sum::parse(&sum.bytes()), Some(sum));
        let mut made = plain;
        (made.units_mut().output_images, made.units_mut().web_searches) = (Some(2), Some(7));
        sum.use_up(Some(&made), None, true);
        sum.add(&sum.clone());
        let bytes = sum.bytes();
        assert_eq!(Sum::parse(&bytes), Some(sum));
        let units: Vec<_> = sum.named_units().filter(|(_, n)| *n > 0).collect();
        assert_eq!(units, [("output_images", 4), ("web_searches", 14)]);
        assert_eq!((sum.input_tokens, sum.unknown_costs, sum.cost_nano_usd), (12, 2, 10));
        assert_eq!((sum.attempts, sum.estimated), (4, 2));
        for wrong in [&[][..], &[1], &[4; 97], &bytes[..80], &[3; 1 + 8 * 40]] {
            assert_eq!(Sum::parse(wrong), None);
        }
    }

    #[test]
    fn rows_of_former_versions_are_read() {
        let figures = |version: u8, count: u64| -> Vec<u8> {
            std::iter::once(version).chain((1..=count).flat_map(u64::to_le_bytes)).collect()
        };
        let first = Sum::parse(&figures(1, 11)).unwrap();
        assert_eq!((first.requests, first.cost_nano_usd, first.attempts, first.units), (1, 11, 0, [0; UNITS]));
        let second = Sum::parse(&figures(2, 13)).unwrap();
        assert_eq!((second.cost_nano_usd, second.attempts, &second.units[..3]), (11, 0, &[12, 13, 0][..]));
        assert_eq!((Sum::parse(&figures(1, 12)), Sum::parse(&figures(2, 10))), (None, None));
    }
}

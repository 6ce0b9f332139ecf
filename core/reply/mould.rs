//! Heads of answers, cast in moulds whose names stand in them already: hashing a name and finding its place costs more than all else
//! about a header, and most answers have the same names. Decides nothing.

use std::{cell::RefCell, sync::LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::codec::Family;

/// A name that answers may have; its place among `NAMES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u8);

impl Slot {
    pub const REQUEST_ID: Slot = Slot(0);
    pub const FAMILY_REQUEST_ID: Slot = Slot(1);
    pub const AMZN_REQUEST_ID: Slot = Slot(2);
    pub const MODEL: Slot = Slot(3);
    pub const TARGET: Slot = Slot(4);
    pub const ATTEMPTS: Slot = Slot(5);
    pub const CACHE: Slot = Slot(6);
    pub const AGE: Slot = Slot(7);
    pub const ARM: Slot = Slot(8);
    pub const UPSTREAM_ID: Slot = Slot(9);
    pub const DROPPED: Slot = Slot(10);
    pub const CAPPED: Slot = Slot(11);
    pub const MAX_TOKENS: Slot = Slot(12);
    pub const BUDGET_FALLBACK: Slot = Slot(13);
    pub const TIMING: Slot = Slot(14);
    pub const EXPLAIN: Slot = Slot(15);
    pub const CONTENT_TYPE: Slot = Slot(40);
    pub const COST: Slot = Slot(41);
    pub const CACHE_CONTROL: Slot = Slot(42);
    pub const UNBUFFERED: Slot = Slot(43);

    /// What a family calls one of its rate limits, by `Family::names`.
    pub fn of_rate(family: Family, kind: usize, part: usize) -> Slot {
        Slot((RATES + (family as usize * RATE_KINDS + kind) * RATE_PARTS + part) as u8)
    }
}

static NAMES: LazyLock<Vec<HeaderName>> = LazyLock::new(|| {
    let first: [HeaderName; RATES] = [
        HeaderName::from_static("x-request-id"),
        HeaderName::from_static("request-id"),
        HeaderName::from_static("x-amzn-requestid"),
        HeaderName::from_static("x-portcullis-model"),
        HeaderName::from_static("x-portcullis-target"),
        HeaderName::from_static("x-portcullis-attempts"),
        HeaderName::from_static("x-portcullis-cache"),
        header::AGE,
        HeaderName::from_static("x-portcullis-arm"),
        HeaderName::from_static("x-upstream-request-id"),
        HeaderName::from_static("x-portcullis-dropped-params"),
        HeaderName::from_static("x-portcullis-capped-params"),
        HeaderName::from_static("x-portcullis-max-tokens"),
        HeaderName::from_static("x-portcullis-budget-fallback"),
        HeaderName::from_static("server-timing"),
        HeaderName::from_static("x-portcullis-explain"),
    ];
    let last = [
        header::CONTENT_TYPE,
        HeaderName::from_static("x-portcullis-cost-usd"),
        header::CACHE_CONTROL,
        HeaderName::from_static("x-accel-buffering"),
    ];
    let rates = Family::ALL.into_iter().flat_map(|family| family.names().iter().flatten().copied());
    first.into_iter().chain(rates.map(HeaderName::from_static)).chain(last).collect()
});

/// A head in the making: each name at most once, in the order of `NAMES`.
#[derive(Debug)]
pub struct Head(Vec<(Slot, HeaderValue)>);

impl Default for Head {
    fn default() -> Self {
        Head(Vec::with_capacity(USUAL))
    }
}

impl Head {
    /// In place of what it had there.
    pub fn put(&mut self, slot: Slot, value: HeaderValue) {
        if self.0.last().is_none_or(|(last, _)| *last < slot) {
            return self.0.push((slot, value));
        }
        match self.0.binary_search_by_key(&slot, |(slot, _)| *slot) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (slot, value)),
        }
    }

    /// A model name or trace may hold what a header cannot: such characters become `?`.
    pub fn text(&mut self, slot: Slot, value: &str) {
        let value = HeaderValue::from_str(value).or_else(|_| {
            let plain = value.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' });
            HeaderValue::from_str(&plain.collect::<String>())
        });
        if let Ok(value) = value {
            self.put(slot, value);
        }
    }

    /// A moulded map is as it was made: its values lie in the order in which its names came.
    pub fn cast(self) -> HeaderMap {
        let names = self.0.iter().fold(0u64, |names, (slot, _)| names | 1 << slot.0);
        MOULDS.with_borrow_mut(|moulds| {
            if !moulds.iter().any(|(known, _)| *known == names) {
                if moulds.len() >= MOST_MOULDS {
                    moulds.clear();
                }
                let none = || HeaderValue::from_static("");
                moulds.push((names, self.0.iter().map(|(slot, _)| (NAMES[slot.0 as usize].clone(), none())).collect()));
            }
            let mould = moulds.iter().find(|(known, _)| *known == names);
            let mut head = mould.map(|(_, mould)| mould.clone()).unwrap_or_default();
            for (place, (_, value)) in head.values_mut().zip(self.0) {
                *place = value;
            }
            head
        })
    }
}

thread_local! {
    /// By the set of names that they have.
    static MOULDS: RefCell<Vec<(u64, HeaderMap)>> = const { RefCell::new(Vec::new()) };
}

/// Where those of rates begin.
const RATES: usize = 16;
const RATE_KINDS: usize = 4;
const RATE_PARTS: usize = 3;
/// As many headers as most answers have.
const USUAL: usize = 16;
/// Answers of one gateway have a dozen shapes or two.
const MOST_MOULDS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_stands_under_its_name_whatever_came_first() {
        assert_eq!(NAMES.len(), Slot::UNBUFFERED.0 as usize + 1);
        assert!(NAMES.len() <= 64, "a set of names has 64 bits");
        let mut random = fastrand::Rng::with_seed(3);
        for round in 0..2_000 {
            let (mut head, mut plain) = (Head::default(), HeaderMap::new());
            for _ in 0..random.usize(0..40) {
                let slot = Slot(random.u8(0..NAMES.len() as u8));
                let value = HeaderValue::from(random.u32(..));
                head.put(slot, value.clone());
                plain.insert(NAMES[slot.0 as usize].clone(), value);
            }
            assert_eq!(head.cast(), plain, "{round}");
        }
        assert!(MOULDS.with_borrow(Vec::len) <= MOST_MOULDS);
    }

    #[test]
    fn rates_have_the_names_of_their_family() {
        for family in Family::ALL {
            for (kind, names) in family.names().iter().enumerate() {
                for (part, name) in names.iter().enumerate() {
                    assert_eq!(NAMES[Slot::of_rate(family, kind, part).0 as usize].as_str(), *name);
                }
            }
        }
    }
}

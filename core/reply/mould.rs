//! Heads of answers, cast in moulds whose names stand in them already: hashing a name and finding its place costs more than all else
//! about a header, and most answers have the same names. Decides nothing.

use std::{cell::RefCell, sync::LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::codec::Family;

/// A name that answers may have; its place among `NAMES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u8);

/// Names and their slots, from one row each, so that none can be without the other.
macro_rules! slots {
    ($names:ident from $first:expr; $($slot:ident $name:literal)*) => {
        const $names: &[&str] = &[$($name),*];

        impl Slot {
            slots!(@from $first; $($slot)*);
        }
    };
    (@from $at:expr; $slot:ident $($more:ident)*) => {
        pub const $slot: Slot = Slot(($at) as u8);
        slots!(@from $at + 1; $($more)*);
    };
    (@from $at:expr;) => {};
}

// A head is put together in the order of slots: what comes last is at hand last.
slots! {
    FIRST from 0;
    REQUEST_ID "x-request-id"
    FAMILY_REQUEST_ID "request-id"
    AMZN_REQUEST_ID "x-amzn-requestid"
    MODEL "x-portcullis-model"
    TARGET "x-portcullis-target"
    ATTEMPTS "x-portcullis-attempts"
    CACHE "x-portcullis-cache"
    AGE "age"
    ARM "x-portcullis-arm"
    UPSTREAM_ID "x-upstream-request-id"
    DROPPED "x-portcullis-dropped-params"
    CAPPED "x-portcullis-capped-params"
    MAX_TOKENS "x-portcullis-max-tokens"
    BUDGET_FALLBACK "x-portcullis-budget-fallback"
    TIMING "server-timing"
    EXPLAIN "x-portcullis-explain"
}

slots! {
    LAST from FIRST.len() + RATES;
    CONTENT_TYPE "content-type"
    COST "x-portcullis-cost-usd"
    CACHE_CONTROL "cache-control"
    UNBUFFERED "x-accel-buffering"
}

impl Slot {
    /// What a family calls one of its rate limits, by `Family::names`: they stand between the first and the last.
    pub fn of_rate(family: Family, kind: usize, part: usize) -> Slot {
        Slot((FIRST.len() + (family as usize * RATE_KINDS + kind) * RATE_PARTS + part) as u8)
    }
}

static NAMES: LazyLock<Vec<HeaderName>> = LazyLock::new(|| {
    let rates = Family::ALL.into_iter().flat_map(|family| family.names().iter().flatten());
    FIRST.iter().chain(rates).chain(LAST).map(|name| HeaderName::from_static(name)).collect()
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
            let known = moulds.iter().position(|(known, _)| *known == names);
            let at = known.unwrap_or_else(|| {
                if moulds.len() >= MOST_MOULDS {
                    moulds.clear();
                }
                let none = || HeaderValue::from_static("");
                moulds.push((names, self.0.iter().map(|(slot, _)| (NAMES[slot.0 as usize].clone(), none())).collect()));
                moulds.len() - 1
            });
            let mut head = moulds[at].1.clone();
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

const RATE_KINDS: usize = 4;
const RATE_PARTS: usize = 3;
const RATES: usize = Family::ALL.len() * RATE_KINDS * RATE_PARTS;
/// As many headers as most answers have.
const USUAL: usize = 16;
/// Answers of one gateway have a dozen shapes or two.
const MOST_MOULDS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_stands_under_its_name_whatever_came_first() {
        assert_eq!(
            (NAMES.len(), NAMES.last().unwrap().as_str()),
            (Slot::UNBUFFERED.0 as usize + 1, "x-accel-buffering")
        );
        assert_eq!(NAMES[Slot::EXPLAIN.0 as usize], "x-portcullis-explain");
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

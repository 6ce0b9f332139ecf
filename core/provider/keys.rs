//! Which of a provider's keys is next, and which ones rest. `State`: it survives a reload, because what it knows is kept
//! by the key's fingerprint and not by its place.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;

use super::{AuthScheme, Provider};

/// Keys that were refused or are out of quota, until when.
#[derive(Debug, Default)]
pub struct KeyRests {
    rests: DashMap<Place, Rest>,
    turns: DashMap<Arc<str>, AtomicUsize>,
}

/// A key of a provider, as a whole or for one model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    provider: Arc<str>,
    print: [u8; 16],
    model: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    /// Still better than nothing: used when every other key rests too.
    soft: bool,
    /// The key itself was refused, not its rate.
    refused: bool,
}

/// The answer to "with which key?".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyChoice {
    /// The provider wants none.
    Open,
    Key(usize),
    /// All rest; the first is back after this.
    Resting(Duration),
    /// The provider refuses every one of them: somebody has to look at the keys.
    Refused(Duration),
}

impl KeyRests {
    /// The next key in turn that does not rest and is not in `tried`.
    pub fn pick(&self, provider: &Provider, model: &str, tried: &[usize], now: Instant) -> KeyChoice {
        self.pick_open(provider, model, tried, now, &|_| None)
    }

    /// The same among those that are not `closed`, with how long they are.
    pub fn pick_open(
        &self,
        provider: &Provider,
        model: &str,
        tried: &[usize],
        now: Instant,
        closed: &dyn Fn(usize) -> Option<Duration>,
    ) -> KeyChoice {
        if provider.auth == AuthScheme::None || provider.keys() == 0 {
            return if tried.is_empty() { KeyChoice::Open } else { KeyChoice::Resting(Duration::ZERO) };
        }
        let first = if provider.keys() == 1 { 0 } else { self.turn(provider) % provider.keys() };
        self.from(provider, model, (tried, closed), now, first)
    }

    /// What `pick` would say to a new visit, without taking a turn.
    pub fn would_pick(&self, provider: &Provider, model: &str, now: Instant) -> KeyChoice {
        if provider.auth == AuthScheme::None || provider.keys() == 0 {
            return KeyChoice::Open;
        }
        self.from(provider, model, (&[], &|_| None), now, 0)
    }

    fn from(
        &self,
        provider: &Provider,
        model: &str,
        (tried, closed): (&[usize], &dyn Fn(usize) -> Option<Duration>),
        now: Instant,
        first: usize,
    ) -> KeyChoice {
        let count = provider.keys();
        let mut soft = None;
        let mut soonest: Option<Instant> = None;
        let mut refused = true;
        for index in (0..count).map(|n| (first + n) % count).filter(|i| !tried.contains(i)) {
            if let Some(wait) = closed(index) {
                refused = false;
                soonest = Some(soonest.map_or(now + wait, |s| s.min(now + wait)));
                continue;
            }
            match self.rest_of(provider, index, model, now) {
                None => return KeyChoice::Key(index),
                Some(rest) => {
                    // A second key on one visit must be a rested one: two tired ones would double the calls.
                    if rest.soft && soft.is_none() && tried.is_empty() {
                        soft = Some(index);
                    }
                    refused &= rest.refused;
                    soonest = Some(soonest.map_or(rest.until, |s| s.min(rest.until)));
                }
            }
        }
        let wait = soonest.map_or(Duration::ZERO, |s| s.saturating_duration_since(now));
        match soft {
            Some(index) => KeyChoice::Key(index),
            None if refused && soonest.is_some() => KeyChoice::Refused(wait),
            None => KeyChoice::Resting(wait),
        }
    }

    /// The upstream refused this key. Says whether another key of the same provider is worth trying at once.
    ///
    /// 401: the key itself is bad, it rests for every model. 403: some vendors say so of a prompt or a model, so that one
    /// caller could put a key to sleep for all: the rest is for this model and soft. 429 and 402 (no quota is left): as long as
    /// the upstream says.
    pub fn refused(
        &self,
        provider: &Provider,
        index: usize,
        model: &str,
        status: u16,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> bool {
        let Some(print) = provider.fingerprint(index) else { return false };
        let (model, wait, soft) = match status {
            401 => (None, REFUSED, false),
            403 => (Some(model.into()), REFUSED, true),
            // No quota is left: unless it is said when there will be, others go first.
            402 => (Some(model.into()), retry_after.unwrap_or(REFUSED).min(REFUSED), retry_after.is_none()),
            429 => (Some(model.into()), retry_after.unwrap_or(BUSY).min(REFUSED), retry_after.is_none()),
            _ => return false,
        };
        self.make_room(now);
        self.rests.insert(
            Place { provider: provider.name.clone(), print, model },
            Rest { until: now + wait, soft, refused: !matches!(status, 402 | 429) },
        );
        provider.keys() > 1
    }

    /// A key that works again needs no more rest.
    pub fn accepted(&self, provider: &Provider, index: usize, model: &str) {
        if self.rests.is_empty() {
            return;
        }
        if let Some(print) = provider.fingerprint(index) {
            self.rests.remove(&place(provider, print, Some(model)));
            self.rests.remove(&place(provider, print, None));
        }
    }

    /// How many keys of a provider rest entirely, for status pages.
    pub fn resting(&self, provider: &Provider, now: Instant) -> usize {
        (0..provider.keys())
            .filter_map(|i| provider.fingerprint(i))
            .filter(|print| self.rests.get(&place(provider, *print, None)).is_some_and(|r| r.until > now))
            .count()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.rests.len()
    }

    fn turn(&self, provider: &Provider) -> usize {
        if let Some(turn) = self.turns.get(&provider.name) {
            return turn.fetch_add(1, Ordering::Relaxed);
        }
        self.turns.entry(provider.name.clone()).or_default().fetch_add(1, Ordering::Relaxed)
    }

    fn rest_of(&self, provider: &Provider, index: usize, model: &str, now: Instant) -> Option<Rest> {
        if self.rests.is_empty() {
            return None;
        }
        let print = provider.fingerprint(index)?;
        [None, Some(model)]
            .into_iter()
            .filter_map(|m| self.rests.get(&place(provider, print, m)).map(|r| *r))
            .filter(|r| r.until > now)
            .max_by_key(|r| (!r.soft, r.until))
    }

    /// Models are callers' words: what is over is forgotten before the table grows.
    fn make_room(&self, now: Instant) {
        if self.rests.len() < MOST {
            return;
        }
        self.rests.retain(|_, r| r.until > now);
        if self.rests.len() >= MOST {
            self.rests.retain(|p, _| p.model.is_none());
        }
    }
}

fn place(provider: &Provider, print: [u8; 16], model: Option<&str>) -> Place {
    Place { provider: provider.name.clone(), print, model: model.map(Into::into) }
}

const REFUSED: Duration = Duration::from_secs(600);
/// 429 without a word on how long.
const BUSY: Duration = Duration::from_secs(1);
const MOST: usize = 4096;

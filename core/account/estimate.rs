//! How many tokens a prompt will have, before anybody counted them: its text's bytes by a ratio that is learned for each
//! target from what upstreams report. Bounded and without locks: a request reads one number. Never exact, so nothing is
//! charged by it where the upstream tells.
//!
//! All callers of a target teach the same number, so that none may lead it far: a prompt moves it a little, and less towards
//! fewer tokens (which would let others reserve too little) than towards more. What was learned survives a restart (`learned`).

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::quality::RandomState;

use super::price::Rates;
use crate::codec::document::Document;

/// A number for each of so many targets; those that fall together take turns.
pub struct Estimates {
    /// Tells it from others: a target remembers its place in one of them.
    number: u64,
    hasher: RandomState,
    /// The upper half says whose it is, the lower half is the ratio, bytes a token.
    slots: Box<[AtomicU64]>,
    /// Targets that were learned of, by name, for whoever writes that down; no request looks here.
    names: Mutex<(BTreeSet<String>, usize)>,
}

/// Where a target remembers its place, so that its name is not hashed for each choice: whose places they are, the place, and the tag
/// that says whose number lies there. Zero: it was not looked for.
#[derive(Debug, Default)]
pub struct Seat(AtomicU64);

/// What is known of a request's size before, or without, an upstream's own count.
#[derive(Debug, Clone, Default)]
pub struct Size {
    /// Of the prompt's text, and of its media as they are encoded.
    pub text_bytes: u64,
    pub media_bytes: u64,
    /// Tokens of the answer that came by, as far as they can be told without reading it.
    pub arrived: u64,
    /// Of them those that came after its upstream had last counted.
    pub since: u64,
    /// It ended before its upstream was done with it.
    pub cut: bool,
    /// As long as it may be, by the request, all choices together; `None`: it does not say.
    pub most: Option<u64>,
    /// Of the last attempt's target.
    pub rates: Option<Arc<Rates>>,
}

impl Size {
    pub fn of(document: &Document) -> Size {
        let text_bytes = document.text_bytes();
        let media_bytes =
            if document.has_media() { (document.bytes().len() as u64).saturating_sub(text_bytes) } else { 0 };
        Size { text_bytes, media_bytes, ..Size::default() }
    }

    /// An attempt is sent.
    pub fn begin(&mut self, rates: &Option<Arc<Rates>>) {
        (self.arrived, self.since, self.cut) = (0, 0, false);
        self.rates.clone_from(rates);
    }

    /// Tokens of the prompt: text by the learned ratio, media by what they weigh.
    pub fn tokens(&self, target: &str, estimates: &Estimates) -> u64 {
        estimates.tokens(target, self.text_bytes).max(1) + self.media_tokens()
    }

    /// The same for a target that remembers its place.
    #[inline]
    pub fn tokens_at(&self, target: (&str, &Seat), estimates: &Estimates) -> u64 {
        estimates.tokens_at(target, self.text_bytes).max(1) + self.media_tokens()
    }

    /// Tokens of the answer where its upstream counted none of them, or ended before it had counted them all. `None`: what is `known`
    /// of it holds. An estimate is never more than the request let it become.
    pub fn answered(&self, known: Option<u64>) -> Option<u64> {
        let most = self.most.unwrap_or(u64::MAX);
        match known {
            None => Some(self.arrived.min(most)),
            Some(_) if !self.cut || self.since == 0 => None,
            // What was counted at the beginning was none of it, or not much.
            Some(known) if self.since == self.arrived => Some(self.arrived.min(most)).filter(|came| *came > known),
            Some(known) => Some((known + self.since).min(most)).filter(|came| *came > known),
        }
    }

    fn media_tokens(&self) -> u64 {
        if self.media_bytes == 0 { 0 } else { MEDIA_TOKENS + self.media_bytes / MEDIA_BYTES }
    }
}

/// Text of an answer, or of a frame of it, in tokens: for what came by and was never counted.
pub fn tokens_of(text_bytes: u64) -> u64 {
    text_bytes.div_ceil(4)
}

impl Default for Estimates {
    fn default() -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Estimates {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            hasher: RandomState::default(),
            slots,
            names: Mutex::default(),
        }
    }
}

impl Estimates {
    /// Tokens of so many bytes of text, at this target.
    pub fn tokens(&self, target: &str, text_bytes: u64) -> u64 {
        let (slot, tag) = self.slot(target);
        tokens_in(slot, tag, text_bytes)
    }

    #[inline]
    fn tokens_at(&self, (target, seat): (&str, &Seat), text_bytes: u64) -> u64 {
        let known = seat.0.load(Ordering::Relaxed);
        let place = (known >> u32::BITS) as usize % SLOTS;
        match self.slots.get(place) {
            Some(slot) if known >> NUMBER == self.number => tokens_in(slot, known as u32, text_bytes),
            _ => self.tokens_by_name(target, seat, text_bytes),
        }
    }

    #[cold]
    fn tokens_by_name(&self, target: &str, seat: &Seat, text_bytes: u64) -> u64 {
        let (place, tag) = self.place(target);
        // A number that does not fit is remembered nowhere.
        if self.number < 1 << (u64::BITS - NUMBER) {
            let known = self.number << NUMBER | (place as u64) << u32::BITS | u64::from(tag);
            seat.0.store(known, Ordering::Relaxed);
        }
        tokens_in(&self.slots[place], tag, text_bytes)
    }

    /// An upstream counted. Short prompts teach nothing: what stands around the text outweighs it.
    pub fn learn(&self, target: &str, text_bytes: u64, tokens: u64) {
        if text_bytes < LEAST_BYTES || tokens == 0 {
            return;
        }
        let seen = ((text_bytes as f64 / tokens as f64) as f32).clamp(LOWEST, HIGHEST);
        let (slot, tag) = self.slot(target);
        // A step that another one overwrites is a step lost, not a wrong number.
        let known = ratio_in(slot.load(Ordering::Relaxed), tag);
        if known.is_none() {
            self.name(target);
        }
        let before = known.unwrap_or(FIRST);
        let step = (seen - before).clamp(-before * FARTHEST, before * FARTHEST);
        let ratio = (before + step * if step < 0.0 { DOWN } else { UP }).clamp(LOWEST, MOST);
        slot.store(u64::from(tag) << 32 | u64::from(ratio.to_bits()), Ordering::Relaxed);
    }

    /// The ratio of every target that was learned of, bytes a token.
    pub fn learned(&self) -> BTreeMap<String, f32> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let ratio = |name: &String| {
            let (slot, tag) = self.slot(name);
            Some((name.clone(), ratio_in(slot.load(Ordering::Relaxed), tag)?))
        };
        names.0.iter().filter_map(ratio).collect()
    }

    /// As an earlier process had learned it.
    pub fn recall(&self, target: &str, ratio: f32) {
        if ratio.is_finite() {
            let (slot, tag) = self.slot(target);
            slot.store(u64::from(tag) << 32 | u64::from(ratio.clamp(LOWEST, MOST).to_bits()), Ordering::Relaxed);
            self.name(target);
        }
    }

    fn name(&self, target: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let (names, bytes) = &mut *names;
        let more = target.len() + NAME;
        if names.len() >= SLOTS || *bytes + more > MOST_NAMES {
            // Others have taken the places of some.
            names.retain(|name| {
                let (slot, tag) = self.slot(name);
                ratio_in(slot.load(Ordering::Relaxed), tag).is_some()
            });
            *bytes = names.iter().map(|name| name.len() + NAME).sum();
        }
        if names.len() < SLOTS && *bytes + more <= MOST_NAMES && names.insert(target.to_owned()) {
            *bytes += more;
        }
    }

    fn slot(&self, target: &str) -> (&AtomicU64, u32) {
        let (place, tag) = self.place(target);
        (&self.slots[place], tag)
    }

    fn place(&self, target: &str) -> (usize, u32) {
        let hash = self.hasher.hash_one(target);
        (hash as usize % SLOTS, (hash >> 32) as u32)
    }
}

#[inline]
fn tokens_in(slot: &AtomicU64, tag: u32, text_bytes: u64) -> u64 {
    let ratio = ratio_in(slot.load(Ordering::Relaxed), tag).unwrap_or(FIRST);
    let tokens = text_bytes as f64 / f64::from(ratio);
    // Rounded up; `ceil` is a call on processors that are not told to be new.
    let whole = tokens as u64;
    whole.saturating_add(u64::from((whole as f64) < tokens))
}

fn ratio_in(slot: u64, tag: u32) -> Option<f32> {
    let ratio = f32::from_bits(slot as u32);
    ((slot >> 32) as u32 == tag && (LOWEST..=HIGHEST).contains(&ratio)).then_some(ratio)
}

/// The middle of the tokenizers in use, for English text.
const FIRST: f32 = 4.0;
const LOWEST: f32 = 0.5;
const HIGHEST: f32 = 16.0;
/// What is assumed at most: more would be reserving too little for whoever writes otherwise.
const MOST: f32 = 6.0;
/// A prompt that differs more than this part of the ratio counts as if it differed so.
const FARTHEST: f32 = 0.25;
/// Weights of the newest prompt: towards more tokens a byte, and towards fewer.
const DOWN: f32 = 1.0 / 8.0;
const UP: f32 = 1.0 / 64.0;
const LEAST_BYTES: u64 = 256;
const SLOTS: usize = 1024;
/// Of what a target remembers: a tag of 32 bits, a place of ten, and this far up the number of whose places they are.
const NUMBER: u32 = u32::BITS + SLOTS.ilog2();
/// Bytes of all names, and what stands beside each where they are written down: a row of the store is less than 64 KB.
const MOST_NAMES: usize = 48 << 10;
const NAME: usize = 24;
/// An image of middle size, and bytes of encoded media a token beyond it.
const MEDIA_TOKENS: u64 = 1_600;
const MEDIA_BYTES: u64 = 256;

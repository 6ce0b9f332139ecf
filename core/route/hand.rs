//! What a choice among many targets reads of each: side by side in a cache line, apart from how many hold the target. Made with
//! the target, and says nothing that its tables do not say at length.

use super::{Limits, Profile, health};
use crate::{
    account::{
        estimate,
        price::{Flat, Rates},
    },
    quota,
};

#[derive(Debug)]
#[repr(C, align(64))]
pub struct AtHand {
    /// Of its name: the same in every process.
    pub lot: u64,
    /// Fewer bytes than these fit into its context window, whatever they are.
    fits: u64,
    /// How it fares.
    pub slot: health::Slot,
    /// Where its quotas stand.
    pub quota: quota::Slot,
    /// Where it stands how many bytes make a token.
    pub ratio: estimate::Seat,
    pub weight: u32,
    /// What it is known not to take.
    lacks: Wants,
    /// Only who compares costs reads on here.
    pub flat: Flat,
}

/// What a request may want that not every model can: a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants(u8);

impl AtHand {
    pub fn new(lot: u64, weight: u32, limits: &Limits, rates: Option<&Rates>) -> AtHand {
        AtHand {
            lot,
            // What is short in bytes is short in tokens.
            fits: limits.context.map_or(u64::MAX, |window| window / 2),
            slot: Default::default(),
            quota: Default::default(),
            ratio: Default::default(),
            weight,
            lacks: Wants::of(limits.lacks_any(TOOLS), limits.lacks_any(MEDIA)),
            flat: rates.map(Rates::flat).unwrap_or_default(),
        }
    }

    /// Surely; `false`: it is worth a closer look.
    pub fn takes(&self, wants: Wants, bytes: u64) -> bool {
        self.lacks.0 & wants.0 == 0 && bytes < self.fits
    }
}

impl Wants {
    pub fn by(profile: &Profile) -> Wants {
        Wants::of(profile.tools, profile.media)
    }

    fn of(tools: bool, media: bool) -> Wants {
        Wants(u8::from(tools) | u8::from(media) << 1)
    }
}

impl Limits {
    /// Is it known that the model can nothing of these?
    pub fn lacks_any(&self, of: &[&str]) -> bool {
        self.known && !self.features.iter().any(|feature| of.contains(feature))
    }
}

pub const TOOLS: &[&str] = &["tools"];
pub const MEDIA: &[&str] = &["images", "documents", "audio", "video"];

//! How targets' quotas stand, as a choice among many asks for it: all of a group in one go, from memory, and in detail only where
//! the strategy goes by it. Decides nothing.

use std::{sync::Arc, time::Duration, time::Instant};

use super::Target;
use crate::quota::{self, Brief, Outlook};

/// Who knows what is left of targets' quotas. Asked for each target of each choice: reads memory, and waits for nothing.
pub trait Quotas: Sync {
    /// `None`: this target has no quota.
    fn standing(&self, target: &Target, now: Instant) -> Option<Standing>;

    /// For each of these; who does not ask `closely` hears only of those that are not open.
    fn standings(&self, targets: &[Arc<Target>], now: Instant, closely: bool, out: &mut Vec<Option<Standing>>) {
        let of = |target: &Arc<Target>| self.standing(target, now).filter(|standing| closely || !standing.open);
        out.extend(targets.iter().map(of));
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    pub open: bool,
    /// Of the quota that is nearest to its end: between 0 and 1.
    pub share_left: f32,
    /// Until there is more of it.
    pub resets_in: Option<Duration>,
}

impl Quotas for quota::Quotas {
    fn standing(&self, target: &Target, now: Instant) -> Option<Standing> {
        standing(self.view(now).look(target.at()))
    }

    fn standings(&self, targets: &[Arc<Target>], now: Instant, closely: bool, out: &mut Vec<Option<Standing>>) {
        let view = self.view(now);
        // Targets of one provider often stand together, and its keys are the same for all of them.
        let mut keys = None;
        let of = |target: &Arc<Target>| match view.brief(&target.at_hand.quota, closely, &mut keys) {
            Brief::Open => None,
            Brief::Left(share_left, resets_in) => Some(Standing { open: true, share_left, resets_in }),
            Brief::Unsure => standing(view.look(target.at())).filter(|standing| closely || !standing.open),
        };
        out.extend(targets.iter().map(of));
    }
}

fn standing(Outlook { open, left, share, resets_in, lasts, .. }: Outlook) -> Option<Standing> {
    // A window that is not open yet would be over so long after it is: it is as good as one that has just begun.
    let resets_in = resets_in.or(lasts);
    (!open || left != u64::MAX).then_some(Standing { open, share_left: share as f32, resets_in })
}

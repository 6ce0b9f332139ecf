//! Which targets can take a request at all: tools, media, the length of the prompt. What cannot is left out where another target
//! can; where none can, all stay, and their own words are told. Knows only what the tables and the catalogue say.

use super::{
    Passed, Plan, Profile, Target,
    hand::{MEDIA, TOOLS, Wants},
};
use crate::account::estimate::Estimates;

impl Plan {
    pub(super) fn leave_out_unfit(&mut self, profile: &Profile, estimates: &Estimates) {
        let (wants, bytes) = (Wants::by(profile), profile.size.text_bytes.saturating_add(profile.size.media_bytes));
        let lacks = |target: &Target| match target.at_hand.takes(wants, bytes) {
            true => None,
            false => lacks(target, profile, estimates),
        };
        let (mut some, mut all) = (false, true);
        for target in self.targets() {
            let unfit = lacks(target).is_some();
            (some, all) = (some | unfit, all & unfit);
        }
        if !some || all {
            return;
        }
        let Plan { groups, passed, .. } = self;
        for group in groups.iter_mut() {
            group.targets.retain(|target| match lacks(target) {
                None => true,
                Some((code, reason)) => {
                    passed.push(Passed { name: target.name.clone(), code, reason: reason.into() });
                    false
                }
            });
        }
        groups.retain(|group| !group.targets.is_empty());
    }
}

/// Why a target cannot take the request: in a word, and in a sentence.
fn lacks(target: &Target, profile: &Profile, estimates: &Estimates) -> Option<(&'static str, String)> {
    let limits = &target.limits;
    if profile.tools && limits.lacks_any(TOOLS) {
        return Some(("unsupported", "it knows no tools".to_owned()));
    }
    if profile.media && limits.lacks_any(MEDIA) {
        return Some(("unsupported", "it takes text only".to_owned()));
    }
    let window = limits.context?;
    let tokens = profile.size.tokens_at((&target.name, &target.at_hand.ratio), estimates);
    let reason = || format!("the prompt has about {tokens} tokens, and its context window {window}");
    (tokens > window).then(|| ("context_window", reason()))
}

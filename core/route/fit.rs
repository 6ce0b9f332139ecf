//! Which targets can take a request at all: tools, media, the length of the prompt. What cannot is left out where another target
//! can; where none can, all stay, and their own words are told. Knows only what the tables and the catalogue say.

use super::{Passed, Plan, Profile, Target};
use crate::account::estimate::Estimates;

impl Plan {
    pub(super) fn leave_out_unfit(&mut self, profile: &Profile, estimates: &Estimates) {
        let lacks = |target: &Target| lacks(target, profile, estimates);
        let (mut some, mut all) = (false, true);
        for target in self.targets() {
            let unfit = lacks(target).is_some();
            (some, all) = (some | unfit, all & unfit);
        }
        if !some || all {
            return;
        }
        let Plan { groups, passed } = self;
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
    let without = |any: &[&str]| limits.known && !limits.features.iter().any(|feature| any.contains(feature));
    if profile.tools && without(&["tools"]) {
        return Some(("unsupported", "it knows no tools".to_owned()));
    }
    if profile.media && without(MEDIA) {
        return Some(("unsupported", "it takes text only".to_owned()));
    }
    let window = limits.context?;
    // What is short in bytes is short in tokens.
    if profile.size.text_bytes.saturating_add(profile.size.media_bytes) < window / 2 {
        return None;
    }
    let tokens = profile.size.tokens(&target.name, estimates);
    let reason = || format!("the prompt has about {tokens} tokens, and its context window {window}");
    (tokens > window).then(|| ("context_window", reason()))
}

const MEDIA: &[&str] = &["images", "documents", "audio", "video"];

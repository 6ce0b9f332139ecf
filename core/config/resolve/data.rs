//! `data` of scopes and of providers, and `region`, `retention` and `train` of targets: what is demanded, and what is promised.

use std::time::Duration;

use super::{Resolver, path};
use crate::config::{
    DataPolicy, Handling,
    data::{policy, region},
    file,
    source::dotted,
};

impl Resolver<'_, '_, '_> {
    pub(super) fn data_policy(&mut self, at: &[String], raw: file::Data) -> Option<DataPolicy> {
        policy(raw).map_err(|(key, why)| self.mistaken(at, key, &why)).ok()
    }

    /// `at`: the table that holds the three keys.
    pub(super) fn handling(
        &mut self,
        at: &[String],
        (place, retention, train): (Option<String>, Option<file::Span>, Option<bool>),
    ) -> Handling {
        let place = place.and_then(|name| region(&name).map_err(|why| self.mistaken(at, "region", &why)).ok());
        let kept = retention.is_some();
        let retention = self.span_or_zero(&[at, &path(&["retention"])].concat(), retention, Duration::MAX);
        Handling { region: place.map(Into::into), retention: kept.then_some(retention), train }
    }

    /// A provider promises one place, where a scope may allow several.
    pub(super) fn only_region(&mut self, at: &[String], raw: file::OneOrMany) -> Option<String> {
        match raw {
            file::OneOrMany::One(one) => Some(one),
            file::OneOrMany::Many(_) => {
                self.mistaken(at, "region", "data of a provider is in one region; state others at its targets");
                None
            }
        }
    }

    fn mistaken(&mut self, at: &[String], key: &str, why: &str) {
        let under = [at, &path(&[key])].concat();
        // A policy of one word has no keys below it.
        let at = if self.around.source.has(&under) { under } else { at.to_vec() };
        self.tell(&at, format!("`{}`: {why}", dotted(&at)));
    }
}

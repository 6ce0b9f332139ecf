//! `models.NAME.split` and `models.NAME.mirror`: every arm must lead somewhere, once.

use std::{collections::BTreeSet, time::Duration};

use super::{Resolver, path};
use crate::config::{
    Arm, Mirror, Provider, Split, SplitBy,
    experiment::{LIVE, MIRROR},
    file,
    source::dotted,
};

impl Resolver<'_, '_, '_> {
    /// `splits`: aliases that have one themselves.
    pub(super) fn split(
        &mut self,
        at: &[String],
        raw: file::Split,
        providers: &[Provider],
        names: &[String],
        splits: &BTreeSet<String>,
    ) -> Split {
        let list = [at, &path(&["arms"])].concat();
        let mut seen = BTreeSet::new();
        let mut arms = Vec::new();
        for (n, arm) in raw.arms.into_iter().enumerate() {
            let at = self.entry(&list, n);
            let key = |key: &str| [at.as_slice(), &path(&[key])].concat();
            let file::Arm { name, to, weight } = arm;
            self.reference(&key("to"), &to, providers, names);
            if splits.contains(&to) {
                let message = format!("`{}`: {to:?} is split itself; name what stands behind its arms", dotted(&at));
                self.tell(&key("to"), message);
            }
            let named = name.is_some();
            let name = name.unwrap_or_else(|| to.clone());
            let at = if named { key("name") } else { key("to") };
            if name.trim() != name || name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control) {
                let what =
                    format!("`{}`: an arm's name has 1 to {LONGEST} bytes, no white space at its ends", dotted(&at));
                self.tell(&at, what);
            }
            if [LIVE, MIRROR].contains(&name.as_str()) {
                self.tell(
                    &at,
                    format!("`{}`: {name:?} is a word of the comparison's own; choose another", dotted(&at)),
                );
            }
            if !seen.insert(name.clone()) {
                self.tell(&at, format!("`{}`: there is an arm {name:?} already", dotted(&at)));
            }
            arms.push(Arm { name, to, weight: weight.unwrap_or(1) });
        }
        if arms.len() < 2 && !self.removed(&list) {
            self.tell(&list, format!("`{}` needs two arms at least", dotted(&list)));
        } else if !arms.is_empty() && arms.iter().all(|arm| arm.weight == 0) {
            self.tell(&list, format!("`{}`: every weight is 0, so no arm is ever drawn", dotted(&list)));
        }
        let by = match raw.by {
            Some(file::SplitBy::Request) => SplitBy::Request,
            Some(file::SplitBy::Session) | None => SplitBy::Session,
            Some(file::SplitBy::Key) => SplitBy::Key,
            Some(file::SplitBy::User) => SplitBy::User,
        };
        Split { by, arms }
    }

    pub(super) fn mirror(
        &mut self,
        at: &[String],
        raw: file::Mirror,
        providers: &[Provider],
        names: &[String],
    ) -> Mirror {
        let file::Mirror { to, share, concurrent, timeout, charge } = raw;
        let key = |key: &str| [at, &path(&[key])].concat();
        self.reference(&key("to"), &to, providers, names);
        // The schema holds it between 0 and 1.
        if share <= 0.0 {
            let message =
                format!("`{}` must be more than 0: leave `mirror` out to copy nothing", dotted(&key("share")));
            self.tell(&key("share"), message);
        }
        Mirror {
            to,
            share,
            concurrent: concurrent.unwrap_or(8) as usize,
            timeout: self.span(&key("timeout"), timeout).unwrap_or(TIMEOUT),
            charge: matches!(charge, Some(file::Charge::Caller)),
        }
    }
}

/// Bytes of an arm's name.
const LONGEST: usize = 128;
const TIMEOUT: Duration = Duration::from_secs(600);

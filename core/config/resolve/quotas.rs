//! `quota` of targets and of providers' keys. A target has one quota, whatever name leads to it: it is the provider's, so two
//! aliases that state different ones for the same target contradict each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{Resolver, path};
use crate::config::{Every, MOST_NANO_USD, Per, Quota, Quotas, Unit, file, source::dotted, text};

impl Resolver<'_, '_, '_> {
    /// Takes quotas out of models and providers.
    pub(super) fn quotas(
        &mut self,
        models: &mut BTreeMap<String, file::Model>,
        providers: &mut BTreeMap<String, file::Provider>,
    ) -> Quotas {
        let mut quotas = Quotas::default();
        let mut told = BTreeSet::new();
        for (name, model) in models {
            let list = path(&["models", name, "targets"]);
            for (n, target) in model.targets.iter_mut().enumerate() {
                let at = [self.entry(&list, n), path(&["quota"])].concat();
                let own = self.quota(&at, target.quota.take());
                if own.is_empty() {
                    continue;
                }
                let target: Arc<str> = format!("{}/{}", target.provider, target.model).into();
                match quotas.targets.get(&target) {
                    Some(other) if *other != own && told.insert(target.clone()) => {
                        let message = format!(
                            "`{}` differs from the quota that {target} has in another place of this file: state the same, or \
                             state it once (it binds whatever name leads there)",
                            dotted(&at)
                        );
                        self.tell(&at, message);
                    }
                    _ => drop(quotas.targets.insert(target, own)),
                }
            }
        }
        for (name, provider) in providers {
            let at = path(&["providers", name, "quota"]);
            let own = self.quota(&at, provider.quota.take());
            let keyed =
                provider.key.is_some() || provider.keys.is_some() || self.removed(&path(&["providers", name, "key"]));
            if !own.is_empty() && !keyed {
                let message =
                    format!("`{}` counts by key, and there is none: state the quota at the targets", dotted(&at));
                self.fault_at_key(&at, message);
                continue;
            }
            if !own.is_empty() {
                quotas.keys.insert(name.as_str().into(), own);
            }
        }
        quotas
    }

    fn quota(&mut self, at: &[String], raw: Option<file::Quotas>) -> Arc<[Quota]> {
        let mut all = Vec::new();
        match raw {
            None => {}
            Some(file::Quotas::One(one)) => self.one_quota(at, *one, &mut all),
            Some(file::Quotas::Many(list)) => {
                for (n, raw) in list.into_iter().enumerate() {
                    let at = self.entry(at, n);
                    self.one_quota(&at, raw, &mut all);
                }
            }
        }
        all.into()
    }

    fn one_quota(&mut self, at: &[String], raw: file::Quota, all: &mut Vec<Quota>) {
        let file::Quota { requests, input_tokens, output_tokens, tokens, usd, per, zone, anchor } = raw;
        let Some(every) = self.every(at, &per.0, zone, anchor) else { return };
        let usd_at = [at, &path(&["usd"])].concat();
        let has_usd = usd.is_some();
        let usd = if has_usd { self.usd(&usd_at, usd).and_then(|nano| u64::try_from(nano).ok()) } else { None };
        if usd.is_some_and(|nano| nano == 0 || nano > MOST_NANO_USD) {
            let most = MOST_NANO_USD / 1_000_000_000;
            let message = format!("`{}` must be more than 0, and {most} dollars at most", dotted(&usd_at));
            return self.tell(&usd_at, message);
        }
        let bounds = [
            (Unit::Requests, requests),
            (Unit::InputTokens, input_tokens),
            (Unit::OutputTokens, output_tokens),
            (Unit::Tokens, tokens),
            (Unit::Usd, usd),
        ];
        if !has_usd && bounds.iter().all(|(_, bound)| bound.is_none()) {
            let units = Unit::ALL.map(Unit::name).join(", ");
            return self.tell(at, format!("`{}` bounds nothing: it needs one of {units}", dotted(at)));
        }
        for (unit, bound) in bounds.into_iter().filter_map(|(unit, bound)| Some((unit, bound?))) {
            if all.iter().any(|other| other.unit == unit && other.every == every) {
                let message = format!("`{}`: {} per {} is stated twice", dotted(at), unit.name(), every.name());
                self.tell(at, message);
            }
            all.push(Quota { unit, bound, every: every.clone() });
        }
    }

    fn every(&mut self, at: &[String], per: &str, zone: Option<String>, anchor: Option<String>) -> Option<Every> {
        let key = |key: &str| [at, &path(&[key])].concat();
        let calendar = [Per::Day, Per::Week, Per::Month].into_iter().find(|known| known.name() == per);
        if let Some(per) = calendar {
            if anchor.is_some() {
                let message = "an anchor is for windows of a duration: the calendar says when this one begins";
                return self.fault(&key("anchor"), format!("`{}`: {message}", dotted(&key("anchor"))));
            }
            let zone = match zone.as_deref() {
                None | Some("UTC") => jiff::tz::TimeZone::UTC,
                Some(name) => match jiff::tz::TimeZone::get(name) {
                    Ok(zone) => zone,
                    Err(_) => {
                        let message =
                            format!("`{}`: there is no zone {name:?}; write Area/City, or UTC", dotted(&key("zone")));
                        return self.fault(&key("zone"), message);
                    }
                },
            };
            return Some(Every::Calendar(per, zone));
        }
        if zone.is_some() {
            let message = "a zone is for windows of the calendar: a duration is the same everywhere";
            return self.fault(&key("zone"), format!("`{}`: {message}", dotted(&key("zone"))));
        }
        let length = match text::duration(per) {
            Ok(length) if (LEAST..=MOST).contains(&length) => length,
            Ok(_) => return self.fault(&key("per"), format!("`{}` must be 1s to 366d", dotted(&key("per")))),
            Err(_) => {
                let message =
                    format!("`{}` must be a duration (\"2h\", \"7d\"), or day, week or month", dotted(&key("per")));
                return self.fault(&key("per"), message);
            }
        };
        let Some(anchor) = anchor else { return Some(Every::Use(length)) };
        match anchor.parse::<jiff::Timestamp>() {
            Ok(moment) if moment.as_second() >= 0 => Some(Every::Grid(length, SystemTime::from(moment))),
            _ => {
                let message = format!("`{}` must be a moment such as \"2026-01-05T09:00:00Z\"", dotted(&key("anchor")));
                self.fault(&key("anchor"), message)
            }
        }
    }
}

const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(366 * 86_400);

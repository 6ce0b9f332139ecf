//! What binds scopes: limits and budgets as teams, models, providers and tags state them, and who is told of budgets. One way to
//! read them for everybody.

use std::{collections::BTreeMap, sync::Arc};

use super::{Found, Resolver, path};
use crate::config::{
    Alerts, Budget, Limits, MOST_NANO_USD, Per, Provider, Rule, Rules, Scope, Secret, UNPRICED, WHOLE, file,
    source::dotted,
};

impl Resolver<'_, '_, '_> {
    /// Takes limits and budgets out of models and providers, and reads those of tags.
    pub(super) fn rules(
        &mut self,
        models: &mut BTreeMap<String, file::Model>,
        providers: &mut BTreeMap<String, file::Provider>,
        tags: file::Tags,
    ) -> Rules {
        let mut rules = Rules::default();
        for (name, model) in models {
            let at = path(&["models", name]);
            let rule = self.rule(&at, Scope::Model, name, model.limits.take(), model.budget.take());
            rules.models.extend(rule.map(|rule| (rule.name.clone(), rule)));
        }
        for (name, provider) in providers {
            let at = path(&["providers", name]);
            let rule = self.rule(&at, Scope::Provider, name, provider.limits.take(), provider.budget.take());
            rules.providers.extend(rule.map(|rule| (rule.name.clone(), rule)));
        }
        for (name, tag) in tags {
            let at = path(&["tags", &name]);
            let plain = |text: &str| !text.is_empty() && text.trim() == text && !text.contains(',');
            if !name.split_once('=').is_some_and(|(key, value)| plain(key) && plain(value)) {
                let message = format!(
                    "`{}` must be a tag as requests carry it, in quotes: [tags.\"env=prod\"], without spaces or commas",
                    dotted(&at)
                );
                self.fault_at_key(&at, message);
            }
            let rule = self.rule(&at, Scope::Tag, &name, tag.limits, tag.budget);
            if rule.is_none() {
                self.warn(format!("`{}` has neither limits nor a budget, so it binds nobody", dotted(&at)));
            }
            rules.tags.extend(rule.map(|rule| (rule.name.clone(), rule)));
        }
        rules
    }

    fn rule(
        &mut self,
        at: &[String],
        scope: fn(Arc<str>) -> Scope,
        name: &str,
        limits: Option<file::TeamLimits>,
        budgets: Option<file::Budgets>,
    ) -> Option<Rule> {
        let name: Arc<str> = name.into();
        let budgets = self.budgets(&[at, &path(&["budget"])].concat(), budgets);
        Rule::of(scope(name.clone()), &name, self::limits(limits), budgets)
    }

    /// One budget, or several with a window each.
    pub(super) fn budgets(&mut self, at: &[String], raw: Option<file::Budgets>) -> Arc<[Budget]> {
        let list = match raw {
            None => return Arc::default(),
            Some(file::Budgets::One(one)) => return self.budget(at, one).into_iter().collect(),
            Some(file::Budgets::Many(list)) => list,
        };
        let mut budgets: Vec<Budget> = Vec::with_capacity(list.len());
        for (n, raw) in list.into_iter().enumerate() {
            let at = self.entry(at, n);
            let Some(budget) = self.budget(&at, raw) else { continue };
            if budgets.iter().any(|other| other.per == budget.per) {
                let word = budget.per.name();
                self.tell(&at, format!("`{}`: there are two budgets with per = {word:?}: keep one", dotted(&at)));
            }
            budgets.push(budget);
        }
        budgets.into()
    }

    fn budget(&mut self, at: &[String], raw: file::Budget) -> Option<Budget> {
        let file::Budget { usd: bound, per, unpriced_usd, soft } = raw;
        let mut usd = |key: &str, raw: Option<file::Usd>| {
            let at = [at, &path(&[key])].concat();
            let nano = self.usd(&at, raw)?;
            let nano = u64::try_from(nano).ok()?;
            if nano > MOST_NANO_USD {
                let most = MOST_NANO_USD / 1_000_000_000;
                return self.fault(
                    &at,
                    format!("`{}` may be {most} dollars at most; leave the budget out for none", dotted(&at)),
                );
            }
            Some(nano)
        };
        let unpriced = if unpriced_usd.is_some() { usd("unpriced_usd", unpriced_usd) } else { Some(UNPRICED) };
        let (per, soft) = (self::per(per), soft.map(millionths));
        Some(Budget { nano_usd: usd("usd", Some(bound))?, per, unpriced_nano_usd: unpriced?, soft })
    }

    /// Models that a request goes to when a budget refuses it.
    pub(super) fn fallback(
        &mut self,
        at: &[String],
        raw: Option<Vec<String>>,
        providers: &[Provider],
        names: &[String],
    ) -> Arc<[String]> {
        for (n, name) in raw.iter().flatten().enumerate() {
            let at = self.entry(at, n);
            self.reference(&at, name, providers, names);
        }
        raw.unwrap_or_default().into()
    }

    pub(super) fn alerts(&mut self, raw: Option<file::Alerts>) -> Option<Alerts> {
        let file::Alerts { webhook, token, private } = raw?;
        let at = |key: &str| path(&["alerts", key]);
        let mut secret = |at: &[String], written: &str| match self.secret(at, written)? {
            Found::Value(secret) => Some(secret),
            Found::Missing(why) => self.fault(at, format!("`{}`: {why}; set it, or remove the key", dotted(at))),
        };
        let token = token.and_then(|token| secret(&at("token"), &token));
        let written = webhook?;
        let plain = written.starts_with("https://") || written.starts_with("http://");
        let webhook = if plain { Secret::new(&written) } else { secret(&at("webhook"), &written)? };
        let url = webhook.expose().parse::<http::Uri>().ok().filter(|url| url.host().is_some_and(|h| !h.is_empty()));
        if !url.is_some_and(|url| matches!(url.scheme_str(), Some("https" | "http"))) {
            let message = "`alerts.webhook` must be an address such as \"https://hooks.internal/budgets\", or say where it is kept: \
                           \"env:NAME\" or \"file:PATH\"";
            return self.fault(&at("webhook"), message);
        }
        Some(Alerts { webhook, token, private: private.unwrap_or(false) })
    }
}

pub(super) fn per(raw: file::Per) -> Per {
    match raw {
        file::Per::Day => Per::Day,
        file::Per::Week => Per::Week,
        file::Per::Month => Per::Month,
        file::Per::Total => Per::Total,
    }
}

/// Of a part of the whole, which is more than 0 and at most 1.
pub(super) fn millionths(part: f64) -> u32 {
    (part * f64::from(WHOLE)).round() as u32
}

pub(super) fn limits(raw: Option<file::TeamLimits>) -> Option<Limits> {
    let file::TeamLimits {
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        tokens_per_minute,
        requests_per_day,
        tokens_per_day,
        concurrent,
        shadow,
    } = raw?;
    let limits = Limits {
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        tokens_per_minute,
        requests_per_day,
        tokens_per_day,
        concurrent,
        shadow: shadow.unwrap_or(false),
    };
    limits.any()
}

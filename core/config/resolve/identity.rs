//! `[organisations.…]`, `[users.…]`, and the terms that they and teams have in common: names checked against each other,
//! roles, operations, ranges of addresses.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;

use super::{Resolver, limits as bounds, path, teams};
use crate::{
    config::{
        Alias, Budget, Caps, DataPolicy, Grant, MOST_NANO_USD, Organisation, Over, Provider, Team, Terms, UNPRICED,
        User, file, identity, text,
    },
    model::Operation,
};

/// What organisations, teams and users have in common beside limits, as written.
pub(super) struct Common {
    pub models: Option<Vec<String>>,
    pub operations: Option<Vec<String>>,
    pub ip_ranges: Option<Vec<String>>,
    pub caps: Option<file::Caps>,
    pub tags: BTreeMap<String, String>,
    pub data: Option<file::Data>,
}

/// The same, checked.
pub(super) struct Checked {
    pub models: Option<Vec<String>>,
    pub operations: Option<Arc<[String]>>,
    pub networks: Arc<[IpNet]>,
    pub caps: Caps,
    pub tags: Arc<[(String, String)]>,
    pub data: Option<DataPolicy>,
}

impl Resolver<'_, '_, '_> {
    pub(super) fn organisations(
        &mut self,
        raw: BTreeMap<String, file::Organisation>,
        providers: &[Provider],
        models: &BTreeMap<String, Alias>,
    ) -> BTreeMap<String, Organisation> {
        let mut all = BTreeMap::new();
        for (name, raw) in self.as_written("organisations", raw) {
            let at = path(&["organisations", &name]);
            self.named(&at, &name);
            let file::Organisation {
                disabled,
                cut,
                models: allowed,
                operations,
                ip_ranges,
                limits,
                budget,
                budget_fallback,
                defaults,
                caps,
                tags,
                data,
            } = raw;
            let common = Common { models: allowed, operations, ip_ranges, caps, tags, data };
            let checked = self.common(&at, common, providers, models);
            let money = self.money(&at, (budget, budget_fallback), providers, models);
            let (disabled, cut) = self.ended(&at, disabled, cut);
            all.insert(name, Organisation { disabled, cut, terms: checked.terms(limits, money, defaults) });
        }
        all
    }

    pub(super) fn users(
        &mut self,
        raw: BTreeMap<String, file::User>,
        known: (&BTreeMap<String, Organisation>, &BTreeMap<String, Team>),
        providers: &[Provider],
        models: &BTreeMap<String, Alias>,
    ) -> BTreeMap<String, User> {
        let mut all = BTreeMap::new();
        for (name, raw) in self.as_written("users", raw) {
            let at = path(&["users", &name]);
            self.named(&at, &name);
            let common = Common {
                models: raw.models,
                operations: raw.operations,
                ip_ranges: raw.ip_ranges,
                caps: raw.caps,
                tags: raw.tags,
                data: raw.data,
            };
            let checked = self.common(&at, common, providers, models);
            let money = self.money(&at, (raw.budget, raw.budget_fallback), providers, models);
            let teams = raw.teams.unwrap_or_default();
            for (n, team) in teams.iter().enumerate() {
                let at = self.entry(&[&at[..], &path(&["teams"])].concat(), n);
                self.known(&at, "teams", team, known.1.keys());
            }
            if let Some(organisation) = &raw.organisation {
                let at = [&at[..], &path(&["organisation"])].concat();
                if teams.is_empty() {
                    self.known(&at, "organisations", organisation, known.0.keys());
                } else {
                    self.tell(&at, "`organisation` is for users without a team: a team has its own".to_owned());
                }
            }
            let mut roles = Vec::new();
            for (n, role) in raw.roles.unwrap_or_default().iter().enumerate() {
                let at = self.entry(&[&at[..], &path(&["roles"])].concat(), n);
                match Grant::parse(role) {
                    Ok(grant) => {
                        match &grant.over {
                            Over::Team(team) => self.known(&at, "teams", team, known.1.keys()),
                            Over::Organisation(of) => self.known(&at, "organisations", of, known.0.keys()),
                            _ => {}
                        }
                        roles.push(grant);
                    }
                    Err(message) => self.tell(&at, message),
                }
            }
            let (disabled, cut) = self.ended(&at, raw.disabled, raw.cut);
            let user = User {
                email: raw.email,
                organisation: raw.organisation,
                teams,
                roles,
                service: raw.service.unwrap_or(false),
                disabled,
                cut,
                terms: checked.terms(raw.limits, money, raw.defaults),
            };
            all.insert(name, user);
        }
        all
    }

    /// Is nobody of it served, and does what runs end?
    pub(super) fn ended(&mut self, at: &[String], disabled: Option<bool>, cut: Option<bool>) -> (bool, bool) {
        let (disabled, cut) = (disabled.unwrap_or(false), cut.unwrap_or(false));
        if cut && !disabled {
            let at = [at, &path(&["cut"])].concat();
            self.tell(&at, "`cut` ends what runs with what is disabled: write `disabled = true` too");
        }
        (disabled, cut && disabled)
    }

    /// Budgets, and where requests go that they refuse.
    pub(super) fn money(
        &mut self,
        at: &[String],
        (budget, fallback): (Option<file::Budgets>, Option<Vec<String>>),
        providers: &[Provider],
        models: &BTreeMap<String, Alias>,
    ) -> (Arc<[Budget]>, Arc<[String]>) {
        let under = |key: &str| [at, &path(&[key])].concat();
        let names: Vec<String> = models.keys().cloned().collect();
        let budgets = self.budgets(&under("budget"), budget);
        (budgets, self.fallback(&under("budget_fallback"), fallback, providers, &names))
    }

    pub(super) fn common(
        &mut self,
        at: &[String],
        raw: Common,
        providers: &[Provider],
        models: &BTreeMap<String, Alias>,
    ) -> Checked {
        let under = |key: &str| [at, &path(&[key])].concat();
        let names: Vec<String> = models.keys().cloned().collect();
        for (n, model) in raw.models.iter().flatten().enumerate() {
            let at = self.entry(&under("models"), n);
            self.allowed(&at, model, providers, &names);
        }
        for (n, operation) in raw.operations.iter().flatten().enumerate() {
            if let Err(message) = operation_named(operation) {
                let at = self.entry(&under("operations"), n);
                self.tell(&at, message);
            }
        }
        let mut networks = Vec::new();
        for (n, range) in raw.ip_ranges.iter().flatten().enumerate() {
            match identity::network(range) {
                Ok(network) => networks.push(network),
                Err(message) => {
                    let at = self.entry(&under("ip_ranges"), n);
                    self.tell(&at, message);
                }
            }
        }
        for (key, list) in [("operations", &raw.operations), ("ip_ranges", &raw.ip_ranges)] {
            if list.as_ref().is_some_and(Vec::is_empty) {
                self.tell(&under(key), format!("an empty list would allow nothing: leave `{key}` out to allow all"));
            }
        }
        let caps = raw.caps.map_or(Ok(Caps::default()), identity::caps).unwrap_or_else(|(key, message)| {
            self.tell(&[at, &path(&["caps", key])].concat(), format!("`caps.{key}` {message}"));
            Caps::default()
        });
        let tags = identity::tags(&raw.tags).unwrap_or_else(|message| {
            self.tell(&under("tags"), message);
            Arc::default()
        });
        let data = raw.data.and_then(|raw| self.data_policy(&under("data"), raw));
        let operations = raw.operations.map(Arc::from);
        Checked { models: raw.models, operations, networks: networks.into(), caps, tags, data }
    }

    pub(super) fn named(&mut self, at: &[String], name: &str) {
        if let Err(message) = identity::name(name) {
            self.fault_at_key(at, format!("{name:?}: {message}"));
        }
    }

    /// What is named stands in the file, or may stand in the store.
    pub(super) fn known<'k>(
        &mut self,
        at: &[String],
        section: &str,
        name: &str,
        names: impl Iterator<Item = &'k String> + Clone,
    ) {
        if names.clone().any(|known| known == name) {
            return;
        }
        let hint = text::hint(name, names.map(String::as_str));
        let fix = if hint.is_empty() { ": write it here too, or keep both in the store" } else { &hint };
        self.tell(at, format!("there is no [{section}.{name}]{fix}"));
    }
}

impl Checked {
    fn terms(
        self,
        limits: Option<file::TeamLimits>,
        (budgets, fallback): (Arc<[Budget]>, Arc<[String]>),
        defaults: Option<file::Defaults>,
    ) -> Terms {
        Terms {
            models: self.models.map(Arc::from),
            operations: self.operations,
            networks: self.networks,
            defaults: teams::defaults(defaults.unwrap_or_default()),
            caps: self.caps,
            tags: self.tags,
            priority: None,
            share: None,
            limits: bounds::limits(limits),
            budgets,
            fallback,
            data: self.data,
        }
    }
}

/// The error is a sentence.
pub fn operation_named(name: &str) -> Result<(), String> {
    if Operation::NAMES.contains(&name) {
        return Ok(());
    }
    let hint = text::hint(name, Operation::NAMES);
    Err(format!("there is no operation {name:?}: use some of {}{hint}", Operation::NAMES.join(", ")))
}

/// A budget without a place in a file. The error names the key.
pub fn budget(raw: file::Budget) -> Result<Budget, (String, String)> {
    let usd = |key: &str, raw: &file::Usd| {
        let nano = text::usd(&raw.0).map_err(|e| (key.to_owned(), e))?;
        let nano = u64::try_from(nano).map_err(|_| (key.to_owned(), "must not be negative".to_owned()))?;
        if nano > MOST_NANO_USD {
            let most = MOST_NANO_USD / 1_000_000_000;
            return Err((key.to_owned(), format!("may be {most} dollars at most; leave the budget out for none")));
        }
        Ok(nano)
    };
    let file::Budget { usd: bound, per, unpriced_usd, soft } = raw;
    if soft.is_some_and(|soft| !(0.01..=1.0).contains(&soft)) {
        return Err(("soft".to_owned(), "must be between 0.01 and 1: the part of it past which it is told".to_owned()));
    }
    let unpriced_nano_usd = unpriced_usd.map_or(Ok(UNPRICED), |raw| usd("unpriced_usd", &raw))?;
    let (nano_usd, soft) = (usd("usd", &bound)?, soft.map(bounds::millionths));
    Ok(Budget { nano_usd, per: bounds::per(per), unpriced_nano_usd, soft })
}

//! The table of a rehearsal: names mean the same on every machine, whatever keys it has, and no key of the user's is in it. What
//! stands for nothing stands for itself, so that a script can be tested without a configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{AtHand, Fares, Table, Target, table::Terms};
use crate::{
    account::price::Rates,
    config::{self, Config, Problem, Secret},
    model::Format,
    provider::{self, Provider},
};

/// What a rehearsal adds to a table.
#[derive(Debug, Default)]
pub struct Rehearsed {
    /// In the order in which they stand for whatever is asked for.
    own: Vec<Arc<Target>>,
    by_name: BTreeMap<Arc<str>, Arc<Target>>,
}

/// Who plays in a rehearsal beside what the configuration names.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cast<'a> {
    pub own: &'a [Own],
    pub live: &'a [Own],
    /// Providers that have no key, by name.
    pub without: Option<&'a BTreeSet<String>>,
}

/// A target that a rehearsal brings along, with figures of its own where it has them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Own {
    pub name: Arc<str>,
    pub fares: Fares,
    /// In nano-dollars a million tokens.
    pub price_input: Option<i64>,
    pub price_output: Option<i64>,
    pub context_window: Option<u64>,
}

impl Table {
    /// With keys that open nothing, and these targets in place of whatever is asked for without a provider's name. Figures
    /// of `live` change targets that stand for themselves only. Providers of `without` have no key at all.
    pub fn rehearsed(cast: &Cast<'_>, config: &Config) -> Result<Table, Vec<Problem>> {
        let Cast { own, live, without } = *cast;
        let mut keyless = config.clone();
        for provider in &mut keyless.providers {
            keyed(provider);
            if without.is_some_and(|names| names.contains(&provider.name)) {
                provider.keys.clear();
                provider.missing = Some("it had no key".to_owned());
            }
        }
        let mut table = Table::build(&keyless)?;
        table.rehearsed = Some(Rehearsed::default());
        let made: Vec<Arc<Target>> = own.iter().map(|own| table.own(own)).collect();
        let more: Vec<Arc<Target>> = live.iter().filter(|l| l.has_figures()).map(|own| table.own(own)).collect();
        let by_name = more.iter().chain(&made).map(|target| (target.name.clone(), target.clone())).collect();
        table.rehearsed = Some(Rehearsed { own: made, by_name });
        Ok(table)
    }

    /// A name that nothing stands behind, as a target of that name.
    pub(super) fn stand_in(&self, name: &str) -> Arc<Target> {
        if let Some(known) = self.named.get(name) {
            return known.clone();
        }
        let (head, model) = name.split_once('/').unwrap_or((name, name));
        let provider = self.providers.get(head).cloned().unwrap_or_else(|| Arc::new(nobody(head)));
        let target = Arc::new(self.make_as(name.to_owned(), &provider, model, 1, Terms::default()));
        self.named.insert(name.into(), target.clone());
        target
    }

    fn own(&self, own: &Own) -> Arc<Target> {
        let Own { name, fares: _, price_input, price_output, context_window } = own;
        let (head, model) = name.split_once('/').unwrap_or((name, name));
        let provider = self.providers.get(head).cloned().unwrap_or_else(|| Arc::new(nobody(head)));
        let mut target = self.make_as(name.to_string(), &provider, model, 1, Terms::default());
        if price_input.is_some() || price_output.is_some() {
            let prices = config::Prices { input: *price_input, output: *price_output, ..config::Prices::default() };
            let sheet = config::PriceSheet { prices, ..config::PriceSheet::default() };
            target.rates = Some(Arc::new(Rates::new(&sheet)));
        }
        target.limits.context = context_window.or(target.limits.context);
        target.at_hand = AtHand::new(target.at_hand.lot, 1, &target.limits, target.rates.as_deref());
        Arc::new(target)
    }
}

impl Rehearsed {
    pub fn stand_for(&self, name: &str) -> Option<&[Arc<Target>]> {
        (!self.own.is_empty() && !name.contains('/') && !self.by_name.contains_key(name)).then_some(&self.own)
    }

    pub fn own(&self, name: &str) -> Option<Arc<Target>> {
        self.by_name.get(name).cloned()
    }
}

impl Own {
    /// Does it differ from what the table has of this name?
    fn has_figures(&self) -> bool {
        self.price_input.is_some() || self.price_output.is_some() || self.context_window.is_some()
    }
}

/// As many keys as before, and never less than one where its scheme wants one; none of them is the user's.
fn keyed(provider: &mut config::Provider) {
    let count = provider.keys.len().max(1);
    provider.login = None;
    provider.missing = None;
    if provider.auth.as_deref() != Some("none") {
        provider.keys = (0..count).map(|n| Secret::new(format!("rehearsed-{n}"))).collect();
    }
    if Provider::resolve(provider.clone()).is_err() {
        let stand_in = stand_in_for(&provider.name, provider.format.or(row_format(&provider.name)));
        *provider = config::Provider { handling: std::mem::take(&mut provider.handling), ..stand_in };
    }
}

/// A server of that name that nobody runs.
fn nobody(name: &str) -> Provider {
    // What cannot be a provider's name is the mock under its own.
    Provider::resolve(stand_in_for(name, row_format(name))).unwrap_or_else(|_| Provider::mock())
}

fn stand_in_for(name: &str, format: Option<Format>) -> config::Provider {
    config::Provider {
        name: name.to_owned(),
        base_url: Some("http://rehearsed.invalid/v1".to_owned()),
        format: Some(format.unwrap_or(Format::OpenaiChat)),
        auth: Some("none".to_owned()),
        ..config::Provider::default()
    }
}

fn row_format(name: &str) -> Option<Format> {
    provider::row(name).map(|row| row.format)
}

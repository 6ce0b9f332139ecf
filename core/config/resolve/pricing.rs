//! `[[pricing]]` and `[records]`: prices of the user's own, in whole nano-dollars, and what is kept of each request.

use std::{sync::Arc, time::Duration};

use super::{Resolver, path};
use crate::{
    config::{
        Catalogue, ENOUGH, PRICES, PriceService, PriceSheet, PriceTier, Prices, Pricing, Problem, Provider, Records,
        catalogue::Mistake, file, source::dotted, sources, text,
    },
    model::ServiceTier,
};

impl Resolver<'_, '_, '_> {
    pub(super) fn pricing(&mut self, raw: Option<Vec<file::Pricing>>, providers: &[Provider]) -> Vec<Pricing> {
        let list = path(&["pricing"]);
        let mut all: Vec<Pricing> = Vec::new();
        for (n, raw) in raw.into_iter().flatten().enumerate() {
            let at = self.entry(&list, n);
            let model = [at.as_slice(), &path(&["model"])].concat();
            if raw.model.trim() != raw.model || raw.model.is_empty() || raw.model.chars().any(char::is_control) {
                self.tell(&model, format!("`{}` must name a model, such as \"openai/gpt-4.1\"", dotted(&model)));
            }
            if all.iter().any(|p| p.model == raw.model) {
                self.tell(&model, format!("`{}`: {:?} has a price already, further up", dotted(&model), raw.model));
            }
            let head = raw.model.split_once('/').map(|(head, _)| head).filter(|head| !head.contains('*'));
            if let Some(head) = head.filter(|head| !self.names_provider(head, providers)) {
                let names = providers.iter().map(|p| p.name.as_str());
                self.warn(format!(
                    "`{}`: there is no provider {head:?} in this file{}: the price is used only for a model of that \
                     whole name",
                    dotted(&model),
                    text::hint(head, names)
                ));
            }
            all.push(self.priced(&at, raw));
        }
        all
    }

    /// Each mistake with its own file and line.
    pub(super) fn catalogue(&mut self, raw: file::Catalogue) -> Arc<Catalogue> {
        let Some(name) = raw.file else { return Arc::default() };
        let text = match self.around.kept {
            Some(kept) => Ok(kept.text(&name)),
            None => sources::text(&self.existing(&path(&["catalogue", "file"]), &name), MOST_CATALOGUE),
        };
        let text = match text {
            Ok(Some(text)) => text,
            // Told already.
            Ok(None) => return Arc::default(),
            Err(message) => {
                self.tell(&path(&["catalogue", "file"]), format!("`catalogue.file`: {name} {message}"));
                return Arc::default();
            }
        };
        self.texts.push((name.clone(), text.as_str().into()));
        let mistakes = match Catalogue::parse(&text) {
            Ok(catalogue) => return Arc::new(catalogue),
            Err(mistakes) => mistakes,
        };
        self.problems.extend(mistakes.into_iter().map(|Mistake { line, message }| Problem {
            file: name.clone(),
            line,
            message,
            excerpt: None,
        }));
        Arc::default()
    }

    pub(super) fn records(&mut self, raw: file::Records) -> Records {
        let bodies = matches!(raw.bodies, Some(file::Bodies::Sealed));
        let keep = self.span(&path(&["records", "keep"]), raw.keep);
        let at = path(&["records", "usage"]);
        let usage = self.span(&at, raw.usage).and_then(|usage| match usage < A_MONTH {
            true => self.fault(&at, "`records.usage` must be at least \"32d\": budgets of a month are read from it"),
            false => Some(usage),
        });
        let default = Records::default();
        Records { keep: keep.unwrap_or(default.keep), usage: usage.unwrap_or(default.usage), bodies }
    }

    fn names_provider(&self, head: &str, providers: &[Provider]) -> bool {
        head == super::providers::MOCK || providers.iter().any(|p| p.name == head)
    }

    fn priced(&mut self, at: &[String], mut raw: file::Pricing) -> Pricing {
        let written = raw.take_prices();
        let named = Prices::KEYS.iter().zip(&written).any(|(key, price)| price.is_some() && ENOUGH.contains(key));
        let script = raw.script.take();
        if !named && script.is_none() && !self.removed(&[at, &path(&["input"])].concat()) {
            self.fault_at_key(at, format!("`{}` needs a price: input = \"0.50\", output = \"1.50\"", dotted(at)));
        }
        let prices = self.prices(at, written);
        let tiers = self.tiers(at, raw.tiers);
        let file::PriceServices { flex, priority, fast, batch, us } = raw.services.unwrap_or_default();
        let mut services = Vec::new();
        for (service, raw) in [
            (ServiceTier::Flex, flex),
            (ServiceTier::Priority, priority),
            (ServiceTier::Fast, fast),
            (ServiceTier::Batch, batch),
            (ServiceTier::Us, us),
        ] {
            let Some(mut raw) = raw else { continue };
            let at = [at, &path(&["services", service.name()])].concat();
            let prices = raw.take_prices();
            let factor = self.usd(&[at.as_slice(), &path(&["factor"])].concat(), raw.factor);
            let (prices, tiers) = (self.prices(&at, prices), self.tiers(&at, raw.tiers));
            services.push(PriceService { service, factor, prices, tiers });
        }
        if let Some(name) = script.as_deref().filter(|name| !is_script(name)) {
            let at = [at, &path(&["script"])].concat();
            let text = format!(
                "`{}`: {name:?} is no script below a folder of scripts/, such as \"scripts/prices/{}.rhai\" (those directly in \
                 scripts/ are stages)",
                dotted(&at),
                "night"
            );
            self.tell(&at, text);
        }
        Pricing { model: raw.model, sheet: PriceSheet { prices, tiers, services }, script }
    }

    fn prices(&mut self, at: &[String], written: [Option<file::Usd>; PRICES]) -> Prices {
        let mut prices = Prices::default();
        for ((key, price), raw) in Prices::KEYS.iter().zip(prices.figures_mut()).zip(written) {
            *price = self.usd(&[at, &path(&[key])].concat(), raw);
        }
        prices
    }

    fn tiers(&mut self, at: &[String], raw: Option<Vec<file::PriceTier>>) -> Vec<PriceTier> {
        let list = [at, &path(&["tiers"])].concat();
        let mut rising: Vec<PriceTier> = Vec::new();
        for (n, mut raw) in raw.into_iter().flatten().enumerate() {
            let at = self.entry(&list, n);
            if rising.last().is_some_and(|last| last.above >= raw.above) {
                self.tell(&at, format!("`{}`: write tiers in rising order of `above`", dotted(&at)));
                continue;
            }
            let written = raw.take_prices();
            rising.push(PriceTier { above: raw.above, prices: self.prices(&at, written) });
        }
        rising
    }

    /// Nano-dollars.
    pub(super) fn usd(&mut self, at: &[String], raw: Option<file::Usd>) -> Option<i64> {
        match text::usd(&raw?.0) {
            Ok(nano) => Some(nano),
            Err(e) => self.fault(at, format!("`{}`: {e}", dotted(at))),
        }
    }
}

fn is_script(name: &str) -> bool {
    let inner = name.strip_prefix("scripts/").and_then(|rest| rest.strip_suffix(".rhai"));
    inner.is_some_and(|inner| {
        inner.contains('/') && inner.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
    })
}

/// The largest collection there is has three million bytes before it is brought into form.
const MOST_CATALOGUE: u64 = 32 << 20;
/// The longest month, and a day for clocks that differ.
const A_MONTH: Duration = Duration::from_secs(32 * 86_400);

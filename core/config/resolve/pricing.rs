//! `[[pricing]]` and `[records]`: prices of the user's own, in whole nano-dollars, and what is kept of each request.

use super::{Resolver, path};
use crate::config::{PriceTier, Prices, Pricing, Provider, Records, file, source::dotted, text};

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

    pub(super) fn records(&mut self, raw: file::Records) -> Records {
        let (None | Some(file::Bodies::Off)) = raw.bodies;
        let keep = self.span(&path(&["records", "keep"]), raw.keep);
        Records { keep: keep.unwrap_or(Records::default().keep) }
    }

    fn names_provider(&self, head: &str, providers: &[Provider]) -> bool {
        head == super::providers::MOCK || providers.iter().any(|p| p.name == head)
    }

    fn priced(&mut self, at: &[String], raw: file::Pricing) -> Pricing {
        let file::Pricing {
            model,
            input,
            output,
            cache_read,
            cache_write,
            cache_write_1h,
            reasoning,
            input_audio,
            output_audio,
            request,
            tiers,
        } = raw;
        if input.is_none() && request.is_none() && !self.removed(&[at, &path(&["input"])].concat()) {
            self.fault_at_key(at, format!("`{}` needs a price: input = \"0.50\", output = \"1.50\"", dotted(at)));
        }
        let mut usd = |key: &str, raw: Option<file::Usd>| self.usd(&[at, &path(&[key])].concat(), raw);
        let prices = Prices {
            input: usd("input", input),
            output: usd("output", output),
            cache_read: usd("cache_read", cache_read),
            cache_write: usd("cache_write", cache_write),
            cache_write_1h: usd("cache_write_1h", cache_write_1h),
            reasoning: usd("reasoning", reasoning),
            input_audio: usd("input_audio", input_audio),
            output_audio: usd("output_audio", output_audio),
            request: usd("request", request),
        };
        let list = [at, &path(&["tiers"])].concat();
        let mut rising: Vec<PriceTier> = Vec::new();
        for (n, raw) in tiers.into_iter().flatten().enumerate() {
            let at = self.entry(&list, n);
            if rising.last().is_some_and(|last| last.above >= raw.above) {
                self.tell(&at, format!("`{}`: write tiers in rising order of `above`", dotted(&at)));
                continue;
            }
            let tier = self.tier(&at, raw);
            rising.push(tier);
        }
        Pricing { model, prices, tiers: rising }
    }

    fn tier(&mut self, at: &[String], raw: file::PriceTier) -> PriceTier {
        let mut usd = |key: &str, raw: Option<file::Usd>| self.usd(&[at, &path(&[key])].concat(), raw);
        let prices = Prices {
            input: usd("input", raw.input),
            output: usd("output", raw.output),
            cache_read: usd("cache_read", raw.cache_read),
            cache_write: usd("cache_write", raw.cache_write),
            cache_write_1h: usd("cache_write_1h", raw.cache_write_1h),
            reasoning: usd("reasoning", raw.reasoning),
            input_audio: usd("input_audio", raw.input_audio),
            output_audio: usd("output_audio", raw.output_audio),
            request: usd("request", raw.request),
        };
        PriceTier { above: raw.above, prices }
    }

    /// Nano-dollars.
    pub(super) fn usd(&mut self, at: &[String], raw: Option<file::Usd>) -> Option<i64> {
        match text::usd(&raw?.0) {
            Ok(nano) => Some(nano),
            Err(e) => self.fault(at, format!("`{}`: {e}", dotted(at))),
        }
    }
}

//! What a target costs: the user's own `[[pricing]]` first, then the catalogue. Asked once for each target, when it is
//! made.

use std::sync::Arc;

use crate::{
    account::{catalog, price::Rates},
    auth::wildcard,
    config,
    provider::{Provider, capability::normal},
};

/// The user's own prices, those that say most first.
#[derive(Debug, Default)]
pub struct PriceList(Vec<(String, Arc<Rates>)>);

impl PriceList {
    pub fn new(own: &[config::Pricing]) -> PriceList {
        let mut list: Vec<_> =
            own.iter().map(|p| (p.model.clone(), Arc::new(Rates::new(&p.prices, &p.tiers)))).collect();
        // A whole name before a pattern, a long pattern before a short one.
        list.sort_by_key(|(model, _)| (model.contains('*'), std::cmp::Reverse(model.len())));
        PriceList(list)
    }

    /// `name`: `provider/model`.
    pub fn find(&self, name: &str, provider: &Provider, model: &str) -> Option<Arc<Rates>> {
        let own = self.0.iter().find(|(pattern, _)| wildcard(pattern, name) || wildcard(pattern, model));
        own.map(|(_, rates)| rates.clone()).or_else(|| catalog::rates(provider.row.name, &normal(model)))
    }
}

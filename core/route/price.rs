//! What a target costs: the user's own `[[pricing]]` first, then the catalogue. Asked once for each target, when it is
//! made.

use std::sync::Arc;

use crate::{
    account::{catalog, price::Rates},
    auth::wildcard,
    config,
    provider::{Provider, capability::normal},
};

/// The user's own prices, those that say most first, and the catalogue file.
#[derive(Debug, Default)]
pub struct PriceList {
    own: Vec<(String, Arc<Rates>)>,
    file: catalog::Prices,
}

impl PriceList {
    pub fn new(own: &[config::Pricing], file: &config::Catalogue) -> PriceList {
        let mut own: Vec<_> = own.iter().map(|p| (p.model.clone(), Arc::new(Rates::new(&p.sheet)))).collect();
        // A whole name before a pattern, a long pattern before a short one.
        own.sort_by_key(|(model, _)| (model.contains('*'), std::cmp::Reverse(model.len())));
        PriceList { own, file: catalog::Prices::new(file) }
    }

    /// `name`: `provider/model`.
    pub fn find(&self, name: &str, provider: &Provider, model: &str) -> Option<Arc<Rates>> {
        let own = self.own.iter().find(|(pattern, _)| wildcard(pattern, name) || wildcard(pattern, model));
        let file = || self.known(provider, model)?.rates.clone();
        let built_in = || catalog::rates(provider.row.name, &normal(model));
        own.map(|(_, rates)| rates.clone()).or_else(file).or_else(built_in)
    }

    /// What the catalogue file says of a model, its limits too.
    pub fn known(&self, provider: &Provider, model: &str) -> Option<&catalog::Known> {
        self.file.find(provider.row.name, &normal(model)).map(|known| &**known)
    }
}

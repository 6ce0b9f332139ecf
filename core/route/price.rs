//! What a target costs: the user's own `[[pricing]]` first, then the catalogue. Asked once for each target, when it is
//! made.

use std::sync::Arc;

use crate::{
    account::{
        catalog,
        price::{Function, Rates},
    },
    auth::wildcard,
    config::{self, Config, Problem},
    provider::{Provider, capability::normal},
};

/// The user's own prices, those that say most first, and the catalogue file.
#[derive(Debug, Default)]
pub struct PriceList {
    own: Vec<(String, Own)>,
    file: catalog::Prices,
}

/// Prices of the user's own.
#[derive(Debug)]
enum Own {
    Table(Arc<Rates>),
    Function(Arc<dyn Function>, Box<config::PriceSheet>),
}

impl PriceList {
    /// Functions are compiled and proved here: one that fails is a mistake of the configuration.
    pub fn build(config: &Config, problems: &mut Vec<Problem>) -> PriceList {
        let mut own = Vec::new();
        for pricing in &config.pricing {
            let priced = match &pricing.script {
                None => Own::Table(Arc::new(Rates::new(&pricing.sheet))),
                Some(file) => match crate::script::price::compile(&config.sources, file) {
                    Ok(function) => Own::Function(function, Box::new(pricing.sheet.clone())),
                    Err(found) => {
                        problems.extend(found);
                        continue;
                    }
                },
            };
            own.push((pricing.model.clone(), priced));
        }
        // A whole name before a pattern, a long pattern before a short one.
        own.sort_by_key(|(model, _)| (model.contains('*'), std::cmp::Reverse(model.len())));
        PriceList { own, file: catalog::Prices::new(&config.catalogue) }
    }

    /// `name`: `provider/model`.
    pub fn find(&self, name: &str, provider: &Provider, model: &str) -> Option<Arc<Rates>> {
        let own = self.own.iter().find(|(pattern, _)| wildcard(pattern, name) || wildcard(pattern, model));
        let own = own.map(|(_, own)| match own {
            Own::Table(rates) => rates.clone(),
            Own::Function(function, sheet) => Arc::new(Rates::by(function, sheet, name)),
        });
        let file = || self.known(provider, model)?.rates.clone();
        let built_in = || catalog::rates(provider.row.name, &normal(model));
        own.or_else(file).or_else(built_in)
    }

    /// What the catalogue file says of a model, its limits too.
    pub fn known(&self, provider: &Provider, model: &str) -> Option<&catalog::Known> {
        self.file.find(provider.row.name, &normal(model)).map(|known| &**known)
    }
}

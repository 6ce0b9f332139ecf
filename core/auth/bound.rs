//! A scope and what binds those who belong to it: terms, limits, budgets. Shared by all its principals.

use std::sync::{Arc, LazyLock};

use crate::config::{Rule, Scope, Terms};

/// A scope with its terms.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    pub scope: Scope,
    /// As messages call it.
    pub name: Arc<str>,
    /// All but limits and budgets; those who say nothing more share one.
    pub terms: Arc<Terms>,
    /// Limits and budgets as they are counted.
    pub rule: Option<Arc<Rule>>,
}

impl Bound {
    pub fn new(scope: Scope, name: &Arc<str>, terms: Terms) -> Arc<Bound> {
        static NOTHING: LazyLock<Arc<Terms>> = LazyLock::new(Arc::default);
        let Terms { limits, budgets, fallback, .. } = terms;
        let rule = Rule::falling_back(scope.clone(), name, limits, budgets, fallback);
        let rest = Terms { limits: None, budgets: Arc::default(), fallback: Arc::default(), ..terms };
        let terms = if rest == **NOTHING { NOTHING.clone() } else { Arc::new(rest) };
        Arc::new(Bound { scope, name: name.clone(), terms, rule: rule.map(Arc::new) })
    }

    pub(super) fn says_something(&self) -> bool {
        self.terms.models.is_some() || self.rule.is_some() || self.is_rare()
    }

    /// More than models, limits and budgets.
    pub fn is_rare(&self) -> bool {
        let Terms { operations, networks, defaults, caps, tags, priority, share, data, .. } = &*self.terms;
        operations.is_some()
            || !networks.is_empty()
            || !defaults.is_empty()
            || caps.any()
            || !tags.is_empty()
            || priority.is_some()
            || share.is_some()
            || data.is_some()
    }
}

//! Budgets of whom no file names, for a list of them: of organisations, teams and users of the store, and of keys. A page at a
//! time, so that a million keys with a budget each cost a look at them and no memory. Knows nothing of what was spent.

use std::{collections::BTreeMap, sync::Arc};

use super::{Blocked, Table};
use crate::{
    auth::{
        directory::{Directory, Sort},
        permission::{Reach, Target},
    },
    config::{Budget, Per, Rule, Scope},
};

/// By scope and window: whose it is, as messages call it, and the budget.
pub type Funds = BTreeMap<(Scope, Per), (Arc<str>, Budget)>;

/// Which budgets a page has.
pub struct Page<'a> {
    /// Behind this one.
    pub after: Option<&'a (Scope, Per)>,
    pub limit: usize,
    /// Of things that lie where this says; `None`: of all.
    pub sees: Option<&'a dyn Fn(&Target) -> bool>,
}

impl Table {
    /// The first budgets of a page, of these rules, of identities of the store and of keys.
    pub fn funds<'r>(&self, of_files: impl Iterator<Item = &'r Rule>, page: &Page<'_>) -> Funds {
        let mut found = Funds::new();
        // Whoever changes a key holds this one first.
        let directory = self.directory();
        for rule in of_files {
            page.take(&mut found, rule, || lies(&directory, &rule.scope));
        }
        for sort in Sort::ALL {
            let stored = directory.all(sort).into_iter().filter(|(name, _)| !directory.in_file(sort, name));
            for (_, identity) in stored {
                if let Some(rule) = &identity.bound.rule {
                    page.take(&mut found, rule, || lies(&directory, &rule.scope));
                }
            }
        }
        for entry in self.entries.iter().filter(|entry| entry.blocked() != Blocked::Revoked) {
            let principal = &entry.principal;
            if let Some(rule) = principal.own.as_ref().and_then(|own| own.rule.as_ref()) {
                let (team, user) = (principal.team.as_deref(), principal.user.as_deref());
                page.take(&mut found, rule, || match (team, user) {
                    (None, None) => Target::Gateway,
                    _ => Target::Of(directory.place(team, user)),
                });
            }
        }
        found
    }
}

impl Page<'_> {
    fn take(&self, found: &mut Funds, rule: &Rule, target: impl FnOnce() -> Target) {
        let full = found.len() >= self.limit;
        let comes = |per: Per| {
            let place = (&rule.scope, per);
            let behind = self.after.is_none_or(|(scope, of)| place > (scope, *of));
            let before = !full || found.last_key_value().is_some_and(|((scope, of), _)| place < (scope, *of));
            behind && before
        };
        if !rule.budgets.iter().any(|budget| comes(budget.per)) || self.sees.is_some_and(|sees| !sees(&target())) {
            return;
        }
        for budget in rule.budgets.iter() {
            if self.after.is_none_or(|(scope, of)| (&rule.scope, budget.per) > (scope, *of)) {
                found.insert((rule.scope.clone(), budget.per), (rule.name.clone(), *budget));
            }
        }
        while found.len() > self.limit {
            found.pop_last();
        }
    }
}

/// What no team, user or organisation owns is the gateway's.
fn lies(directory: &Directory, scope: &Scope) -> Target {
    match scope {
        Scope::Organisation(name) => directory.lies(&Reach::Organisation(name.clone())),
        Scope::Team(name) => directory.lies(&Reach::Team(name.clone())),
        Scope::User(name) => directory.lies(&Reach::User(name.clone())),
        _ => Target::Gateway,
    }
}

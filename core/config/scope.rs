//! Whose limits and budgets: the scopes that a request lies in, and what binds it in each. Plain data, carried by every
//! principal; it counts nothing.

use std::sync::Arc;

use super::{Budget, Limits};

/// A scope, by what it is identified by: names, for keys the id, for tags `name=value`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    Organisation(Arc<str>),
    Team(Arc<str>),
    User(Arc<str>),
    Key(Arc<str>),
    /// The name that was asked for.
    Model(Arc<str>),
    Provider(Arc<str>),
    Tag(Arc<str>),
}

/// What binds everybody in one scope together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub scope: Scope,
    /// As messages call it.
    pub name: Arc<str>,
    pub limits: Option<Limits>,
    /// All of them bind.
    pub budgets: Arc<[Budget]>,
}

impl Scope {
    pub fn kind(&self) -> &'static str {
        match self {
            Scope::Organisation(_) => "organisation",
            Scope::Team(_) => "team",
            Scope::User(_) => "user",
            Scope::Key(_) => "key",
            Scope::Model(_) => "model",
            Scope::Provider(_) => "provider",
            Scope::Tag(_) => "tag",
        }
    }

    pub fn id(&self) -> &Arc<str> {
        match self {
            Scope::Organisation(id)
            | Scope::Team(id)
            | Scope::User(id)
            | Scope::Key(id)
            | Scope::Model(id)
            | Scope::Provider(id)
            | Scope::Tag(id) => id,
        }
    }
}

impl Rule {
    /// `None`: nothing binds there.
    pub fn of(scope: Scope, name: &Arc<str>, limits: Option<Limits>, budgets: Arc<[Budget]>) -> Option<Rule> {
        let limits = limits.and_then(Limits::any);
        (limits.is_some() || !budgets.is_empty()).then(|| Rule { scope, name: name.clone(), limits, budgets })
    }
}

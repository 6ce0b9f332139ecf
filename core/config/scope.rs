//! Whose limits and budgets: the scopes that a request lies in, and what binds it in each. Plain data, carried by every
//! principal; it counts nothing.

use std::{collections::BTreeMap, sync::Arc};

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
    /// `provider/model`.
    Target(Arc<str>),
    /// One of a provider's keys: its name and the beginning of the key's hash.
    ProviderKey(Arc<str>),
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
    /// Models that a request goes to when a budget refuses it; empty: it is refused.
    pub fallback: Arc<[String]>,
}

/// What binds whoever calls: by the model's public name, the provider and the tag (`name=value`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    pub models: BTreeMap<Arc<str>, Rule>,
    pub providers: BTreeMap<Arc<str>, Rule>,
    pub tags: BTreeMap<Arc<str>, Rule>,
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
            Scope::Target(_) => "target",
            Scope::ProviderKey(_) => "provider_key",
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
            | Scope::Tag(id)
            | Scope::Target(id)
            | Scope::ProviderKey(id) => id,
        }
    }

    /// From its two words; `None`: there is no such kind, or no name.
    pub fn of(kind: &str, id: &str) -> Option<Scope> {
        if id.is_empty() {
            return None;
        }
        let id = || Arc::<str>::from(id);
        Some(match kind {
            "organisation" => Scope::Organisation(id()),
            "team" => Scope::Team(id()),
            "user" => Scope::User(id()),
            "key" => Scope::Key(id()),
            "model" => Scope::Model(id()),
            "provider" => Scope::Provider(id()),
            "tag" => Scope::Tag(id()),
            "target" => Scope::Target(id()),
            "provider_key" => Scope::ProviderKey(id()),
            _ => return None,
        })
    }

    /// As people write it: `team:research`.
    pub fn parse(text: &str) -> Option<Scope> {
        let (kind, id) = text.split_once(':')?;
        Scope::of(kind, id)
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.kind(), self.id())
    }
}

impl Rule {
    /// `None`: nothing binds there.
    pub fn of(scope: Scope, name: &Arc<str>, limits: Option<Limits>, budgets: Arc<[Budget]>) -> Option<Rule> {
        Rule::falling_back(scope, name, limits, budgets, Arc::default())
    }

    /// The same, with where its requests go when a budget refuses them: also when the budget is another scope's.
    pub fn falling_back(
        scope: Scope,
        name: &Arc<str>,
        limits: Option<Limits>,
        budgets: Arc<[Budget]>,
        fallback: Arc<[String]>,
    ) -> Option<Rule> {
        let limits = limits.and_then(Limits::any);
        let binds = limits.is_some() || !budgets.is_empty() || !fallback.is_empty();
        binds.then(|| Rule { scope, name: name.clone(), limits, budgets, fallback })
    }
}

impl Rules {
    pub fn all(&self) -> impl Iterator<Item = &Rule> {
        self.models.values().chain(self.providers.values()).chain(self.tags.values())
    }

    /// Those of a request's tags.
    pub fn tagged<'a>(&'a self, tags: &'a [(String, String)]) -> impl Iterator<Item = &'a Rule> {
        // Nearly nobody has a rule for a tag; and a few are found before a name is put together.
        let tags = if self.tags.is_empty() { &[] } else { tags };
        tags.iter().filter_map(|(name, value)| match self.tags.len() <= FEW {
            true => self.tags.iter().find(|(own, _)| is_tag(own, name, value)).map(|(_, rule)| rule),
            false => self.tags.get(format!("{name}={value}").as_str()),
        })
    }
}

fn is_tag(own: &str, name: &str, value: &str) -> bool {
    own.len() == name.len() + 1 + value.len()
        && own.as_bytes()[name.len()] == b'='
        && own.starts_with(name)
        && own.ends_with(value)
}

const FEW: usize = 8;

//! Who calls, and who may do what: virtual keys and signed tokens to principals, from tables in memory; organisations, teams
//! and users; one table of permissions. The store is read at the start and written by the control plane; it is never on a
//! request's path.

use std::{net::IpAddr, sync::Arc};

pub mod bound;
pub mod credential;
pub mod cut;
pub mod directory;
pub mod expiry;
pub mod identities;
pub mod jwt;
pub mod keys;
pub mod local;
pub mod permission;
mod revision;
mod row;
mod shown;
mod sync;
pub mod table;
pub mod terms;
pub mod tokens;
mod unwritten;

pub use credential::{credential, in_protocol};
pub use keys::{Keys, NewKey};
pub use row::KeyInfo;
pub use table::{Table, member};

use self::{bound::Bound, cut::Shard, directory::Directory};
use crate::{
    config::{Caps, DataPolicy, Rule, Scope, Urgency},
    error::{Error, Kind, Result},
    model::Operation,
};

/// The caller, as every later step sees it.
#[derive(Debug, Clone, Default)]
pub struct Principal {
    /// `key_…`, `jwt_…`; empty for the open gateway's anonymous caller.
    pub key_id: Arc<str>,
    pub key_name: Arc<str>,
    pub organisation: Option<Arc<str>>,
    pub team: Option<Arc<str>>,
    pub user: Option<Arc<str>>,
    pub roles: Arc<[String]>,
    /// Allowed models with wildcards (`openai/*`), a list for each scope that has one: all of them must be passed.
    pub models: Arc<[Allowed]>,
    /// What binds it in each of its scopes; all of them hold, each by itself. Empty for most.
    pub rules: Arc<[Arc<Rule>]>,
    /// Scopes that say more than models, limits and budgets: the key's first, then its user's, team's, organisation's. Empty
    /// for most.
    pub terms: Arc<[Arc<Bound>]>,
    /// What its key or token says itself.
    pub(crate) own: Option<Arc<Bound>>,
    /// Why it may call nothing.
    pub(crate) denied: Option<Arc<Error>>,
    /// Where it hears that its running requests are to end.
    pub(crate) cut: Shard,
}

/// A list of models, and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Allowed {
    pub scope: Scope,
    pub models: Arc<[String]>,
}

impl Principal {
    /// What scopes caches, kv, records and ids: the team, or the key itself when it has none.
    pub fn tenant(&self) -> &str {
        self.team.as_deref().unwrap_or(&self.key_id)
    }

    /// The open gateway's caller without a key.
    pub fn is_anybody(&self) -> bool {
        self.key_id.is_empty()
    }

    /// May this caller use a model by this name (an alias, or `provider/model`)?
    pub fn may_use(&self, model: &str) -> bool {
        self.models.iter().all(|list| list.models.iter().any(|pattern| wildcard(pattern, model)))
    }

    /// Held to these models too, as a key's own list does.
    pub fn with_models(mut self, models: impl Into<Arc<[String]>>) -> Principal {
        let own = Allowed { scope: Scope::Key(self.key_id.clone()), models: models.into() };
        self.models = [own].into_iter().chain(self.models.iter().cloned()).collect();
        self
    }

    /// The list of one kind of scope (`key`, `team`), if it has one.
    pub fn models_of(&self, kind: &str) -> Option<&[String]> {
        self.models.iter().find(|list| list.scope.kind() == kind).map(|list| &*list.models)
    }

    /// May it do this at all, and from this address? Costs nothing for who has no such terms. `from`: unknown in a rehearsal.
    #[inline]
    pub fn admits(&self, operation: Operation, from: Option<IpAddr>) -> Result<()> {
        if self.terms.is_empty() && self.denied.is_none() {
            return Ok(());
        }
        self.looked_at(operation, from)
    }

    #[cold]
    fn looked_at(&self, operation: Operation, from: Option<IpAddr>) -> Result<()> {
        if let Some(error) = &self.denied {
            return Err(error.copy());
        }
        let refuse = |code: &'static str, message: String| Err(Error::new(Kind::Forbidden, message).with_code(code));
        for bound in &*self.terms {
            let (kind, terms) = (bound.scope.kind(), &bound.terms);
            if let Some(from) = from.map(|from| from.to_canonical())
                && !terms.networks.is_empty()
                && !terms.networks.iter().any(|network| network.contains(&from))
            {
                return refuse("address_not_allowed", format!("calls of this {kind} may not come from {from}"));
            }
            let name = operation.name();
            if terms.operations.as_ref().is_some_and(|list| !list.iter().any(|allowed| allowed == name)) {
                return refuse("operation_not_allowed", format!("this {kind} may not use the operation {name}"));
            }
        }
        // What no codec reads cannot be held to anything.
        let unread = matches!(operation, Operation::Passthrough | Operation::Realtime | Operation::CreateBatch);
        if unread && self.caps().any() {
            let name = operation.name();
            return refuse(
                "operation_not_allowed",
                format!("the caps of this caller cannot be held on the operation {name}, so it is refused"),
            );
        }
        Ok(())
    }

    /// What its parameters are held to: the strictest of all its scopes.
    pub fn caps(&self) -> Caps {
        self.terms.iter().fold(Caps::default(), |caps, bound| caps.and(bound.terms.caps))
    }

    /// What its requests have, and the highest priority that they may ask for.
    pub fn priority(&self) -> Option<Urgency> {
        self.terms.iter().filter_map(|bound| bound.terms.priority).min()
    }

    /// Its part of the places when several wait for one.
    pub fn share(&self) -> u32 {
        self.terms.iter().find_map(|bound| bound.terms.share).unwrap_or(1)
    }

    /// The same as `tenant`, to be kept.
    pub fn flow(&self) -> &Arc<str> {
        self.team.as_ref().unwrap_or(&self.key_id)
    }

    /// What its scopes demand of targets, each by itself; none for most.
    pub fn data(&self) -> impl Iterator<Item = (&Bound, &DataPolicy)> {
        self.terms.iter().filter_map(|bound| Some((&**bound, bound.terms.data.as_ref()?)))
    }

    /// Of all its scopes, the key's own first.
    pub fn tags(&self) -> impl Iterator<Item = &(String, String)> {
        self.terms.iter().flat_map(|bound| bound.terms.tags.iter())
    }

    fn set_lists(&mut self, lists: Lists) {
        let Lists { models, rules, terms } = lists;
        (self.models, self.rules, self.terms) = (models, rules, terms);
    }

    /// Bound by what this directory says of its scopes.
    fn bound_by(mut self, directory: &Directory) -> Principal {
        directory.bind(&mut self);
        self
    }
}

/// What binds a caller, put together. Callers who are bound by the same scopes share it.
#[derive(Debug, Clone, Default)]
struct Lists {
    models: Arc<[Allowed]>,
    rules: Arc<[Arc<Rule>]>,
    terms: Arc<[Arc<Bound>]>,
}

impl Lists {
    fn of(bounds: &[Arc<Bound>]) -> Lists {
        let allowed =
            |bound: &Arc<Bound>| Some(Allowed { scope: bound.scope.clone(), models: bound.terms.models.clone()? });
        Lists {
            models: list(bounds.iter().filter_map(allowed)),
            rules: list(bounds.iter().filter_map(|bound| bound.rule.clone())),
            terms: list(bounds.iter().filter(|bound| bound.is_rare()).cloned()),
        }
    }
}

/// Most are empty, and all empty ones are the same.
fn list<T>(items: impl Iterator<Item = T>) -> Arc<[T]> {
    let mut items = items.peekable();
    if items.peek().is_none() { Arc::default() } else { items.collect() }
}

/// `*` stands for any run of characters.
pub fn wildcard(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests;
